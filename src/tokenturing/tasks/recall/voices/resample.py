"""Sound at another sample rate."""

import numpy as np

from tokenturing.errors import MissingExtraError


def resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """[S] at `rate` -> [S * new_rate / rate] at `new_rate`, in samples a second."""
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise MissingExtraError("scipy", "speech") from error
    return resample_poly(waveform, new_rate, rate)
