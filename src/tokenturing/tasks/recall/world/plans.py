"""What happens in a stream of the recall task: plans of sightings, words, background and questions, drawn from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenturing.errors import OptionError
from tokenturing.options import choice, number, numbers
from tokenturing.tasks.digits import digit_images
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.world.questions import FACTS, Truth
from tokenturing.tasks.recall.world.scenes import Sighting, random_sighting

TAIL = 10
"""steps after a word in which the speech embedding still holds some of it"""
SIGHTING = (4, 10, 3)
"""least and most steps of a sighting, and steps between two, at the task's own pace"""
BRISK_SIGHTING = (1, 1, 1)
BRISK_TAIL = 1
BRISK_STEPS = (40, 160)
BRISK_GAPS = (1.0, 6.0)


def between(brisk: float, own: float, pace: float) -> float:
    """A quantity at a pace between the briskest (0) and the task's own (1), on a logarithmic scale."""
    return brisk * (own / brisk) ** pace


@dataclass(frozen=True)
class RecallConfig:
    """What the streams are like; times in steps of 80 ms."""

    split: str = choice("train", "validation", "test")
    longest: int = number(1600, 1, 10**6)
    """steps of the longest stream: 128 s, so that "over 64 s" is true for a while"""
    shortest: int = number(100, 1, 10**6)
    question_rate: float = number(0.9, 0, 1)
    without_modality: float = number(0.04, 0, 0.5)
    """share of streams without pictures, and of streams without sound"""
    quiet_share: float = number(0.3, 0, 1)
    """share of the phases of a stream in which nothing happens"""
    gaps: tuple[float, float] = numbers((3.0, 80.0), 0.1, 10**6)
    """mean steps between events, drawn for each phase between these two"""
    silent_end: float = number(0.0, 0, 1)
    """share of streams of the longest kind in which nothing happens any more after the first 4 to 20 s"""
    curriculum: tuple[int, int] = numbers((0, 0), 0)
    """How many of each row's first streams are brisk (pace 0), and over how many more the pace rises to 1, the task's own.
    Brisk streams are short, with sightings of one step and only the clearest step of each word, so that many events fit
    between two updates."""
    mixed_pace: float = number(0.0, 0, 1)
    """share of streams of any pace after these"""
    noise: float = number(0.12, 0, 1)
    """standard deviation of the pixel noise, at most"""

    def check(self, where: str) -> None:
        """Raise an OptionError where the values do not go together."""
        if self.shortest > self.longest:
            raise OptionError(f"{where}shortest={self.shortest} and {where}longest={self.longest}: expected shortest <= longest")
        if self.gaps[0] > self.gaps[1]:
            raise OptionError(f"{where}gaps={list(self.gaps)}: expected the smaller first")


@dataclass(frozen=True)
class Spoken:
    """One spoken digit: clip `clip` of the bank begins at step `first` and is heard from step `counts_from` on."""

    first: int
    counts_from: int
    digit: int
    clip: int


@dataclass(frozen=True)
class Stream:
    """The whole plan of one stream of `steps` steps."""

    steps: int
    sightings: list[Sighting]
    spoken: list[Spoken]
    clutter: list[tuple[int, int, float]]
    """(first step, image, strength) of each background scene"""
    noise: float
    background: int
    """kind of background sound"""
    ambient_offset: int
    has_frames: bool
    has_sound: bool
    questions: np.ndarray
    """[steps, 2]: question and answer, -1 where nothing is asked"""
    facts: np.ndarray
    """[steps, FACTS]"""
    pace: float = 1.0

    def truth(self) -> Truth:
        """What is true at each step."""
        return truth_of(self.sightings, self.spoken)


def audible(word: Spoken, pace: float) -> tuple[int, int]:
    """First step and end of what is heard of a word at a pace: at 0 only the step after its last sound."""
    lead = round(pace * (word.counts_from - word.first))
    return word.counts_from - lead, word.counts_from + BRISK_TAIL + round(pace * (TAIL - BRISK_TAIL))


def truth_of(sightings: Sequence[Sighting], spoken: Sequence[Spoken]) -> Truth:
    """The truth of a plan."""
    return Truth([(s.first, s.last, s.digit) for s in sightings], [(s.counts_from, s.digit) for s in spoken])


