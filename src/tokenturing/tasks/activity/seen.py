"""Which streams there are, and which of them a model has seen: so that nobody is tested on what was learned."""

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
