"""A minute that no model was trained on: test images and test voices, with a silence in its middle."""

from dataclasses import dataclass, field

import numpy as np

from tokenturing.evaluate.trace import Event
from tokenturing.media.clock import SAMPLE_RATE, STEP_SAMPLES
from tokenturing.tasks.recall.voices.clips import clip_length
from tokenturing.tasks.recall.voices.noise import background_noise
from tokenturing.tasks.recall.voices.synthesis import digit_word, synthesize, voices
from tokenturing.tasks.recall.world.plans import Spoken, Stream, truth_of
from tokenturing.tasks.recall.world.questions import Truth
from tokenturing.tasks.recall.world.render import Renderer
from tokenturing.tasks.recall.world.scenes import Sighting, random_sighting

STEPS = 750
SILENCE = (0.36, 0.66)
"""the part of the minute in which nothing happens"""
SECONDS_BETWEEN = 2.6
"""on average, between events of one kind"""
QUESTION_EVERY = 12
FADING = 4
"""steps after a sighting or a word in which a write is still about it"""
LEAD = 2
"""steps before the end of a word from which it can be told"""


@dataclass(frozen=True)
class Minute:
    """What is to be seen, heard and asked."""

    frames: np.ndarray
    """[T, 32, 32]"""
    waveform: np.ndarray
    """[T * 1280], 16 kHz"""
    events: list[Event]
    questions: list[tuple[int, int, int]]
    """(step, question, true answer) by step"""


@dataclass
class Script:
    """When what is shown and said."""

    sightings: list[Sighting] = field(default_factory=list)
    spoken: list[Spoken] = field(default_factory=list)
    words: list[np.ndarray] = field(default_factory=list)
    """the samples of each spoken digit"""


def make_minute(seed: int = 3, steps: int = STEPS) -> Minute:
    """Draw, speak and render a minute (or another number of steps)."""
    rng = np.random.default_rng(seed)
    renderer = Renderer("test", None)  # type: ignore[arg-type]  # its sound is not used: here it is mixed
    script = Script()
    for begin, end in ((5, int(SILENCE[0] * steps)), (int(SILENCE[1] * steps), steps - 15)):
        _show_digits(script, rng, begin, end)
        _speak_digits(script, rng, begin, end)
    waveform = _mix(script, rng, steps)
    return Minute(
        _frames(script, renderer, rng, steps),
        waveform,
        _events(script),
        _questions(truth_of(script.sightings, script.spoken), rng, steps),
    )


def _gap(rng: np.random.Generator) -> int:
    """Steps without an event of one kind."""
    return int(rng.uniform(0.6, 1.4) * SECONDS_BETWEEN * SAMPLE_RATE / STEP_SAMPLES)


def _show_digits(script: Script, rng: np.random.Generator, begin: int, end: int) -> None:
    from tokenturing.tasks.digits import digit_images

    labels = digit_images("test")[1]
    at = begin + int(rng.integers(0, 12))
    while (length := int(rng.integers(6, 11))) + at < end:
        image = int(rng.integers(len(labels)))
        script.sightings.append(random_sighting(rng, at, length, int(labels[image]), image))
        at += length + _gap(rng)


def _speak_digits(script: Script, rng: np.random.Generator, begin: int, end: int) -> None:
    """Words that begin to count clear of the last sight of a digit, as in the task."""
    unclear = {sighting.last + d for sighting in script.sightings for d in (-1, 0, 1, 2)}
    speakers = voices("test")
    at = begin + int(rng.integers(0, 12))
    while True:
        digit, speaker = int(rng.integers(10)), speakers[int(rng.integers(len(speakers)))]
        word = synthesize(digit_word(digit), speaker, rng.uniform(140, 200), rng.uniform(30, 70))
        length = clip_length(len(word), 0)
        while at + length in unclear:
            at += 1
        if at + length >= end:
            return
        script.spoken.append(Spoken(at, at + length, digit, 0))
        script.words.append(word * (0.5 / max(float(np.abs(word).max()), 1e-6)))
        at += length + _gap(rng)


def _mix(script: Script, rng: np.random.Generator, steps: int) -> np.ndarray:
    """Words over a soft fan: float32 [steps * 1280]."""
    waveform = background_noise("fan", steps * STEP_SAMPLES / SAMPLE_RATE, rng, level=-50.0)
    for spoken, word in zip(script.spoken, script.words, strict=True):
        first = spoken.first * STEP_SAMPLES
        waveform[first : first + len(word)] += word
    return waveform.clip(-1, 1)


def _frames(script: Script, renderer: Renderer, rng: np.random.Generator, steps: int) -> np.ndarray:
    scenes, at = [], 0
    while at < steps:
        scenes.append((at, int(rng.integers(1 << 30)), float(rng.uniform(0, 0.6))))
        at += int(rng.integers(40, 120))
    plan = Stream(steps, script.sightings, [], scenes, 0.06, 0, 0, True, True, np.zeros((0, 2)), np.zeros((0, 0)))
    return renderer.frames([plan], [0], steps, rng)[0].numpy()


def _events(script: Script) -> list[Event]:
    """What a slot may hold, by when it is new."""
    seen = [Event("seen", s.digit, s.first, s.last + FADING) for s in script.sightings]
    heard = [Event("heard", s.digit, s.counts_from - LEAD, s.counts_from + FADING) for s in script.spoken]
    return sorted(seen + heard, key=lambda event: event.first)


def _questions(truth: Truth, rng: np.random.Generator, steps: int) -> list[tuple[int, int, int]]:
    asked = []
    for step in range(2 * QUESTION_EVERY, steps, QUESTION_EVERY):
        truth.advance(step)
        question, answer = truth.draw_question(rng)
        asked.append((step, question, answer))
    return asked
