"""Folders of features and labels as streams: npz files, features with a CSV or JSON of annotations, arrays by frame."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenturing.errors import OptionError
from tokenturing.files import read_json
from tokenturing.tasks.activity.annotations import framed, read_folder
from tokenturing.tasks.activity.arrays import DAMAGED
from tokenturing.tasks.activity.streams import Stream, Streams, group_of

CLASSES = "classes.txt"
"""in a folder of npz files: the names of the classes, one a line, if it is there"""
LARGEST_CLASSES, LARGEST_ARRAY = 2**20, 2**31
"""bytes of a file"""


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
        if not known.any():
            problems.append(f"{name}: none of {len(known)} steps has a label, left out")
            continue
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
    try:  # a pattern finds nothing in a folder that cannot be read, and does not say why
        next(folder.iterdir(), None)
    except OSError as error:
        raise OptionError(f"data.path={path!r} cannot be read ({error.strerror}): expected {expected}") from None
    return folder


def class_names(folder: Path, count: int) -> list[str]:
    """Those in the folder's classes.txt, or numbers."""
    file = folder / CLASSES
    if not file.is_file():
        return [str(number) for number in range(count)]
    if file.stat().st_size > LARGEST_CLASSES:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected names, one a line")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"{file} cannot be read ({error}): expected names in UTF-8, one a line") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(names) < count:
        raise OptionError(f"{file} names {len(names)} classes, and the labels have {count}: expected a line each")
    return names


class Framewise(NamedTuple):
    """Where arrays of features and targets by frame are, as repositories of online action detection lay them out."""

    path: str
    features: Sequence[str]
    """folders in it of NAME.npy [T, F]; those of several are put side by side"""
    targets: str
    """the folder of NAME.npy [T, C]: the background first"""
    ambiguous: bool
    """whether the last class stands for frames that are not scored"""
    rate: float
    """steps a second"""
    groups: str
    """a pattern whose bracket matches a name's group"""
    lists: str
    """a JSON with lists of the training and test videos, in place of the pattern: {NAME: {"train_session_set": [...], ...}}"""


def framewise_streams(given: Framewise) -> Streams:
    """Videos as arrays by frame."""
    folder = folder_of(given.path, "a folder with folders of features and targets by frame")
    groups, classes = _lists(given.lists)
    problems: Counter[str] = Counter()
    streams: list[Stream] = []
    files = sorted((folder / given.targets).glob("*.npy"))
    if not files:
        raise OptionError(f"there is no .npy in {folder / given.targets}: expected targets [T, C] by frame, a file a video")
    for file in files:
        name = file.stem
        sources = [folder / part / file.name for part in given.features]
        if (groups and name not in groups) or not all(source.is_file() for source in sources):
            problems["videos in no list, left out" if groups and name not in groups else "videos without features, left out"] += 1
            continue
        parts = [_array(source) for source in sources]
        target = _array(file)
        length = min(len(target), *map(len, parts))
        if length < max(len(target), *map(len, parts)):
            problems["videos whose arrays differ in length, cut to the shortest"] += 1
        features, labels = framed(np.concatenate([part[:length] for part in parts], axis=1), target[:length], name)
        known = ~labels[:, -1] if given.ambiguous else np.ones(length, bool)
        if not known.any():
            problems["videos in which every step is ambiguous, left out"] += 1
            continue
        labels = labels[:, :-1] if given.ambiguous else labels
        group = groups[name] if groups else group_of(name, given.groups)
        times = (1 + np.arange(length)) / given.rate
        streams.append(Stream(name, group, features[:, None], labels, times, known))
    _check_alike(streams)
    for name in sorted(groups.keys() - {file.stem for file in files}):
        problems[f"listed videos that are missing (such as {name})" if not problems else "listed videos that are missing"] += 1
    count = streams[0].labels.shape[1] if streams else 0
    names = classes[:count] if len(classes) >= count else [str(number) for number in range(count)]
    said = [f"{number} {kind}" for kind, number in problems.items()]
    return Streams(streams, names, True, background=(0,), problems=said, by_name=True)


def _lists(path: str) -> tuple[dict[str, str], list[str]]:
    """Video -> "train" or "test", and the names of the classes; nothing without a file."""
    if not path:
        return {}, []
    content = read_json(Path(path))
    (about,) = content.values() if len(content) == 1 else (content,)
    try:
        train, test = ([str(name) for name in about[f"{part}_session_set"]] for part in ("train", "test"))
        classes = [str(name) for name in about.get("class_index", ())]
    except (KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"data.lists={path!r} has no {error}: expected one data set with train_session_set and test_session_set"
        ) from None
    if both := sorted(set(train) & set(test)):
        raise OptionError(
            f"data.lists={path!r} has {len(both)} videos to train on and to test on ({', '.join(both[:3])}): expected each in one"
        )
    return dict.fromkeys(train, "train") | dict.fromkeys(test, "test"), classes


def _array(file: Path) -> np.ndarray:
    if file.stat().st_size > LARGEST_ARRAY:
        raise OptionError(f"{file} has {file.stat().st_size} bytes: expected an array of at most {LARGEST_ARRAY}")
    try:
        found = np.load(file, allow_pickle=False)
    except DAMAGED as error:
        raise OptionError(f"{file} cannot be read ({error}): expected an array [T, F] or [T, C]") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2:
        raise OptionError(
            f"{file} is {list(found.shape) if isinstance(found, np.ndarray) else 'an .npz'}: expected [T, F] or [T, C]"
        )
    return found


def _check_alike(streams: Sequence[Stream]) -> None:
    shapes = {(one.features.shape[1:], one.labels.shape[1:]): one.name for one in reversed(streams)}
    if len(shapes) > 1:
        came = ", ".join(f"{features[1:]} and {labels} in {name}" for (features, labels), name in list(shapes.items())[:4])
        raise OptionError(f"the videos differ in features and classes of a step: {came}: expected the same in all")
