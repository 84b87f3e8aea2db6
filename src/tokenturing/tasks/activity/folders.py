"""Folders of features and labels as streams: npz files, features with a CSV or JSON of annotations, arrays by frame."""

from pathlib import Path

import numpy as np

from tokenturing.errors import OptionError
from tokenturing.tasks.activity.annotations import read_folder
from tokenturing.tasks.activity.streams import Stream, Streams, group_of

CLASSES = "classes.txt"
"""in a folder of npz files: the names of the classes, one a line, if it is there"""
LARGEST_CLASSES = 2**20
"""bytes"""


def npz_streams(path: str, groups: str, rate: float) -> Streams:
    """A folder of npz files with `features` [T, F] or [T, N, F] and `labels` [T] or [T, C].

    Args:
        path: the folder.
        groups: a pattern whose bracket matches a name's group, "" for a group a file.
        rate: steps a second.
    """
    folder = folder_of(path, "a folder of npz files with features [T, F] and labels [T]")
    videos = read_folder(folder)
    multi_label = next(iter(videos.values())).labels.ndim == 2
    count = 1 + max(int(one.labels.max()) for one in videos.values())
    if multi_label:
        count = next(iter(videos.values())).labels.shape[1]
    streams, problems = [], []
    for name, (features, labels) in videos.items():
        known = np.ones(len(labels), bool) if multi_label else labels >= 0
        streams.append(
            Stream(
                name,
                group_of(name, groups),
                features if features.ndim == 3 else features[:, None],
                labels,
                (1 + np.arange(len(labels))) / rate,
                known,
            )
        )
        if not known.all():
            problems.append(f"{name}: {int((~known).sum())} of {len(known)} steps have no label")
    return Streams(streams, class_names(folder, count), multi_label, problems=problems)


def folder_of(path: str, expected: str) -> Path:
    """The folder that a recipe names."""
    if not path:
        raise OptionError(f"data.path is not given: expected {expected}, as in --set data.path=FOLDER")
    folder = Path(path)
    if not folder.is_dir():
        raise OptionError(f"data.path={path!r} is no folder: expected {expected}")
    return folder


def class_names(folder: Path, count: int) -> list[str]:
    """Those in the folder's classes.txt, or numbers."""
    file = folder / CLASSES
    if not file.is_file():
        return [str(number) for number in range(count)]
    if file.stat().st_size > LARGEST_CLASSES:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected names, one a line")
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(names) < count:
        raise OptionError(f"{file} names {len(names)} classes, and the labels have {count}: expected a line each")
    return names
