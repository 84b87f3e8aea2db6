"""Streams of activities: read as data whatever a file asks for, put in a row, and split so that nobody is tested who was seen."""

import importlib.util
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from activity_files import npz_folder, watch_content, watch_file

from tokenturing.errors import OptionError
from tokenturing.tasks.activity.folders import npz_streams
from tokenturing.tasks.activity.old_arrays import read_old_arrays
from tokenturing.tasks.activity.sensors import MIRROR, as_steps, samples_of, watch_streams
from tokenturing.tasks.activity.sensors import watch_file as watch_file_of_the_package
from tokenturing.tasks.activity.streams import Stream, folds_of, group_of, normalisation, split

SALADS = "^(split[0-9]+)_"


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return len(one) == len(other) and all(map(same, one, other)) if isinstance(one, list) else one == other


# --- pickled arrays, which are not unpickled


def saved(file: Path, content: Any, protocol: int) -> Path:
    """As np.save has it, of any protocol."""
    whole = np.empty((), object)
    whole[()] = content
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    file.write_bytes(header + pickle.dumps(whole, protocol=protocol))
    return file


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_dict_of_arrays_is_read_as_numpy_would(protocol: int, tmp_path: Path) -> None:
    content = watch_content() | {"wide": np.arange(6.0).reshape(2, 3).T, "flags": np.array([True, False]), "big": ">i4"}
    file = saved(tmp_path / "a.npy", content, protocol)
    found = read_old_arrays(file)
    assert same(found, content)
    assert same(found, np.load(file, allow_pickle=True).item())
    found["y"][0] += 1
    assert not same(found, content), "the control; and what is read can be written to"


class Trap:
    """Whoever unpickles it runs what it says."""

    def __init__(self, called: Any, *arguments: Any):
        self.called, self.arguments = called, arguments

    def __reduce__(self) -> tuple[Any, tuple]:
        return self.called, self.arguments


def test_what_is_no_array_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    trap = saved(tmp_path / "trap.npy", {"X": Trap(os.mkdir, str(mark))}, 2)
    with pytest.raises(OptionError, match=r"posix mkdir.*not read"):
        read_old_arrays(trap)
    assert not mark.exists()
    np.load(trap, allow_pickle=True)
    assert mark.exists(), "the control: numpy runs it"
    bomb: Any = [1]
    for _ in range(40):
        bomb = [bomb, bomb]
    with pytest.raises(OptionError, match="more than"):
        read_old_arrays(saved(tmp_path / "bomb.npy", bomb, 2))
    for content in (OrderedDict(a=1), np.array(["text"]), np.array([None, {}]), {"a": Path("b")}, {1, 2}):
        with pytest.raises(OptionError):
            read_old_arrays(saved(tmp_path / "other.npy", {"a": content, "b": content}, 2))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = watch_file(tmp_path / "whole.npy").read_bytes()
    cut, wrong = tmp_path / "cut.npy", tmp_path / "wrong.npy"
    rng = np.random.default_rng(0)
    for length in [0, 5, 100, 128, *rng.integers(128, len(whole) - 1, 20).tolist()]:
        cut.write_bytes(whole[:length])
        with pytest.raises(OptionError):
            read_old_arrays(cut)
    for place in rng.integers(128, 1000, 60).tolist():
        wrong.write_bytes(whole[:place] + bytes([int(rng.integers(256))]) + whole[place + 1 :])
        try:  # a number may be another number, and a text another text
            read_old_arrays(wrong)
        except OptionError:
            continue
    with pytest.raises(OptionError, match="there is no file"):
        read_old_arrays(tmp_path / "nothing.npy")


# --- streams


