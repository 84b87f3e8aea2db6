"""Features that `tokenturing features` made of videos, with annotations of their times, as streams."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenturing.checkpoint.tensors import TensorFile
from tokenturing.errors import CheckpointError, OptionError
from tokenturing.tasks.activity.annotations import Annotations, read_activitynet, read_charades, to_frames
from tokenturing.tasks.activity.folders import folder_of
from tokenturing.tasks.activity.streams import Stream, Streams

ENDING = ".safetensors"
SOURCE = {"encoder": str, "hash": str, "rate": float, "grid": int}
"""what a file of features says of how they were made"""
PARTS, PART_SEED = 5, 20262
"""groups of videos, drawn by their names, where the annotations do not say which are for the test"""


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
            labels = to_frames(annotations.videos[name], times, len(annotations.classes))
            read.append(Stream(name, group, features, labels, times, np.ones(len(times), bool)))
        problems += [f"{group}: {line}" for line in annotations.report()]
    known = set().union(*(one.videos for one in groups.values()))
    if len(groups) > 1 and (unknown := sorted(files.keys() - known)):
        problems.append(f"{len(unknown)} videos without annotations, left out (such as {unknown[0]})")
    classes = next(iter(groups.values())).classes
    if any(one.classes != classes for one in groups.values()):
        raise OptionError("the annotations to train on and to test on have other classes: expected the same")
    return Streams(read if len(groups) > 1 else list(_in_parts(read)), classes, True, source=source, problems=problems)


def _annotations(given: Annotated) -> dict[str, Annotations]:
    """The annotations of each group: "train" and "test", or "all" where nothing says which are which."""
    path, other = Path(given.annotations), given.test_annotations
    if path.suffix == ".json" and not other:
        return {"train": read_activitynet(path, "training"), "test": read_activitynet(path, "validation")}
    files = {"train": path, "test": Path(other)} if other else {"all": path}
    return {group: read_activitynet(file) if file.suffix == ".json" else read_charades(file) for group, file in files.items()}


def _in_parts(streams: list[Stream]) -> Iterator[Stream]:
    """The same in groups of about equal size."""
    order = np.random.default_rng(PART_SEED).permutation(len(streams))
    for place, index in enumerate(order.tolist()):
        one = streams[index]
        yield Stream(one.name, f"part{place % PARTS + 1}", one.features, one.labels, one.times, one.known)


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
    if features.ndim != 3 or times.shape != features.shape[:1] or not np.isfinite(features).all():
        raise CheckpointError(
            f"{file} holds features {list(features.shape)}, times {list(times.shape)}: expected [T, N, F] and [T]"
        )
    return features, times, source
