"""Chunks of activity streams: what is drawn, in what order, and how it is changed."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tokenturing.tasks.activity.augment import AugmentOptions, change, read_at, rotation, warp
from tokenturing.tasks.activity.batches import ActivityBatches, Walker
from tokenturing.tasks.activity.streams import Stream

ONES = np.ones(1, np.float32)


def stream(name: str, length: int, parts: tuple[int, ...] = (0,), first: int = 0) -> Stream:
    """Its one feature says which step it is, and its label which part."""
    steps = np.arange(first, first + length)
    labels = np.searchsorted(np.array(parts), np.arange(length), side="right") - 1
    features = steps.astype(np.float32).reshape(-1, 1, 1)
    return Stream(name, name, features, labels, steps + 1.0, np.ones(length, bool), parts)


def walker(streams: list[Stream], **augment: float) -> Walker:
    return Walker(streams, 0, AugmentOptions(**augment), 0 * ONES, ONES, seed=(0, 0))


def drawn(batches: ActivityBatches, chunks: int) -> Any:
    """Features [B, T * chunks], labels and resets."""
    found = [next(batches) for _ in range(chunks)]
    columns = ([one.inputs[..., 0, 0] for one in found], [one.targets.labels for one in found], [one.reset for one in found])
    return [torch.cat(column, dim=1).numpy() for column in columns]


def test_streams_go_on_from_chunk_to_chunk() -> None:
    features, _, reset = drawn(ActivityBatches(walker([stream("a", 23), stream("b", 31, first=100)]), range(6), 8, False), 30)
    for row, resets in zip(features, reset, strict=True):
        assert resets[0]
        jumps = np.append(True, np.diff(row) != 1)
        # A stream that ends where another begins by chance at the next step makes no jump; numbers here exclude it.
        assert np.array_equal(jumps, resets), "a reset where a walk begins, and nowhere else"
        begins = row[resets]
        assert {0.0, 100.0} & set(begins.tolist()), "some walks are from the begin"
        assert set(begins.tolist()) - {0.0, 100.0}, "and some are not"
        ends = row[np.append(resets[1:], False)]
        assert set(ends.tolist()) <= {22.0, 130.0}, "each goes on to its stream's end"


def test_windows_begin_afresh_and_anywhere() -> None:
    features, _, reset = drawn(ActivityBatches(walker([stream("a", 40)]), range(4), 8, True), 75)
    assert reset[:, ::8].all()
    assert reset[:, 1:][np.diff(features) != 1].all(), "steps are in a row but where a window begins"
    ends = features[:, 7::8]
    assert set(ends.ravel().tolist()) == set(range(40)), "each step is the last of a window, the first ones too"


def test_a_short_window_is_at_the_end_behind_others() -> None:
    features, _, reset = drawn(ActivityBatches(walker([stream("a", 5)]), range(2), 12, True), 20)
    for row, resets in zip(features.reshape(-1, 12), reset.reshape(-1, 12), strict=True):
        begin = np.flatnonzero(resets)[-1]
        assert np.array_equal(row[begin:], np.arange(12 - begin)), "the last is from the stream's begin"
    assert set(features[:, 11::12].ravel().tolist()) == set(range(5))


@pytest.mark.parametrize("windows", [False, True])
def test_parts_come_whole_and_in_new_orders(windows: bool) -> None:
    one = stream("a", 30, parts=(0, 10, 20))
    features, labels, reset = drawn(ActivityBatches(walker([one]), range(9), 30, windows), 36)
    orders = set()
    for row, own, resets in zip(features, labels, reset, strict=True):
        begins = [*np.flatnonzero(resets).tolist(), len(row)]
        for begin, end in itertools.pairwise(begins):
            if end - begin == 30:
                assert sorted(row[begin:end].tolist()) == list(range(30))
                assert np.array_equal(own[begin:end], row[begin:end] // 10)
                orders.add(tuple(own[begin:end:10].tolist()))
    assert len(orders) > 2


@pytest.mark.parametrize("windows", [False, True])
def test_labels_keep_to_their_features_at_any_tempo(windows: bool) -> None:
    one = stream("a", 60, parts=(0, 25))
    features, labels, _ = drawn(ActivityBatches(walker([one], warp=0.4), range(4), 20, windows), 10)
    assert not np.isin(features, np.arange(60)).all(), "it is read between the steps"
    sure = (features < 24) | (features > 25)
    assert np.array_equal(labels[sure], (features[sure] > 24.5).astype(int))


def test_the_tempo_changes_the_length_and_keeps_the_ends() -> None:
    rng = np.random.default_rng(0)
    lengths = []
    for _ in range(200):
        places = warp(100, 0.3, rng)
        assert places[0] == 0
        assert 96 < places[-1] <= 99
        assert (np.diff(places) > 0).all()
        lengths.append(len(places))
    assert 60 < min(lengths) < 90 < 110 < max(lengths) < 200
    assert np.allclose(warp(100, 0.0, rng), np.arange(100)), "the control"
    values = np.array([0.0, 10.0, 20.0], np.float32)
    assert read_at(values, np.array([0.25, 2.0])).tolist() == [2.5, 20.0]


def test_samples_are_warped_one_by_one() -> None:
    """A sensor's samples are in a row through the tokens of a step."""
    samples = np.sin(np.arange(400) / 20).astype(np.float32)
    one = Stream("a", "a", samples.reshape(20, 2, 10), np.zeros(20, int), np.arange(20.0), np.ones(20, bool))
    spread = np.ones(10, np.float32)
    walk = Walker([one], 10, AugmentOptions(warp=0.3), 0 * spread, spread, seed=(0, 1)).window(0, 0, 10)
    steps = np.abs(np.diff(walk.features.ravel()))
    assert walk.features.shape == (10, 2, 10)
    assert steps.max() < 0.12, "no jump between tokens or steps"
    assert np.abs(np.diff(one.features[::2].ravel())).max() > 0.12, "the control"