def test_one_stream_a_subject_with_whole_steps(tmp_path: Path) -> None:
    content = watch_content()
    streams = watch_streams(0.4, 2, 0, watch_file(tmp_path / "w.npy"))
    assert [one.name for one in streams.streams] == [f"subject{number}" for number in range(1, 6)]
    assert streams.classes == ["push", "lift", "row"]
    assert streams.samples == 10
    first = streams.streams[0]
    assert first.features.shape == (6 * 6, 2, 10 * 6), "130 samples are 6 steps of 20, and 10 are left over"
    assert first.parts == (0, 6, 12, 18, 24, 30)
    assert [len(set(first.labels[at : at + 6])) for at in first.parts] == [1] * 6
    recordings = [x[:120].astype(np.float32).ravel() for x, who in zip(content["X"], content["subject"], strict=True) if who == 1]
    ours = [first.features[at : at + 6].ravel() for at in first.parts]
    assert sorted(part.tobytes() for part in ours) == sorted(part.tobytes() for part in recordings)
    again, other = (watch_streams(0.4, 2, order, tmp_path / "w.npy").streams[0] for order in (0, 1))
    assert np.array_equal(again.features, first.features)
    assert not np.array_equal(other.features, first.features), "the control: another order"


def test_samples_stay_in_their_order() -> None:
    recording = np.arange(47 * 6).reshape(47, 6)
    steps = as_steps(recording, 0.4, 2)
    assert steps.dtype == np.float32
    assert np.array_equal(steps.reshape(-1, 6), recording[:40])
    with pytest.raises(OptionError, match="whole number"):
        samples_of(0.41, 2)
    with pytest.raises(OptionError, match="that the tokens divide"):
        samples_of(0.4, 3)


