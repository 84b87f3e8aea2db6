"""Accuracy of recall by kind of question and by delay, on held-out images and voices.

Each stream has a busy beginning whose last event ends at one moment; then only background runs. At every delay each
question is asked of what the step gave; the stream goes on as if nothing had been asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenturing.errors import OptionError
from tokenturing.evaluate.figures import Figure
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.options import build, number, parse
from tokenturing.runtime import Runtime
from tokenturing.tasks.contract import Report, device_of
from tokenturing.tasks.recall.eyes.perception import Perception
from tokenturing.tasks.recall.model import PerceivedInput, RecallModel
from tokenturing.tasks.recall.session import check_inputs
from tokenturing.tasks.recall.voices.bank import SpeechBank
from tokenturing.tasks.recall.world.plans import Planner, RecallConfig, Spoken, Stream
from tokenturing.tasks.recall.world.questions import AGO, BOUND, DEPTH, HEARD, KINDS, NOTHING, Truth
from tokenturing.tasks.recall.world.render import Renderer
from tokenturing.tasks.recall.world.scenes import random_sighting
from tokenturing.tasks.recall.world.streams import RecallInput

DELAYS = (0.5, 5.0, 60.0, 600.0)
CHUNK = 50
BUSY = (100, 375)
"""steps of the busy beginning, from 8 to 30 s"""


@dataclass(frozen=True)
class ProbeOptions:
    """What an evaluation takes from the command line."""

    rows: int = number(128, 2)
    """streams to test on; each question is asked of half of them"""
    delays: tuple[float, ...] = DELAYS
    """seconds between the end of the last event and the question; background runs through them"""
    seed: int = number(1, 0)
    """of the streams"""
    speech: str = ""
    """test on those speakers of this folder ({digit}_{speaker}_{index}.wav) that no model was trained on"""
    bank: str = ""
    """test on the voices of this file, which `SpeechBank.save` wrote"""

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> "ProbeOptions":
        """From texts by name, delays as "0.5,5"."""
        content: dict[str, Any] = {
            key: value if key in ("speech", "bank", "delays") else parse(value) for key, value in options.items()
        }
        delays = content.pop("delays", None)
        chosen = build(cls(), content, "--")
        return chosen if delays is None else replace(chosen, delays=parse_delays(delays))


def parse_delays(text: str) -> tuple[float, ...]:
    """ "0.5,5" -> 0.5 and 5.0, ascending, each once."""
    try:
        seconds = [float(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"--delays {text!r}: expected seconds, such as 0.5,5,60,600") from None
    delay_steps(seconds)
    return tuple(sorted(set(seconds)))


def delay_steps(delays: Sequence[float]) -> list[int]:
    """Delays in seconds -> steps, at least one each."""
    if not delays or any(not np.isfinite(d) or d <= 0 or d > 86400 for d in delays):
        raise OptionError(f"delays={list(delays)}: expected seconds above 0 and at most 86400, such as 0.5,5,60,600")
    return [max(1, round(delay / STEP_SECONDS)) for delay in delays]


class Probe:
    """Held-out streams that fall silent at step `end`, and the questions to ask of them.

    Args:
        bank: voices of the split.
        rows: B; the last event of even rows is a sighting, of odd rows a spoken digit.
        split: of the images.
        seed: of everything drawn.
    """

    def __init__(self, bank: SpeechBank, rows: int, split: str = "test", seed: int = 1):
        self.planner = Planner(RecallConfig(split=split, without_modality=0.0), bank)
        self.renderer = Renderer(split, bank)
        self.rng = np.random.default_rng([seed, 4242])
        self.end = BUSY[1]
        self.plans = [self._plan(last_is_seen=row % 2 == 0) for row in range(rows)]

    def _plan(self, last_is_seen: bool) -> Stream:
        rng, planner = self.rng, self.planner
        begin = self.end - int(rng.integers(*BUSY))
        background = int(rng.choice(planner.kinds))
        gap = float(np.exp(rng.uniform(np.log(3), np.log(40))))
        digit = int(rng.integers(10))
        if last_is_seen:
            length = int(rng.integers(4, 11))
            image = int(rng.choice(planner.by_digit[digit]))
            last = random_sighting(rng, self.end - length + 1, length, digit, image)
            sightings = [*planner.sightings(rng, [(begin, last.first - 3, gap)]), last]
            spoken = planner.spoken(rng, [(begin, self.end + 5, gap)], background, sightings)
            spoken = [word for word in spoken if word.counts_from <= self.end - 2]
        else:
            clip = int(rng.choice(planner.clips[background][digit]))
            first = self.end + 1 - int(planner.bank.length[clip])
            sightings = planner.sightings(rng, [(begin, self.end - 3, gap)])
            sightings = [s for s in sightings if s.last < self.end - 3]
            spoken = planner.spoken(rng, [(begin, first - 1, gap)], background, sightings)
            spoken.append(Spoken(first, self.end + 1, digit, clip))
        return Stream(
            1 << 40,
            sightings,
            spoken,
            planner.clutter(rng, 8000),
            float(rng.uniform(0, planner.config.noise)),
            background,
            int(rng.integers(1 << 30)),
            True,
            True,
            np.zeros((0, 2)),
            np.zeros((0, 0)),
        )

    def inputs(self, start: int, steps: int) -> RecallInput:
        """What is seen and heard on steps start ... start + steps - 1."""
        rows = len(self.plans)
        starts = [start] * rows
        rng = np.random.default_rng([7, start])
        present = torch.ones(rows, steps, dtype=torch.bool)
        return RecallInput(
            self.renderer.frames(self.plans, starts, steps, rng),
            self.renderer.sound(self.plans, starts, steps),
            present,
            present,
        )

    def truths(self, step: int) -> list[Truth]:
        """What is true in each row at a step."""
        found = [plan.truth() for plan in self.plans]
        for truth in found:
            truth.advance(step)
        return found

    def questions(self, step: int) -> list[tuple[int, list[int], Tensor, Tensor]]:
        """(kind, rows, questions, answers) to ask at a step."""
        truths = self.truths(step)
        seen_rows, heard_rows = list(range(0, len(truths), 2)), list(range(1, len(truths), 2))
        asked = []
        for kind in range(len(KINDS)):
            rows = heard_rows if HEARD <= kind < BOUND else seen_rows
            for repeat in range(2 if kind == BOUND else 1):
                questions = [self._question(kind, truths[row], row + 977 * repeat) for row in rows]
                answers = [truths[row].answer(q) for row, q in zip(rows, questions, strict=True)]
                asked.append((kind, rows, torch.tensor(questions), torch.tensor(answers)))
        return asked

    @staticmethod
    def _question(kind: int, truth: Truth, draw: int) -> int:
        if kind < BOUND:
            return kind
        if kind > BOUND:
            return AGO
        rng = np.random.default_rng(draw)
        digit = truth.seen_last(int(rng.integers(1, DEPTH + 1)))
        if digit == NOTHING or rng.random() < 0.1:
            never = [d for d in range(10) if truth.bound(d) is not None]
            digit = int(rng.choice(never))
        return BOUND + digit


@torch.no_grad()
def evaluate(
    models: Mapping[str, RecallModel | Runtime],
    bank: SpeechBank,
    delays: Sequence[float] = DELAYS,
    *,
    rows: int = 128,
    split: str = "test",
    seed: int = 1,
    report: Report | None = None,
) -> dict[str, list[Figure]]:
    """Accuracy of each model on the same held-out streams.

    Args:
        models: by name; those that share a perception's weights share its work. Exported ones run on ONNX Runtime.
        bank: voices that no model was trained on.
        delays: seconds between the end of the last event and the question.
        rows: streams; half of them end in a sighting, half in a spoken digit.
        split: of the images, "test" or "validation".
        seed: of the streams.
        report: told how far it is.

    Returns:
        For each model its figures, by kind and delay.
    """
    probe = Probe(bank, rows, split, seed)
    due = {probe.end + steps: delay for steps, delay in zip(delay_steps(delays), delays, strict=True)}
    runs = {
        name: ExportedRun(model, rows) if isinstance(model, Runtime) else ModelRun(model.eval(), rows)
        for name, model in models.items()
    }
    at, last = 0, max(due)
    for moment in sorted(due):
        while at <= moment:
            steps = min(CHUNK, moment + 1 - at)
            seen = Perceived(probe.inputs(at, steps))
            for run in runs.values():
                run.advance(seen)
            at += steps
            if report:
                report("evaluating", at, last + 1)
        questions = probe.questions(moment)
        for run in runs.values():
            run.ask(questions, due[moment])
    return {name: run.figures() for name, run in runs.items()}


class Perceived:
    """Inputs as the models perceive them; models with the same eyes and ears share the work."""

    def __init__(self, inputs: RecallInput):
        self.inputs = inputs
        self.known: list[tuple[Perception, PerceivedInput]] = []

    def by(self, model: RecallModel) -> PerceivedInput:
        """What this model perceives."""
        own = model.perception.state_dict()
        for perception, perceived in self.known:
            other = perception.state_dict()
            if own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own):
                return perceived
        inputs = RecallInput(*(part.to(device_of(model)) for part in self.inputs))
        self.known.append((model.perception, model.perceive(inputs)))
        return self.known[-1][1]


class Run:
    """One model on the streams of a probe."""

    def __init__(self) -> None:
        self.right: dict[tuple[str, float], int] = {}
        self.count: dict[tuple[str, float], int] = {}

    def advance(self, seen: Perceived) -> None:
        """Go on by these steps."""
        raise NotImplementedError

    def answer(self, rows: list[int], question: Tensor) -> Tensor:
        """The answers of some rows to one question each, as of the last step."""
        raise NotImplementedError

    def ask(self, questions: list[tuple[int, list[int], Tensor, Tensor]], delay: float) -> None:
        """Ask each question."""
        for kind, rows, question, answers in questions:
            key = (KINDS[kind], delay)
            self.right[key] = self.right.get(key, 0) + int((self.answer(rows, question) == answers).sum())
            self.count[key] = self.count.get(key, 0) + len(rows)

    def figures(self) -> list[Figure]:
        """The result so far."""
        return [Figure.share(kind, right, self.count[kind, delay], delay=delay) for (kind, delay), right in self.right.items()]


class ModelRun(Run):
    """A model as it was trained."""

    def __init__(self, model: RecallModel, rows: int):
        super().__init__()
        self.model, self.state = model, model.initial_state(rows)

    def advance(self, seen: Perceived) -> None:
        y, self.state = self.model(seen.by(self.model), self.state)
        self.y = y[:, -1]

    def answer(self, rows: list[int], question: Tensor) -> Tensor:
        return self.model.ask(self.y[rows], question.unsqueeze(-1).to(self.y.device)).squeeze(-2).argmax(-1).cpu()


class ExportedRun(Run):
    """A model as it was exported, eyes and ears included: one step at a time."""

    def __init__(self, model: Runtime, rows: int):
        super().__init__()
        check_inputs(model)
        self.model, self.state = model, model.initial_state(rows)

    def advance(self, seen: Perceived) -> None:
        for step in range(seen.inputs.frames.shape[1]):
            self.y, self.state = self.model.step([part[:, step].numpy() for part in seen.inputs], self.state)

    def answer(self, rows: list[int], question: Tensor) -> Tensor:
        return torch.from_numpy(self.model.ask(self.y[rows], question.numpy()[:, None])).squeeze(-2).argmax(-1)