def test_a_rotation_turns_accelerations_and_rotations_alike() -> None:
    rng = np.random.default_rng(0)
    matrix = rotation(30.0, rng)
    assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-5)
    features = rng.normal(size=(5, 2, 4 * 6)).astype(np.float32)
    zeros, ones = np.zeros(24, np.float32), np.ones(24, np.float32)
    turned = change(features, AugmentOptions(rotate=40.0), 4, zeros, ones, np.random.default_rng(1))
    before, after = features.reshape(-1, 2, 3), turned.reshape(-1, 2, 3)
    assert np.allclose(np.linalg.norm(before, axis=-1), np.linalg.norm(after, axis=-1), atol=1e-4)
    assert not np.allclose(before, after, atol=0.05)
    found, *_ = np.linalg.lstsq(before.reshape(-1, 3), after.reshape(-1, 3), rcond=None)
    assert np.allclose(before @ found, after, atol=1e-4), "by one matrix"
    untouched = change(features, AugmentOptions(rotate=40.0), 0, zeros, ones, np.random.default_rng(1))
    assert np.array_equal(untouched, features), "features that are no samples have no axes"


@pytest.mark.parametrize("kind", ["noise", "scale", "offset", "drop_features", "drop_tokens"])
def test_each_change_does_what_it_says(kind: str) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(5, 1, size=(400, 3, 8)).astype(np.float32)
    mean, deviation = np.full(8, 5, np.float32), np.full(8, 2, np.float32)
    changed = change(features, AugmentOptions(**{kind: 0.3}), 0, mean, deviation, rng)
    assert changed.dtype == np.float32
    if kind == "noise":
        assert (changed - features).std() == pytest.approx(0.6, rel=0.05)
    elif kind == "offset":
        offsets = changed - features
        assert np.allclose(offsets, offsets[0, 0], atol=1e-5)
        assert 0.2 < offsets[0, 0].std() < 1.2
    elif kind == "scale":
        factors = changed / features
        assert np.allclose(factors, factors[0, 0], rtol=1e-5)
        assert len(np.unique(factors[0, 0].round(4))) == 8
    else:
        gone = changed == 5
        assert np.array_equal(changed[~gone], features[~gone])
        axis = (0, 1) if kind == "drop_features" else 2
        whole = gone.all(axis)
        assert np.array_equal(whole, gone.any(axis)), "all of it or nothing"
        assert 0.1 < whole.mean() < 0.5
    assert np.array_equal(change(features, AugmentOptions(), 0, mean, deviation, rng), features), "the control"


def test_pieces_of_recordings_are_put_in_a_row() -> None:
    one = stream("a", 300, parts=(0, 100, 200))
    pieces = Walker([one], 0, AugmentOptions(keep=(0.2, 0.5)), 0 * ONES, ONES, seed=(0, 0))
    found = [pieces.whole(0, number) for number in range(1, 60)]
    assert all(np.isin(np.diff(np.flatnonzero(np.diff(walk.labels))), range(19, 52)).all() for walk in found)
    assert max(len(walk.labels) for walk in found) <= 151
    assert all(np.array_equal(walk.labels, walk.features[:, 0, 0] // 100) for walk in found)
    starts = {walk.features[0, 0, 0] % 100 for walk in found}
    assert len(starts) > 20, "from anywhere in them"


def test_the_other_arm_is_a_mirror_image() -> None:
    rng = np.random.default_rng(0)
    one = Stream(
        "a", "a", rng.normal(size=(40, 1, 12)).astype(np.float32), np.zeros(40, int), np.arange(40.0), np.ones(40, bool), (0, 20)
    )
    signs = (-1.0, 1.0, 1.0, 1.0, -1.0, -1.0)
    ones = np.ones(12, np.float32)
    mirrored = Walker([one], 2, AugmentOptions(mirror=0.5), 0 * ones, ones, seed=(0, 0), mirror=signs)
    kinds = set()
    for number in range(1, 30):
        walk = mirrored.whole(0, number)
        for step in walk.features:
            (place,) = np.flatnonzero((np.abs(np.abs(one.features) - np.abs(step)) < 1e-6).all((1, 2)))
            ratio = (step / one.features[place]).reshape(2, 6)
            assert np.allclose(ratio[0], ratio[1])
            assert tuple(ratio[0].round(3)) in {signs, (1.0,) * 6}
            kinds.add((place >= 20, ratio[0, 0] < 0))
    assert len(kinds) == 4, "each recording by itself"
