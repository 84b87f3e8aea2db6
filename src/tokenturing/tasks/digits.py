"""Handwritten digits (the 1,797 of scikit-learn) in a fixed split of training, validation and test images."""

from functools import cache

import numpy as np

from tokenturing.errors import MissingExtraError, choose

SPLITS = ("train", "validation", "test")
SHARES = (0.65, 0.1, 0.25)
SPLIT_SEED = 20231


@cache
def digit_images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [n, 8, 8] in [0, 1] and labels [n] of "train", "validation" or "test"."""
    choose("split", split, SPLITS)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "tasks") from error
    data = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data.target))
    borders = [*np.cumsum([0, *(int(share * len(order)) for share in SHARES[:-1])]).tolist(), len(order)]
    part = SPLITS.index(split)
    rows = order[borders[part] : borders[part + 1]]
    return (data.images[rows] / 16).astype(np.float32), data.target[rows]