class Planner:
    """Draws the plans of streams."""

    def __init__(self, config: RecallConfig, bank: SpeechBank):
        self.config, self.bank = config, bank
        self.labels = digit_images(config.split)[1]
        self.by_digit = [np.flatnonzero(self.labels == d) for d in range(10)]
        kinds = len(bank.ambient)
        self.clips = [[np.flatnonzero((bank.background == c) & (bank.digit == d)) for d in range(10)] for c in range(kinds)]
        self.kinds = [c for c in range(kinds) if all(len(found) for found in self.clips[c])]

    def draw(self, rng: np.random.Generator, number: int = 0) -> Stream:
        """A random stream, the row's stream of that number."""
        pace = self._pace(rng, number)
        steps = int(
            rng.integers(
                int(between(BRISK_STEPS[0], self.config.shortest, pace)),
                1 + int(between(BRISK_STEPS[1], self.config.longest, pace)),
            )
        )
        missing = rng.random()
        has_frames = missing >= self.config.without_modality
        has_sound = not self.config.without_modality <= missing < 2 * self.config.without_modality
        background = int(rng.choice(self.kinds))
        phases = self._phases(rng, steps, pace)
        if pace == 1 and rng.random() < self.config.silent_end:
            steps = self.config.longest
            phases = self._phases(rng, int(rng.integers(50, min(250, steps) + 1)), pace)
        sightings = self.sightings(rng, phases, pace) if has_frames else []
        spoken = self.spoken(rng, phases, background, sightings, pace) if has_sound else []
        plan = Stream(
            steps,
            sightings,
            spoken,
            self.clutter(rng, steps),
            float(rng.uniform(0, self.config.noise)),
            background,
            int(rng.integers(1 << 30)),
            has_frames,
            has_sound,
            np.zeros((0, 2)),
            np.zeros((0, FACTS)),
            pace,
        )
        return self._with_questions(rng, plan)

    def _pace(self, rng: np.random.Generator, number: int) -> float:
        brisk, rising = self.config.curriculum
        if number < brisk:
            return 0.0
        if number < brisk + rising:
            return float(rng.uniform(0, (number - brisk + 1) / rising))
        return float(rng.uniform()) if rng.random() < self.config.mixed_pace else 1.0

    def _phases(self, rng: np.random.Generator, steps: int, pace: float) -> list[tuple[int, int, float]]:
        """(first, end, mean gap between events) of the stretches of a stream; an infinite gap: nothing happens."""
        phases, at = [], 0
        low, high = (between(brisk, own, pace) for brisk, own in zip(BRISK_GAPS, self.config.gaps, strict=True))
        while at < steps:
            quiet = rng.random() < self.config.quiet_share * pace and at > 0
            length = int(np.exp(rng.uniform(np.log(30), np.log(900 if quiet else 400))))
            gap = np.inf if quiet else float(np.exp(rng.uniform(np.log(low), np.log(high))))
            phases.append((at, min(at + length, steps), gap))
            at += length
        return phases

    def sightings(
        self,
        rng: np.random.Generator,
        phases: list[tuple[int, int, float]],
        pace: float = 1.0,
    ) -> list[Sighting]:
        """Digits in the frame, one at a time."""
        shortest, longest, apart = (round(between(brisk, own, pace)) for brisk, own in zip(BRISK_SIGHTING, SIGHTING, strict=True))
        found: list[Sighting] = []
        free = 0
        for first, end, gap in phases:
            at = max(first, free)
            while np.isfinite(gap):
                at += int(rng.exponential(gap))
                length = int(rng.integers(shortest, longest + 1))
                if at + length > end:
                    break
                digit = int(rng.integers(10))
                image = int(rng.choice(self.by_digit[digit]))
                found.append(random_sighting(rng, at, length, digit, image))
                free = at = at + length + apart
        return found

    def spoken(
        self,
        rng: np.random.Generator,
        phases: list[tuple[int, int, float]],
        background: int,
        sightings: Sequence[Sighting],
        pace: float = 1.0,
    ) -> list[Spoken]:
        """Words one at a time, far enough apart that no embedding window holds two.

        None begins to count within 2 steps of the last sight of a digit: there "before" would be a matter of taste.
        """
        unclear = {s.last + d for s in sightings for d in range(-round(pace), round(2 * pace) + 1) if pace}
        found: list[Spoken] = []
        free = 0
        for first, end, gap in phases:
            at = max(first, free)
            while np.isfinite(gap):
                at += int(rng.exponential(gap))
                digit = int(rng.integers(10))
                clip = int(rng.choice(self.clips[background][digit]))
                length = int(self.bank.length[clip])
                word = Spoken(0, length, digit, clip)
                heard, faded = audible(word, pace)
                while at + length - heard in unclear:
                    at += 1
                if at + faded - heard > end:
                    break
                found.append(replace(word, first=at - heard, counts_from=at + length - heard))
                free = at = at + faded - heard + 1
        return found

    def clutter(self, rng: np.random.Generator, steps: int) -> list[tuple[int, int, float]]:
        """Background scenes, one after the other."""
        scenes, at = [], 0
        while at < steps:
            scenes.append((at, int(rng.integers(1 << 30)), float(rng.uniform(0, 0.8))))
            at += int(np.exp(rng.uniform(np.log(10), np.log(300))))
        return scenes

    def _with_questions(self, rng: np.random.Generator, plan: Stream) -> Stream:
        truth = plan.truth()
        questions = np.full((plan.steps, 2), -1)
        facts = np.empty((plan.steps, FACTS), np.int64)
        asked = rng.random(plan.steps) < self.config.question_rate
        known: tuple[int, int] | None = None
        current: list[int] = []
        for step in range(plan.steps):
            truth.advance(step)
            if known != (truth.seen_count, truth.heard_count):
                known, current = (truth.seen_count, truth.heard_count), truth.facts()
            facts[step] = current
            facts[step, -1] = truth.ago()
            if asked[step]:
                questions[step] = truth.draw_question(rng)
        return replace(plan, questions=questions, facts=facts)
