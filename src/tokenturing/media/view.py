"""What is wanted of media: which pictures, which sound, and how many steps a second."""

from fractions import Fraction
from typing import NamedTuple

from tokenturing.errors import OptionError
from tokenturing.media.clock import SAMPLE_RATE, STEPS_PER_SECOND

MOST_STEPS = 240
"""a second"""
LARGEST_FRAME = 4096
"""pixels of a side"""


class View(NamedTuple):
    """Arguments of `open_media`, by the same names."""

    frame_size: int = 32
    """pixels of a frame's side"""
    sample_rate: int = SAMPLE_RATE
    """of the sound"""
    colour: bool = False
    """red, green and blue instead of grey"""
    crop: float = 1.0
    """how much of the side of the largest centred square is shown"""
    rate: Fraction | float = STEPS_PER_SECOND
    """steps a second"""
    sound: bool = True
    """whether sound is heard, where there is any"""

    @property
    def step_seconds(self) -> float:
        """How long a step is."""
        return float(1 / Fraction(self.rate))

    @property
    def step_samples(self) -> int:
        """Samples of sound in a step."""
        return int(self.sample_rate / Fraction(self.rate))

    def check(self) -> None:
        """Raise an OptionError where something can't be had."""
        if not 1 <= self.frame_size <= LARGEST_FRAME:
            raise OptionError(f"frame_size={self.frame_size}: expected 1 to {LARGEST_FRAME} pixels")
        if not 0 < self.crop <= 1:
            raise OptionError(f"crop={self.crop:g}: expected a share of the square's side above 0, at most 1")
        if not 0 < self.rate <= MOST_STEPS:
            raise OptionError(f"rate={float(self.rate):g}: expected steps a second above 0, at most {MOST_STEPS}")
        samples = self.sample_rate / Fraction(self.rate)
        if self.sound and (samples < 1 or samples.denominator != 1):
            raise OptionError(
                f"sample_rate={self.sample_rate} has no whole number of samples in a step of {1000 * self.step_seconds:g} ms: "
                f"expected a multiple of {Fraction(self.rate).numerator} Hz, such as 8000, 16000 or 48000"
            )
