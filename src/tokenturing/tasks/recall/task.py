"""The recall task: digits are seen and heard, and asked about at any time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.checkpoint import load
from tokenturing.errors import OptionError, a
from tokenturing.evaluate.figures import Figure
from tokenturing.layers.look_back import LookBack
from tokenturing.models.eager import eager
from tokenturing.options import check_arguments, number
from tokenturing.runtime import Runtime
from tokenturing.tasks.contract import Batch, Report, Task, device_of, mean
from tokenturing.tasks.recall.eyes.perception import Perception
from tokenturing.tasks.recall.model import RecallModel, memory_class
from tokenturing.tasks.recall.probe import ProbeOptions, evaluate
from tokenturing.tasks.recall.session import RecallSession
from tokenturing.tasks.recall.tokens import TokenRenderer, perceived
from tokenturing.tasks.recall.voices.bank import SpeechBank, join_banks
from tokenturing.tasks.recall.voices.choice import SpeechOptions, held_out_bank, training_banks, validation_bank
from tokenturing.tasks.recall.world.plans import RecallConfig
from tokenturing.tasks.recall.world.questions import ANSWERS, FACTS, KINDS, QUESTIONS, UNASKED, ask_all, kind_of
from tokenturing.tasks.recall.world.streams import RecallStreams, RecallTargets

KIND_OF_QUESTION = torch.tensor([KINDS.index(kind_of(q)) for q in range(len(QUESTIONS))])
VALIDATION_ROWS, VALIDATION_STEPS, VALIDATION_SEED = 48, 64, 99
DATA_SEED = 1
"""what the streams' seed is ahead of that of the weights"""


@dataclass(frozen=True)
class ModelOptions:
    """The memory behind the eyes and ears."""

    memory: str = "TokenTuringMachine"
    """class name of the recurrent model"""
    options: dict[str, Any] = field(default_factory=dict)
    """its constructor's arguments"""


@dataclass(frozen=True)
class LossOptions:
    """Weights of the losses beside that of the answers."""

    facts: float = number(0.5, 0)
    """of the facts, read off the output at every step: they teach order early"""


@dataclass(frozen=True)
class ScheduleOptions:
    """What changes during the training of a Token Turing Machine."""

    late_clock: int = number(0, 0)
    """updates during which the clocks of the inputs are not read (`LookBack.heeds_clock`)"""


@dataclass(frozen=True)
class TokenOptions:
    """How much is perceived before training begins (`TokenRenderer`)."""

    sightings: int = number(10, 1)
    """of each image"""
    backgrounds: int = number(10_000, 100)
    """frames without a digit"""


@dataclass(frozen=True)
class RecallOptions:
    """The recipe of a model for the recall task."""

    perception: str = "recall-perception"
    """the frozen eyes and ears: the name or folder of a checkpoint"""
    model: ModelOptions = ModelOptions()
    data: RecallConfig = RecallConfig()
    speech: SpeechOptions = SpeechOptions()
    loss: LossOptions = LossOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    tokens: TokenOptions = TokenOptions()
    validation_chunks: int = number(12, 1)
    """how many chunks of 64 steps each validation takes"""

    def check(self, where: str) -> None:
        """Raise an OptionError where the memory does not take its options."""
        if self.model.options or self.model != ModelOptions():
            cls = memory_class(self.model.memory)
            check_arguments(cls, self.model.options, f"{where}model.options.", without=("input_tokens",))


class Losses(NamedTuple):
    """Mean cross-entropies of one batch."""

    answers: Tensor
    """of the answers to all that can be asked at every step (`ask_all`)"""
    facts: Tensor
    """of the facts, read off the output tokens by a linear head"""


