"""Metrics of activity detection: against examples worked by hand, and scikit-learn where it has the same."""

from collections.abc import Callable

import numpy as np
import pytest

from tokenturing.errors import ShapeError
from tokenturing.tasks.activity.judge import Precisions, Watched, figures, shares
from tokenturing.tasks.activity.metrics import (
    Latency,
    Segment,
    average_precisions,
    calibrated_average_precisions,
    charades_map,
    detection_latency,
    edit_score,
    frame_accuracy,
    mean_average_precision,
    mean_calibrated_average_precision,
    segmental_f1,
    segments,
)


def labels(text: str) -> np.ndarray:
    """ "aab" -> [0, 0, 1]"""
    return np.array([ord(letter) - ord("a") for letter in text])


def test_average_precision_by_hand() -> None:
    """Sorted by score the truth is 1 0 1 0: precision 1 at the first, 2/3 at the second."""
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    truth = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    found = average_precisions(scores, truth)
    assert found[0] == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(found[1])
    assert mean_average_precision(scores, truth) == pytest.approx(5 / 6)


def test_background_is_left_out() -> None:
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.6], [0.3, 0.4, 0.9]])
    truth = np.eye(3, dtype=bool)
    worse = scores.copy()
    worse[:, 0] = [0.1, 0.2, 0.3]
    assert mean_average_precision(worse, truth, ignored=[0]) == mean_average_precision(scores, truth, ignored=[0]) == 1.0
    assert mean_average_precision(worse, truth) < 1


def test_calibrated_precision_by_hand() -> None:
    """One in four frames: w = 3. Sorted: 0 1 0 0, so the precision at the positive is 3 / (3 + 1)."""
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    truth = np.array([[0], [1], [0], [0]], bool)
    assert calibrated_average_precisions(scores, truth)[0] == pytest.approx(3 / 4)
    assert average_precisions(scores, truth)[0] == pytest.approx(1 / 2)
    assert mean_calibrated_average_precision(scores, truth) == pytest.approx(3 / 4)


def test_calibrated_is_plain_where_classes_are_even() -> None:
    generator = np.random.default_rng(0)
    scores, truth = generator.random((200, 3)).round(1), np.repeat([[True], [False]], 100, axis=0).repeat(3, axis=1)
    assert calibrated_average_precisions(scores, truth) == pytest.approx(average_precisions(scores, truth))
    assert calibrated_average_precisions(scores[:100], truth[:100]) == pytest.approx(1.0)


def test_calibration_undoes_rarity() -> None:
    """Ten times the frames without the class, with scores as before, change the plain AP and not the calibrated one."""
    generator = np.random.default_rng(1)
    with_it, without = generator.random((50, 1)) + 0.3, generator.random((50, 1))
    truth = np.repeat([[True], [False]], 50, axis=0)
    rare, rare_truth = np.concatenate([with_it, *[without] * 10]), np.repeat([True, False], [50, 500])[:, None]
    even = np.concatenate([with_it, without])
    assert calibrated_average_precisions(rare, rare_truth) == pytest.approx(calibrated_average_precisions(even, truth))
    assert average_precisions(rare, rare_truth) < average_precisions(even, truth) - 0.1


def test_charades_takes_25_frames_of_each_video() -> None:
    """Long videos count no more than short ones; what lies between the frames does not count."""
    scores = [np.zeros((50, 2)), np.zeros((1000, 2))]
    truth = [np.zeros((50, 2), bool), np.zeros((1000, 2), bool)]
    truth[0][::2, 0] = scores[0][::2, 0] = True
    truth[1][:500, 1] = scores[1][:500, 1] = True
    scores[0][1::2, 1] = 5.0
    assert charades_map(scores, truth) == 1.0
    scores[1][0, 0] = 5.0
    assert charades_map(scores, truth) < 1.0


def test_segments() -> None:
    assert segments(labels("aabbba")) == [Segment(0, 2, 0), Segment(2, 5, 1), Segment(5, 6, 0)]
    assert segments(labels("")) == []


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        ("aabbcc", "abbbcc", 1.0),
        ("aabbaa", "aabbcc", 1 - 1 / 3),
        ("abcabc", "aabbcc", 1 - 3 / 6),
        ("aaaaaa", "aabbcc", 1 - 2 / 3),
        ("dddddd", "aabbcc", 0.0),
    ],
)
def test_edit_score_by_hand(predicted: str, truth: str, expected: float) -> None:
    assert edit_score(labels(predicted), labels(truth)) == pytest.approx(expected)


def test_edit_score_without_background() -> None:
    assert edit_score(labels("azazb"), labels("aaabb"), background=[25]) == pytest.approx(1 - 1 / 3)
    assert edit_score(labels("zz"), labels("zz"), background=[25]) == 1.0


def test_segmental_f1_by_hand() -> None:
    """Truth: aaaa bbbb. Guess: aa cc bbbb - a meets half of its segment, c is none, b is exact."""
    truth, guess = [labels("aaaabbbb")], [labels("aaccbbbb")]
    assert segmental_f1(guess, truth, 0.5) == pytest.approx(2 * 2 / (2 * 2 + 1 + 0))
    assert segmental_f1(guess, truth, 0.75) == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))
    assert segmental_f1(truth, truth, 1.0) == 1.0


def test_a_true_segment_is_met_once() -> None:
    """Broken in two, one part is right and the other is one too many."""
    truth, guess = [labels("aaaaaaaaaa")], [labels("aaaaabaaaa")]
    assert segmental_f1(guess, truth, 0.25) == pytest.approx(2 / (2 + 2))


def test_latency_by_hand() -> None:
    truth = [labels("aaaabbbbcc")]
    guess = [labels("baaaabbbbb")]
    assert detection_latency(guess, truth) == Latency(2 / 3, 1.0)
    assert detection_latency(guess, truth, background=[0, 1])[0] == 0.0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_without_an_order_are_not_judged(wrong: float) -> None:
    scores, truth = np.random.default_rng(0).random((10, 2)), np.arange(10)[:, None] < (3, 5)
    scores[7, 1] = wrong
    ways: list[Callable[[np.ndarray], object]] = [
        lambda scores: average_precisions(scores, truth),
        lambda scores: calibrated_average_precisions(scores, truth),
        lambda scores: charades_map([scores], [truth]),
        lambda scores: Precisions([scores], [truth]),
        lambda scores: figures([Watched(scores, truth)], 0.5),
        lambda scores: shares(scores, True),
        lambda scores: shares(scores, False),
    ]
    for way in ways:
        with pytest.raises(ShapeError, match="not finite at"):
            way(scores)
        way(np.nan_to_num(scores, posinf=1, neginf=0))
    with pytest.raises(ShapeError, match="scores of rec are not finite at 1 of 10 steps, the first of them 7"):
        shares(scores, True, "rec")


def test_frame_accuracy_and_shapes() -> None:
    assert frame_accuracy(labels("abc"), labels("abb")) == pytest.approx(2 / 3)
    with pytest.raises(ShapeError, match="expected equal shapes"):
        frame_accuracy(labels("ab"), labels("abb"))
