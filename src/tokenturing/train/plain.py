"""What tasks say of themselves, as plain values: their numbers may be numpy's or torch's."""

import math
from typing import Any

import numpy as np
from torch import Tensor


def plain(value: Any) -> Any:
    """The same with Python's own numbers, as JSON takes them, in dicts, lists and tuples too."""
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | Tensor):
        return value.item() if value.ndim == 0 else value.tolist()
    return value


def finite(value: Any) -> Any:
    """Plain values without numbers that JSON has not: entries of NaN and infinities are left out, in lists they are None."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items() if not _is_lost(part)}
    if isinstance(value, list):
        return [None if _is_lost(part) else finite(part) for part in value]
    return value


def _is_lost(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