class Recall(Task):
    """Train, validate, evaluate and stream models that recall.

    Args:
        options: of the recipe.
        seed: of weights and streams.
        report: told of work that takes long.
    """

    Config = RecallOptions
    extras = ("speech", "tasks")
    page = Path(__file__).parent / "page"

    def __init__(self, options: RecallOptions | None = None, seed: int = 0, report: Report | None = None):
        self.options = options or RecallOptions()
        self.seed, self.report = seed, report
        self._voices: tuple[SpeechBank, tuple[str, ...]] | None = None
        self._validation: list[Batch] | None = None

    def build(self) -> RecallModel:
        """The untrained model, behind its frozen perception."""
        perception = load(self.options.perception)
        if not isinstance(perception, Perception):
            raise OptionError(f"perception={self.options.perception!r} is {a(type(perception))}: expected a Perception")
        model = RecallModel(
            self.options.model.memory,
            self.options.model.options,
            len(QUESTIONS),
            len(ANSWERS),
            FACTS,
            perception.config["width"],
        )
        model.perception.load_state_dict(perception.state_dict())
        model.perception.requires_grad_(False)
        return model

    def voices(self) -> tuple[SpeechBank, tuple[str, ...]]:
        """The voices to train on, and the names of the human speakers among them."""
        if self._voices is None:
            banks, speakers = training_banks(self.options.speech, self.report)
            self._voices = join_banks(banks), speakers
        return self._voices

    def batches(self, split: str, rows: range, steps: int, model: nn.Module) -> RecallStreams:
        """Streams of frame tokens, not frames: the perception is frozen."""
        assert isinstance(model, RecallModel)
        if split == "validation":
            bank = validation_bank(self.options.speech, self.report)
            return self._streams(rows, steps, model, bank, self._unseen(), VALIDATION_SEED)
        if split != "train":
            raise OptionError(f"split={split!r}: expected 'train' or 'validation'; test streams are those of `evaluate`")
        return self._streams(rows, steps, model, self.voices()[0], self.options.data, self.seed + DATA_SEED)

    def _unseen(self) -> RecallConfig:
        longest = self.options.data.longest
        return RecallConfig("validation", without_modality=0.0, shortest=min(RecallConfig.shortest, longest), longest=longest)

    def _streams(
        self, rows: range, steps: int, model: RecallModel, bank: SpeechBank, config: RecallConfig, seed: int
    ) -> RecallStreams:
        tokens = self.options.tokens
        renderer = TokenRenderer(
            model.perception, bank, config, sightings=tokens.sightings, backgrounds=tokens.backgrounds, report=self.report
        )
        return RecallStreams(rows, steps, bank, config, seed=seed, renderer=renderer)

    def losses(self, model: nn.Module, batch: Batch, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Of all answers, of all facts, and what the memory adds, such as the cost of its writes."""
        assert isinstance(model, RecallModel)
        terms: dict[str, Tensor] = {}
        y, state = model(perceived(batch.inputs, model.perception), state, batch.reset, terms=terms)
        found = losses(model, y, batch)
        total = found.answers + self.options.loss.facts * found.facts + sum(terms.values())
        return {"loss": total, **found._asdict(), **terms}, state

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many answers and facts there are."""
        return counts(batch)

    def schedule(self, model: nn.Module, update: int) -> None:
        """Whether the inputs' clocks are read."""
        cell = getattr(getattr(model, "memory", None), "cell", None)
        if isinstance(look_back := getattr(cell, "look_back", None), LookBack):
            look_back.heeds_clock = update >= self.options.schedule.late_clock

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy by kind of question on streams of validation images and voices."""
        assert isinstance(model, RecallModel)
        if self._validation is None:
            streams = self.batches("validation", range(VALIDATION_ROWS), VALIDATION_STEPS, model)
            self._validation = [next(streams) for _ in range(self.options.validation_chunks)]
        return accuracy(model, self._validation)

    def notes(self) -> dict[str, Any]:
        """Who must not be tested on."""
        return {"human_speakers": list(self.voices()[1])}

    def evaluate(
        self, models: Mapping[str, Any], options: Mapping[str, str], report: Report | None = None
    ) -> dict[str, list[Figure]]:
        """Accuracy by kind of question and delay on test images and voices; options are those of `ProbeOptions`."""
        chosen = ProbeOptions.parse(options)
        bank = held_out_bank(chosen.speech, chosen.bank, [model.notes for model in models.values()], report)
        return evaluate(models, bank, chosen.delays, rows=chosen.rows, seed=chosen.seed, report=report)

    def tests_like(self, other: Task) -> bool:
        """All models are asked the same of the same streams."""
        return True

    def session(self, model: Any, media: Any) -> RecallSession:
        """A stream of pictures and sound; the model is one as trained, or on the runtime."""
        return RecallSession(model if isinstance(model, Runtime) else eager(model), hears=media.has_sound)


def counts(batch: Batch) -> dict[str, Tensor]:
    """How many answers and facts there are."""
    targets: RecallTargets = batch.targets
    _, answers = ask_all(targets.facts, targets.question, targets.answer)
    return {"answers": (answers != UNASKED).sum(), "facts": (targets.facts != UNASKED).sum()}


def losses(model: RecallModel, y: Tensor, batch: Batch) -> Losses:
    """What a model's answers, read off its memory's output tokens y [B, T, R, D], cost."""
    targets: RecallTargets = batch.targets
    questions, answers = ask_all(targets.facts, targets.question, targets.answer)
    over = batch.counts or counts(batch)
    return Losses(
        mean(_loss(model.ask(y, questions), answers), over["answers"]),
        mean(_loss(model.every_fact(y), targets.facts), over["facts"]),
    )


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    """The sum of the cross-entropies of what is asked in `truth`."""
    return F.cross_entropy(logits.float().flatten(0, -2), truth.flatten(), ignore_index=UNASKED, reduction="sum")


@torch.no_grad()
def accuracy(model: RecallModel, batches: list[Batch]) -> dict[str, float]:
    """Accuracy by kind of question on consecutive chunks, the first quarter of which only fills the memory."""
    right, count = np.zeros(len(KINDS)), np.zeros(len(KINDS))
    state = None
    for index, batch in enumerate(one.to(device_of(model)) for one in batches):
        y, state = model(perceived(batch.inputs, model.perception), state, batch.reset)
        if index < len(batches) // 4:
            continue
        question, answer = batch.targets.question, batch.targets.answer
        asked = question >= 0
        logits = model.ask(y[asked], question[asked].unsqueeze(-1)).squeeze(-2)
        kinds = KIND_OF_QUESTION[question[asked].cpu()].numpy()
        np.add.at(right, kinds, (logits.argmax(-1) == answer[asked]).cpu().numpy())
        np.add.at(count, kinds, 1)
    return {kind: float(r / c) for kind, r, c in zip(KINDS, right, count, strict=True) if c}