def sides() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The recordings of the left and of the right arm."""
    content = read_old_arrays(watch_file_of_the_package())
    return tuple([x for x, side in zip(content["X"], content["side"], strict=True) if side == which] for which in (0, 1))  # type: ignore[return-value]


@pytest.mark.skipif(importlib.util.find_spec("seglearn") is None, reason="seglearn is not installed")
def test_the_package_has_ten_subjects() -> None:
    streams = watch_streams(0.4, 2, 0)
    assert len(streams.streams) == 10
    assert {len(one.parts) for one in streams.streams} == {14}
    assert len(streams.classes) == 7
    assert sum(len(one.labels) for one in streams.streams) == 12136
    _, deviation = normalisation(streams.streams, streams.samples)
    assert np.allclose(deviation[:6], [0.645] * 3 + [1.51] * 3, atol=0.02)
    left, right = (np.concatenate(part).mean(0) for part in sides())
    assert np.abs(left - right).max() > 4 * np.abs(left * MIRROR - right).max(), "the arms are mirror images"


def test_a_folder_of_npz_files(tmp_path: Path) -> None:
    folder = npz_folder(tmp_path / "salads")
    streams = npz_streams(str(folder), SALADS, 2.0)
    assert streams.groups == ["split1", "split2", "split3"]
    assert [one.name for one in streams.streams[:2]] == ["split1_video01", "split1_video02"]
    one = streams.streams[0]
    assert one.features.shape == (33, 1, 4)
    assert np.allclose(one.times[:2], [0.5, 1.0])
    assert streams.classes == ["0", "1", "2"]
    (folder / "classes.txt").write_text("peel\ncut\nmix\n")
    assert npz_streams(str(folder), SALADS, 2.0).classes == ["peel", "cut", "mix"]
    (folder / "classes.txt").write_text("peel\n")
    with pytest.raises(OptionError, match="names 1 classes, and the labels have 3"):
        npz_streams(str(folder), SALADS, 2.0)
    with pytest.raises(OptionError, match="has no group"):
        npz_streams(str(folder), "^(part[0-9])", 2.0)
    with pytest.raises(OptionError, match=re.escape("--set data.path=FOLDER")):
        npz_streams("", SALADS, 2.0)


def test_unknown_steps_are_counted(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.ones((5, 2), np.float32), labels=np.array([0, 1, -1, -1, 2]))
    streams = npz_streams(str(tmp_path), "", 1.0)
    assert streams.problems == ["a: 2 of 5 steps have no label"]
    assert streams.streams[0].known.tolist() == [True, True, False, False, True]
    assert streams.groups == ["a"]


# --- who is tested


def test_nobody_is_in_two_parts(tmp_path: Path) -> None:
    streams = npz_streams(str(npz_folder(tmp_path / "s", splits=4)), SALADS, 1.0)
    tested = []
    for fold in range(2):
        parts = split(streams, fold, 2, 0.34)
        names = [[one.name for one in part] for part in parts]
        assert sorted(name for part in names for name in part) == sorted(one.name for one in streams.streams)
        assert len(names[1]) == 2
        assert {one.group for one in parts.test}.isdisjoint({one.group for one in (*parts.train, *parts.validation)})
        tested += names[2]
        assert names == [[one.name for one in part] for part in split(streams, fold, 2, 0.34)], "the same each time"
    assert sorted(tested) == sorted(one.name for one in streams.streams), "the folds test everything once"
    everything = split(streams, -1, 2, 0.0)
    assert len(everything.train) == len(streams.streams)
    assert not everything.test


def test_whole_groups_to_validate_on_follow_the_tested_ones(tmp_path: Path) -> None:
    streams = npz_streams(str(npz_folder(tmp_path / "s", splits=5)), SALADS, 1.0)
    found = [
        [sorted({one.group[-1] for one in part}) for part in split(streams, fold, 1, 0.3, validation_groups=2)] for fold in (0, 3)
    ]
    assert found == [[["4", "5"], ["2", "3"], ["1"]], [["2", "3"], ["1", "5"], ["4"]]]
    everything = split(streams, -1, 1, 0.3, validation_groups=1)
    assert [len(part) for part in everything] == [12, 3, 0]
    by_share = split(streams, 0, 1, 0.3)
    assert {one.group for one in by_share.validation} & {one.group for one in by_share.train}, "the control"
    with pytest.raises(OptionError, match="validation_groups=4 of 4 groups"):
        split(streams, 0, 1, 0.3, validation_groups=4)


def test_folds_that_cannot_be_are_refused(tmp_path: Path) -> None:
    streams = npz_streams(str(npz_folder(tmp_path / "s")), SALADS, 1.0)
    with pytest.raises(OptionError, match=r"data.fold=3 of 3 folds: expected 0 to 2"):
        split(streams, 3, 1, 0.1)
    with pytest.raises(OptionError, match="expected fewer"):
        split(streams, 0, 3, 0.1)
    with pytest.raises(OptionError, match="expected more streams"):
        split(streams, 0, 2, 0.9)
    with pytest.raises(OptionError, match="no stream is of the group 'test'"):
        split(streams, 0, 1, 0.1, "test")
    assert folds_of(["a", "test"], 1, "test") == [["test"]]
    assert folds_of(["1", "2", "3"], 2) == [["1", "2"], ["3"]]
    assert group_of("anything", "") == "anything"


def test_sensors_keep_their_directions() -> None:
    rng = np.random.default_rng(0)
    recording = rng.normal(3, [1, 2, 3, 10, 20, 30], size=(200, 6))
    steps = as_steps(recording, 0.4, 2)
    stream = Stream("a", "a", steps, np.zeros(10, np.int64), np.arange(10.0), np.ones(10, bool))
    mean, deviation = normalisation([stream], 10)
    assert mean.shape == deviation.shape == (60,)
    assert not mean.any()
    both = recording.std(0).reshape(2, 3).mean(1)
    assert np.allclose(deviation.reshape(10, 6), np.repeat(both, 3), rtol=1e-5)
    mean, deviation = normalisation([stream], 0)
    assert np.allclose(mean, steps.mean((0, 1)), atol=1e-4), "features that are no samples have each its own"
    assert np.allclose(deviation, steps.std((0, 1)), rtol=1e-4)
