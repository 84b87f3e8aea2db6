"""Features that `tokenturing features` made of videos, with annotations of their times, as streams."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenturing.checkpoint.tensors import TensorFile
from tokenturing.errors import CheckpointError, OptionError
from tokenturing.tasks.activity.annotations import Annotations, read_activitynet, read_charades, to_frames
from tokenturing.tasks.activity.folders import folder_of
from tokenturing.tasks.activity.streams import Stream, Streams, share_of

ENDING = ".safetensors"
SOURCE = {"encoder": str, "hash": str, "rate": float, "grid": int}
"""what a file of features says of how they were made"""
PARTS, PART_SEED = 5, 20270
"""groups of videos, by a hash of each one's name, where the annotations do not say which are for the test"""
PART_NAMES = tuple(f"part{number}" for number in range(1, PARTS + 1))


class Annotated(NamedTuple):
    """Where features and annotations are."""

    path: str
    """the folder of features, NAME.safetensors"""
    annotations: str
    """a Charades CSV, or ActivityNet JSON"""
    test_annotations: str
    """the same of the test videos; empty: those that the JSON calls "validation", or a part of a CSV's videos"""


def annotated_streams(given: Annotated) -> Streams:
    """Videos with their activities, of which several may go on at once.

    Raises:
        OptionError: features were made in different ways, or something cannot be read.
    """
    folder = folder_of(given.path, "a folder of features that tokenturing features made")
    files = {file.name.removesuffix(ENDING): file for file in sorted(folder.glob(f"*{ENDING}"))}
    if not files:
        raise OptionError(f"there is no {ENDING} in {folder}: expected features; tokenturing features makes them of videos")
    if not given.annotations:
        raise OptionError("data.annotations is not given: expected a Charades CSV, or a JSON like ActivityNet's")
    groups = _annotations(given)
    _check_apart(groups)
    read: list[Stream] = []
    source: dict[str, Any] = {}
    problems: list[str] = []
    for group, annotations in groups.items():
        names = list(files) if len(groups) == 1 else [name for name in files if name in annotations.videos]
        for name in annotations.match(names):
            try:
                features, times, made_by = read_features(files[name])
            except CheckpointError as error:
                annotations.note("files that cannot be read, left out", str(error))
                continue
            if source not in ({}, made_by):
                raise OptionError(f"{files[name]} was made by {made_by}, and others by {source}: expected one way for all")
            source = made_by
            if not len(times):
                annotations.note("videos without a step, left out", name)
                continue
            if read and features.shape[1:] != read[0].features.shape[1:]:
                raise OptionError(
                    f"{files[name]} has features {list(features.shape)}, and {files[read[0].name]} "
                    f"{list(read[0].features.shape)}: expected [T, N, F] with the same N and F in all"
                )
            annotations.end(name, times[-1] + 1 / made_by["rate"])
            labels = to_frames(annotations.videos[name], times, len(annotations.classes))
            read.append(Stream(name, group, features, labels, times, np.ones(len(times), bool)))
        problems += [f"{group}: {line}" for line in annotations.report()]
    known = set().union(*(one.videos for one in groups.values()))
    if len(groups) > 1 and (unknown := sorted(files.keys() - known)):
        problems.append(f"{len(unknown)} videos without annotations, left out (such as {unknown[0]})")
    classes = next(iter(groups.values())).classes
    if any(one.classes != classes for one in groups.values()):
        raise OptionError("the annotations to train on and to test on have other classes: expected the same")
    parts = PART_NAMES if len(groups) == 1 else ()
    if parts and read:
        found, by_hash = parts_of([one.name for one in read])
        read = [replace(one, group=found[one.name]) for one in read]
        if not by_hash:
            problems.append(
                f"{len(read)} videos are so few that they are dealt out to {PARTS} parts in turn: one more or less moves others "
                "between training and test, and a figure says little"
            )
    return Streams(read, classes, True, source=source, problems=problems, parts=parts, by_name=True)


def _annotations(given: Annotated) -> dict[str, Annotations]:
    """The annotations of each group: "train" and "test", or "all" where nothing says which are which."""
    path, other = Path(given.annotations), given.test_annotations
    if _is_json(path) and not other:
        return {"train": read_activitynet(path, "training"), "test": read_activitynet(path, "validation")}
    files = {"train": path, "test": Path(other)} if other else {"all": path}
    return {group: read_activitynet(file) if _is_json(file) else read_charades(file) for group, file in files.items()}


def _is_json(file: Path) -> bool:
    return file.suffix.lower() == ".json"


def _check_apart(groups: Mapping[str, Annotations]) -> None:
    """Raise an OptionError where a video is to train on and to test on."""
    first, *others = (one.videos.keys() for one in groups.values())
    if both := sorted(first & set().union(*others)):
        raise OptionError(
            f"{len(both)} videos are in data.annotations and in data.test_annotations ({', '.join(both[:3])}): expected each in "
            "one, since nothing is tested on what was learned; without data.test_annotations a fifth of the videos is left out"
        )


def parts_of(names: Sequence[str]) -> tuple[dict[str, str], bool]:
    """The part of each video, by the hash of its name alone, and True; where that leaves a part empty, as of few videos, they are
    dealt out in turn, in the order of their hashes, and False."""
    places = {name: share_of(name, f"part {PART_SEED}") for name in names}
    parts = {name: PART_NAMES[int(PARTS * place)] for name, place in places.items()}
    if len(set(parts.values())) == PARTS:
        return parts, True
    return {name: PART_NAMES[turn % PARTS] for turn, name in enumerate(sorted(names, key=places.__getitem__))}, False


def read_features(file: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Features float32 [T, N, F], times float64 [T], and what they were made by.

    Raises:
        CheckpointError: the file is no such file.
    """
    opened = TensorFile(file, "features that tokenturing features made")
    tensors = opened.tensors()
    try:
        features, times = tensors["features"].float().numpy(), tensors["times"].double().numpy()
        source = {name: kind(opened.metadata[name]) for name, kind in SOURCE.items()}
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{file} has no {error}: expected features that tokenturing features made") from None
    if features.ndim != 3 or times.shape != features.shape[:1]:
        raise CheckpointError(
            f"{file} holds features {list(features.shape)}, times {list(times.shape)}: expected [T, N, F] and [T]"
        )
    if not (sound := np.isfinite(features).all((1, 2))).all():
        raise CheckpointError(
            f"{file} holds features that are not finite in {int((~sound).sum())} of {len(sound)} steps (first in step "
            f"{int(sound.argmin())}): expected finite numbers, as tokenturing features makes them"
        )
    if not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise CheckpointError(f"{file} holds times that do not ascend: expected the seconds at which the steps end")
    if not source["rate"] > 0 or np.isinf(source["rate"]):
        raise CheckpointError(f"{file} has the rate {source['rate']:g}: expected steps a second")
    return features, times, source
