"""Recordings of worn sensors as streams: the smartwatch data inside the package `seglearn`, and what a recording becomes."""

import importlib.metadata
from pathlib import Path

import numpy as np

from tokenturing.errors import MissingExtraError, OptionError
from tokenturing.tasks.activity.arrays import as_float32
from tokenturing.tasks.activity.old_arrays import read_old_arrays
from tokenturing.tasks.activity.streams import Stream, Streams

PACKAGE, FILE = "seglearn", "watch_dataset.npy"
RATE = 50.0
"""samples a second"""
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
"""acceleration and rotation about three axes, as the watch has them"""
MIRROR = (-1.0, 1.0, 1.0, 1.0, -1.0, -1.0)
"""what the same movement of the other arm gives: acceleration along x, and rotation about the other two axes, change sign"""


def watch_file() -> Path:
    """Where the package has its data; it is not imported, which would take seconds.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError(PACKAGE, "activity") from error
    for file in files:
        if file.name == FILE:
            return Path(str(file.locate()))
    raise OptionError(f"this {PACKAGE} has no {FILE}: expected version 1.2.5")


def watch_streams(seconds: float, tokens: int, order: int, file: Path | None = None) -> Streams:
    """The recordings of each of ten subjects (seven exercises, with either arm) in a row: one stream a subject.

    The recordings follow each other without a pause, each from its beginning and cut to whole steps, so that no step holds
    samples of two; `Stream.parts` says where each begins.

    Args:
        seconds: of a step.
        tokens: N, into which the samples of a step are split.
        order: seed of the order of a subject's recordings.
        file: the data; None: that of the package.
    """
    content = read_old_arrays(file or watch_file())
    try:
        recordings, labels, subjects = content["X"], content["y"].tolist(), content["subject"].tolist()
        classes = [str(name) for name in content["y_labels"]]
        subjects = [int(subject) for subject in subjects]
        columns = {one.shape[1:] for one in recordings}
    except (KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"the watch data are not as {PACKAGE} 1.2.5 has them ({type(error).__name__}: {error})") from None
    if columns != {(len(CHANNELS),)} or not len(recordings) == len(labels) == len(subjects):
        raise OptionError(f"the watch data are not as {PACKAGE} 1.2.5 has them: recordings have the shapes {sorted(columns)}")
    found = []
    for subject in sorted(set(subjects)):
        own = [index for index, other in enumerate(subjects) if other == subject]
        own = [own[place] for place in np.random.default_rng([order, subject]).permutation(len(own))]
        steps = [as_steps(recordings[index], seconds, tokens, where=f"recording {index} of {PACKAGE}") for index in own]
        kept = [(part, labels[index]) for part, index in zip(steps, own, strict=True) if len(part)]
        lengths = [len(part) for part, _ in kept]
        found.append(
            Stream(
                f"subject{subject}",
                str(subject),
                np.concatenate([part for part, _ in kept]),
                np.repeat(np.array([label for _, label in kept], np.int64), lengths),
                (1 + np.arange(sum(lengths))) * seconds,
                np.ones(sum(lengths), bool),
                tuple(np.cumsum([0, *lengths[:-1]]).tolist()),
            )
        )
    samples = samples_of(seconds, tokens)
    source = {"sensor": "watch", "rate": RATE, "channels": list(CHANNELS), "step": seconds}
    return Streams(found, classes, samples=samples, mirror=MIRROR, source=source)


def samples_of(seconds: float, tokens: int, rate: float = RATE) -> int:
    """How many samples one of a step's tokens holds.

    Raises:
        OptionError: the step has no whole number of them.
    """
    count = round(seconds * rate)
    if abs(count - seconds * rate) > 1e-6 or not count or count % tokens:
        raise OptionError(
            f"data.step={seconds:g} and data.tokens={tokens}: a step has {seconds * rate:g} samples at {rate:g} a second: "
            "expected a whole number that the tokens divide"
        )
    return count // tokens


def as_steps(recording: np.ndarray, seconds: float, tokens: int, rate: float = RATE, where: str = "the recording") -> np.ndarray:
    """Samples [n, channels] -> float32 [T, N, samples * channels]; what is left over at the end is dropped.

    Raises:
        OptionError: a number is not finite, or the step has no whole number of samples.
    """
    samples = samples_of(seconds, tokens, rate)
    steps = len(recording) // (samples * tokens)
    whole = recording[: steps * samples * tokens].reshape(steps, tokens, samples * recording.shape[1])
    return as_float32(whole, where)
