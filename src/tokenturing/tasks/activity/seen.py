"""Which streams there are, and which models fit them: none is tested on what it learned, or on features of another kind."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenturing.errors import OptionError
from tokenturing.tasks.activity.streams import Stream

SEEN = {"test": ("train", "validation"), "validation": ("train",), "train": ()}
"""split that is evaluated -> the splits of the model's own training that must have none of its streams"""


def fingerprint(streams: Sequence[Stream]) -> dict[str, str]:
    """Name -> the stream's group, and a checksum of all that it holds."""
    return {one.name: f"{one.group} {_checksum(one):08x}" for one in streams}


def _checksum(stream: Stream) -> int:
    found = zlib.crc32(repr((stream.features.shape, stream.labels.shape, stream.parts)).encode())
    for array in (stream.features, stream.labels, stream.times, stream.known):
        found = zlib.crc32(np.ascontiguousarray(array).data.cast("B"), found)
    return found


def check_unseen(name: str, model: Any, streams: Sequence[Stream], split: str) -> None:
    """Compare the streams to watch with those that a model says it was trained on.

    Raises:
        OptionError: some are the same.
    """
    notes = getattr(model, "notes", None)
    own = notes.get("streams") if isinstance(notes, Mapping) else None
    if not isinstance(own, Mapping):
        return
    seen = {one for part in SEEN[split] for one in own.get(part, ())}
    if both := [one.name for one in streams if one.name in seen]:
        raise OptionError(
            f"{name} was trained on {len(both)} of the {len(streams)} streams of split={split!r} ({', '.join(both[:3])}), or its "
            "weights were chosen by them: the data, or which of them are tested, have changed since; expected the data as they "
            "were, or a model that is trained anew"
        )


def check_fits(name: str, model: Any, streams: Sequence[Stream], classes: Sequence[str]) -> None:
    """Compare the features and the classes of the streams to watch with those that a model says it was trained on.

    Raises:
        OptionError: they are others.
    """
    notes = getattr(model, "notes", None)
    about = notes.get("activity") if isinstance(notes, Mapping) else None
    if not isinstance(about, Mapping):
        return
    there = list(streams[0].features.shape[1:])
    if about.get("features", there) != there:
        raise OptionError(
            f"the data have features {there} a step, and {name} was trained on {list(about['features'])} (tokens and their "
            "numbers): expected features made in the same way"
        )
    if about.get("classes", list(classes)) != list(classes):
        odd = sorted(set(about["classes"]) ^ set(classes)) or "the same names in another order"
        raise OptionError(
            f"the data have {len(classes)} activities, and {name} was trained on {len(about['classes'])} others "
            f"(differing in {', '.join(odd[:3]) if isinstance(odd, list) else odd}): expected the same, in the same order"
        )
