"""The one clock of pictures and sound: how long a step is."""

from fractions import Fraction

SAMPLE_RATE = 16_000
"""samples of sound a second"""
STEP_SAMPLES = 1280
"""samples a step"""
STEP_SECONDS = STEP_SAMPLES / SAMPLE_RATE
"""0.08"""
STEPS_PER_SECOND = Fraction(SAMPLE_RATE, STEP_SAMPLES)
"""12.5"""
