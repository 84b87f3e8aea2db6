"""Training streams made a little different each time: tempo, strength, the way a sensor is worn, noise, gaps."""

from dataclasses import dataclass

import numpy as np

from tokenturing.options import number, numbers
from tokenturing.tasks.activity.streams import AXES

KNOTS = 5
"""of a recording, between which its tempo changes evenly"""


@dataclass(frozen=True)
class AugmentOptions:
    """How far training streams are changed; 0: not at all."""

    noise: float = number(0.0, 0)
    """added to every feature, in its standard deviations"""
    scale: float = number(0.0, 0, 2)
    """spread of the log of a factor of each feature (of samples: of each channel), the same for a whole walk"""
    offset: float = number(0.0, 0)
    """spread of what is added to each feature, the same for a whole walk, in its standard deviations"""
    warp: float = number(0.0, 0, 2)
    """spread of the log of the tempo, which changes slowly within a recording"""
    rotate: float = number(0.0, 0, 180)
    """spread in degrees of a rotation of a sensor's three axes, the same for a whole walk"""
    mirror: float = number(0.0, 0, 1)
    """share of the recordings of a sensor that become those of the other arm"""
    keep: tuple[float, float] = numbers((1.0, 1.0), 0.01, 1)
    """where recordings are put in a row: from what share of one to what share of it is kept, anywhere in it"""
    drop_features: float = number(0.0, 0, 0.9)
    """share of the features that are their mean, the same for a whole walk"""
    drop_tokens: float = number(0.0, 0, 0.9)
    """share of the tokens whose features are all their mean"""


def warp(length: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Places float64 [n] within 0 .. length - 1 at which to read something of that length at another tempo."""
    if length < 2:
        return np.zeros(length)
    tempo = np.exp(np.interp(np.linspace(0, KNOTS - 1, length), np.arange(KNOTS), rng.normal(0, spread, KNOTS)))
    when = np.append(0.0, np.cumsum(1 / tempo[:-1]))  # at which each is reached
    return np.interp(np.arange(0, when[-1] + 1e-9), when, np.arange(length))


def read_at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values [T, ...] between their steps."""
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, len(values) - 1)
    share = (places - low).astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] * (1 - share) + values[high] * share


def rotation(degrees: float, rng: np.random.Generator) -> np.ndarray:
    """A matrix float32 [3, 3] that turns by about so much, about an axis drawn at random (Rodrigues' formula)."""
    axis = rng.normal(size=AXES)
    x, y, z = axis / np.linalg.norm(axis)
    angle = np.deg2rad(rng.normal(0, degrees))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned = np.eye(AXES) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turned.astype(np.float32)


def change(
    features: np.ndarray, options: AugmentOptions, samples: int, mean: np.ndarray, deviation: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """All but the tempo: features [T, N, F] of a walk -> the same with noise and so on; mean and deviation are [F]."""
    columns = features.shape[-1]
    channels = columns // samples if samples else columns
    if options.rotate and samples and channels % AXES == 0:
        turned = features.reshape(-1, channels // AXES, AXES) @ rotation(options.rotate, rng).T
        features = turned.reshape(features.shape)
    if options.scale:
        factors = np.exp(rng.normal(0, options.scale, channels)).astype(np.float32)
        features = features * np.tile(factors, max(samples, 1))
    if options.offset:
        offsets = rng.normal(0, options.offset, channels).astype(np.float32)
        features = features + np.tile(offsets, max(samples, 1)) * deviation
    if options.noise:
        features = features + rng.standard_normal(features.shape, np.float32) * (options.noise * deviation)
    if options.drop_features:
        dropped = np.tile(rng.random(channels) < options.drop_features, max(samples, 1))
        features = np.where(dropped, mean, features)
    if options.drop_tokens:
        features = np.where(rng.random((*features.shape[:-1], 1)) < options.drop_tokens, mean, features)
    return features.astype(np.float32)
