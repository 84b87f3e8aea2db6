"""The recall task: streams of digits seen and heard among background, with questions at any step.

`RecallStreams` gives chunks of streams that go on from chunk to chunk. A row's stream is drawn whole from (seed, row,
number of the stream), so the iterator's own state is two integers a row, and a run that was killed goes on the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tokenturing.tasks.digits import digit_images
from tokenturing.tasks.questions import FACTS, NOTHING, Truth
from tokenturing.tasks.scenes import SIZE, NoisePool, Sighting, clutter_bank, random_sighting, render_digits
from tokenturing.tasks.speech import SpeechBank

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

    split: str = "train"
    longest: int = 1000
    """steps of the longest stream: 80 s, so that "over 64 s" is sometimes true"""
    shortest: int = 100
    question_rate: float = 0.9
    without_modality: float = 0.04
    """share of streams without pictures, and of streams without sound"""
    quiet_share: float = 0.3
    """share of the phases of a stream in which nothing happens"""
    gaps: tuple[float, float] = (3.0, 80.0)
    """mean steps between events, drawn for each phase between these two"""
    silent_end: float = 0.0
    """share of streams of the longest kind in which nothing happens any more after the first 4 to 20 s"""
    curriculum: tuple[int, int] = (0, 0)
    """How many of each row's first streams are brisk (pace 0), and over how many more the pace rises to 1, the task's own.
    Brisk streams are short, with sightings of one step and only the clearest step of each word, so that many events fit
    between two updates."""
    mixed_pace: float = 0.0
    """share of streams of any pace after these"""
    noise: float = 0.12
    """standard deviation of the pixel noise, at most"""


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

    def audible(self, word: Spoken) -> tuple[int, int]:
        """First step and end of what is heard of a word: at pace 0 only the step after its last sound."""
        return audible(word, self.pace)

    def truth(self) -> Truth:
        """What is true at each step."""
        return truth_of(self.sightings, self.spoken)


def audible(word: Spoken, pace: float) -> tuple[int, int]:
    """First step and end of what is heard of a word at a pace."""
    lead = round(pace * (word.counts_from - word.first))
    return word.counts_from - lead, word.counts_from + BRISK_TAIL + round(pace * (TAIL - BRISK_TAIL))


def truth_of(sightings: Sequence[Sighting], spoken: Sequence[Spoken]) -> Truth:
    """The truth of a plan."""
    return Truth([(s.first, s.last, s.digit) for s in sightings], [(s.counts_from, s.digit) for s in spoken])


@dataclass
class Batch:
    """Chunks of B streams, T steps each."""

    frames: Tensor
    """[B, T, 32, 32] float32 (or what another renderer makes of them)"""
    sound: Tensor
    """[B, T, 96] float32"""
    has_frame: Tensor
    """bool [B, T]"""
    has_sound: Tensor
    """bool [B, T]"""
    question: Tensor
    """[B, T] int64, -1: none"""
    answer: Tensor
    """[B, T] int64, -1: none"""
    facts: Tensor
    """[B, T, FACTS] int64"""
    reset: Tensor
    """bool [B, T], true at the first step of a stream"""
    visible: Tensor
    """[B, T] the digit in the frame, NOTHING where there is none"""
    spoken: Tensor
    """[B, T] the digit just heard, NOTHING where there is none, -1 where it is not clear yet"""


class Planner:
    """Draws the plans of streams."""

    def __init__(self, config: RecallConfig, bank: SpeechBank):
        self.config, self.bank = config, bank
        self.labels = digit_images(config.split)[1]
        self.by_digit = [np.flatnonzero(self.labels == d) for d in range(10)]
        kinds = len(bank.ambient)
        self.clips = [
            [np.flatnonzero((bank.background == c) & (bank.digit == d)) for d in range(10)]
            for c in range(kinds)
        ]
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
            steps, sightings, spoken, self.clutter(rng, steps), float(rng.uniform(0, self.config.noise)), background,
            int(rng.integers(1 << 30)), has_frames, has_sound, np.zeros((0, 2)), np.zeros((0, FACTS)), pace,
        )  # fmt: skip
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
        low, high = (
            between(brisk, own, pace) for brisk, own in zip(BRISK_GAPS, self.config.gaps, strict=True)
        )
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
        shortest, longest, apart = (
            round(between(brisk, own, pace)) for brisk, own in zip(BRISK_SIGHTING, SIGHTING, strict=True)
        )
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
        self, rng: np.random.Generator, phases: list[tuple[int, int, float]], background: int,
        sightings: Sequence[Sighting], pace: float = 1.0,
    ) -> list[Spoken]:  # fmt: skip
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


class Renderer:
    """Turns stretches of plans into what is seen and heard."""

    def __init__(self, split: str, bank: SpeechBank, seed: int = 0):
        self.images = torch.from_numpy(digit_images(split)[0])
        self.bank = bank
        self.clutter = clutter_bank(seed if split == "train" else seed + 1)
        self.noise = NoisePool(seed)

    def frames(
        self, plans: Sequence[Stream], starts: Sequence[int], steps: int, rng: np.random.Generator
    ) -> Tensor:
        """[B, T, 32, 32]: T steps of each plan from its start on."""
        frames = self.noise.draw(len(plans) * steps, rng).view(len(plans), steps, SIZE, SIZE)
        frames = frames * torch.tensor([plan.noise for plan in plans]).view(-1, 1, 1, 1)
        where, what = [], []
        for row, (plan, start) in enumerate(zip(plans, starts, strict=True)):
            ends = [scene[0] for scene in plan.clutter[1:]] + [1 << 60]
            for (first, image, strength), end in zip(plan.clutter, ends, strict=True):
                low, high = max(first - start, 0), min(end - start, steps)
                if low < high:
                    frames[row, low:high] += strength * self.clutter[image % len(self.clutter)]
            for sighting in plan.sightings:
                for step in range(max(sighting.first, start), min(sighting.last + 1, start + steps)):
                    where.append((row, step - start))
                    what.append((sighting, step))
        if what:
            digits = render_digits(
                self.images[[s.image for s, _ in what]],
                torch.tensor([s.centre(step) for s, step in what]),
                torch.tensor([s.size for s, _ in what]),
                torch.tensor([s.turn for s, _ in what]),
            )
            rows, columns = torch.tensor(where).unbind(1)
            digits = digits * torch.tensor([s.brightness for s, _ in what]).view(-1, 1, 1)
            frames[rows, columns] = torch.maximum(frames[rows, columns], digits + 0.3 * frames[rows, columns])
        return frames.clamp_(0, 1)

    def sound(self, plans: Sequence[Stream], starts: Sequence[int], steps: int) -> Tensor:
        """[B, T, 96]: the speech embedding of T steps of each plan from its start on."""
        sound = np.empty((len(plans), steps, 96), np.float32)
        for row, (plan, start) in enumerate(zip(plans, starts, strict=True)):
            ambient = self.bank.ambient[plan.background]
            at = (plan.ambient_offset + start + np.arange(steps)) % len(ambient)
            sound[row] = ambient[at]
            for word in plan.spoken:
                first, end = plan.audible(word)
                low, high = max(first, start), min(end, start + steps)
                if low < high:
                    sound[row, low - start : high - start] = self.bank.clips[
                        word.clip, low - word.first : high - word.first
                    ]
        return torch.from_numpy(sound)

    def labels(self, plans: Sequence[Stream], starts: Sequence[int], steps: int) -> tuple[Tensor, Tensor]:
        """[B, T] digit visible now and [B, T] digit just heard (-1: in the middle of a word or of its fading)."""
        visible = np.full((len(plans), steps), NOTHING)
        spoken = np.full((len(plans), steps), NOTHING)
        for row, (plan, start) in enumerate(zip(plans, starts, strict=True)):
            for sighting in plan.sightings:
                if sighting.first < start + steps and sighting.last >= start:
                    visible[row, max(sighting.first - start, 0) : sighting.last + 1 - start] = sighting.digit
            for word in plan.spoken:
                if word.first < start + steps and word.counts_from + 6 > start:
                    spoken[row, max(word.first + 1 - start, 0) : max(word.counts_from + 6 - start, 0)] = -1
                    spoken[row, max(word.counts_from - start, 0) : max(word.counts_from + 4 - start, 0)] = (
                        word.digit
                    )
        return torch.from_numpy(visible), torch.from_numpy(spoken)


class RecallStreams:
    """An endless seeded iterator over chunks [B, T] of streams that go on from chunk to chunk.

    Args:
        rows: B.
        steps: T.
        bank: the spoken digits and background sounds of the split.
        config: what the streams are like.
        seed: of everything drawn.
        renderer: what makes pictures and sound of the plans.
    """

    def __init__(
        self, rows: int, steps: int, bank: SpeechBank, config: RecallConfig | None = None, seed: int = 0,
        renderer: Renderer | None = None,
    ):  # fmt: skip
        config = config or RecallConfig()
        self.rows, self.steps, self.seed = rows, steps, seed
        self.planner = Planner(config, bank)
        self.renderer = renderer or Renderer(config.split, bank)
        self.chunk = 0
        self.position = [(0, 0)] * rows
        """(number of the stream, step in it) of each row"""
        self.plans: list[Stream] = []

    def state(self) -> dict:
        """Where the iterator stands, as plain numbers."""
        return {"chunk": self.chunk, "position": [list(p) for p in self.position]}

    def restore(self, state: dict) -> None:
        """Go on from where `state()` was taken."""
        self.chunk = state["chunk"]
        self.position = [(number, step) for number, step in state["position"]]
        self.plans = []

    def _plan(self, row: int) -> Stream:
        return self.planner.draw(
            np.random.default_rng([self.seed, row, number := self.position[row][0]]), number
        )

    def __iter__(self) -> "RecallStreams":
        return self

    def __next__(self) -> Batch:
        if not self.plans:
            self.plans = [self._plan(row) for row in range(self.rows)]
        rng = np.random.default_rng([self.seed, 1 << 21, self.chunk])
        parts = [self._row(row) for row in range(self.rows)]
        batch = self._render(parts, rng)
        self.chunk += 1
        return batch

    def _row(self, row: int) -> list[tuple[Stream, int, int]]:
        """(plan, start, steps) of the pieces that make up this row's chunk; moves the row on."""
        pieces, left = [], self.steps
        while left:
            number, step = self.position[row]
            length = min(left, self.plans[row].steps - step)
            pieces.append((self.plans[row], step, length))
            left -= length
            self.position[row] = (number, step + length)
            if step + length == self.plans[row].steps:
                self.position[row] = (number + 1, 0)
                self.plans[row] = self._plan(row)
        return pieces

    def _render(self, parts: list[list[tuple[Stream, int, int]]], rng: np.random.Generator) -> Batch:
        rows = [self._piece(pieces, rng) for pieces in parts]
        return Batch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def _piece(self, pieces: list[tuple[Stream, int, int]], rng: np.random.Generator) -> dict[str, Tensor]:
        made = []
        for plan, start, steps in pieces:
            visible, spoken = self.renderer.labels([plan], [start], steps)
            asked = torch.from_numpy(plan.questions[start : start + steps])
            reset = torch.zeros(steps, dtype=torch.bool)
            reset[0] = start == 0
            made.append({
                "frames": self.renderer.frames([plan], [start], steps, rng)[0],
                "sound": self.renderer.sound([plan], [start], steps)[0],
                "has_frame": torch.full((steps,), plan.has_frames),
                "has_sound": torch.full((steps,), plan.has_sound),
                "question": asked[:, 0],
                "answer": asked[:, 1],
                "facts": torch.from_numpy(plan.facts[start : start + steps]),
                "reset": reset,
                "visible": visible[0],
                "spoken": spoken[0],
            })  # fmt: skip
        return {name: torch.cat([piece[name] for piece in made]) for name in made[0]}
