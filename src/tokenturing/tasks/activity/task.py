"""Online activity detection: what goes on at each step of a stream, from the past alone. Subclasses give the streams."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing.errors import OptionError
from tokenturing.evaluate.figures import Figure
from tokenturing.media.view import View
from tokenturing.models.eager import eager
from tokenturing.options import build, check_arguments, choice, number, parse
from tokenturing.registry import find_class
from tokenturing.runtime import Runtime
from tokenturing.tasks.activity.augment import AugmentOptions
from tokenturing.tasks.activity.batches import ActivityBatches, Walker
from tokenturing.tasks.activity.judge import as_numbers, figures, shares, watch
from tokenturing.tasks.activity.model import ActivityModel
from tokenturing.tasks.activity.recording import segments_of, steps_of
from tokenturing.tasks.activity.seen import check_fits, check_unseen, fingerprint
from tokenturing.tasks.activity.streams import SPLITS, Split, Stream, Streams, filled_folds, normalisation, split
from tokenturing.tasks.activity.watching import VideoSession, view_for
from tokenturing.tasks.contract import Batch, Report, Segment, Task, mean

SMALL = {"width": 64, "memory_tokens": 16, "read_tokens": 8, "layers": 1, "heads": 4, "hidden": 128}


@dataclass(frozen=True)
class ModelOptions:
    """The memory between features and scores."""

    memory: str = "TokenTuringMachine"
    """class name of the recurrent model"""
    options: dict[str, Any] = field(default_factory=lambda: dict(SMALL))
    """its constructor's arguments"""
    embed: str = choice("linear", "relu", "mlp")
    """how features become tokens"""
    sees: str = choice("samples", "statistics", "both")
    """what a token of a sensor's samples sees of them"""
    dropout: float = number(0.1, 0, 0.9)
    """on tokens and on what the head sees"""
    skip: bool = False
    """whether the features lead past the memory to the scores too, by a linear layer"""
    pool: str = choice("mean", "flat")
    """what the head sees of the output tokens"""

    def check(self, where: str) -> None:
        """Raise an error where the memory does not take its options."""
        check_arguments(find_class(self.memory), self.options, f"{where}options.", without=("input_tokens",))


@dataclass(frozen=True)
class DataOptions:
    """Which streams are for what, and how chunks are drawn from them."""

    fold: int = number(0, -1)
    """which groups are tested; -1: none, all are trained on"""
    leave_out: int = number(1, 1)
    """groups tested in a fold"""
    validation: float = number(0.15, 0, 0.9)
    """share of the training streams that is kept for every choice, such as which weights are the best"""
    validation_groups: int = number(0, 0)
    """whole groups that are kept for that in place of a share of the streams: those that follow the tested ones. Streams of one
    group may be so alike (the same people, features of one making) that some of them say too well how others will go"""
    draw: str = choice("carry", "window")
    """"carry": whole streams, the state carried from chunk to chunk; "window": chunks from anywhere, each from a fresh state"""
    last: int = number(0, 0)
    """steps at the end of a chunk that the loss counts; 0: all"""
    test: str = ""
    """the only group that is tested, where the data say so themselves; then there is one fold"""


@dataclass(frozen=True)
class LossOptions:
    """What is minimised."""

    smoothing: float = number(0.0, 0, 0.9)
    """of the labels, where one activity goes on at a time"""
    several: str = choice("binary", "shares")
    """where several may go on: "binary", each by itself; "shares", as shares of one (MiniROAD)"""


@dataclass(frozen=True)
class ActivityOptions:
    """The recipe of a model."""

    model: ModelOptions = ModelOptions()
    data: DataOptions = DataOptions()
    augment: AugmentOptions = AugmentOptions()
    loss: LossOptions = LossOptions()


@dataclass(frozen=True)
class EvaluationOptions:
    """What an evaluation takes from the command line."""

    split: str = choice("test", "validation", "train")
    """streams to watch"""
    resamples: int = number(200, 0, 100_000)
    """of the streams, for the intervals"""
    seed: int = number(0, 0)
    """of the resamples"""
    path: str = ""
    """where the data are, if not where they were in training"""


class Activity(Task):
    """Train, validate, evaluate and stream models that say what goes on.

    Args:
        options: of the recipe.
        seed: of weights and chunks.
        report: told of work that takes long.
    """

    Config: ClassVar[type] = ActivityOptions

    def __init__(self, options: Any = None, seed: int = 0, report: Report | None = None):
        self.options: Any = options or self.Config()
        self.seed, self.report = seed, report

    def load(self, data: Any) -> Streams:
        """All streams, by the recipe's table [data]."""
        raise NotImplementedError

    @cached_property
    def streams(self) -> Streams:
        """All streams; what was odd about them is said once."""
        found = self.load(self.options.data)
        if not found.streams:
            raise OptionError(f"the task {type(self).__name__} found no streams: {'; '.join(found.problems) or 'no files'}")
        for problem in found.problems:
            warnings.warn(problem, stacklevel=1)  # ours, which the command line shows
        return found

    @cached_property
    def parts(self) -> Split:
        """The streams to train on, to validate on and to test on."""
        data = self.options.data
        return split(self.streams, data.fold, data.leave_out, data.validation, data.test, data.validation_groups)

    def folds(self) -> list[str]:
        """Settings of a recipe, one for each fold."""
        data = self.options.data
        return [f"data.fold={fold}" for fold in filled_folds(self.streams, data.leave_out, data.test)]

    def fingerprint(self) -> dict[str, str]:
        """What each stream holds, and of which group it is."""
        return fingerprint(self.streams.streams)

    def build(self) -> ActivityModel:
        """The untrained model, which knows mean and deviation of the training features."""
        streams, options = self.streams, self.options.model
        model = ActivityModel(
            options.memory,
            options.options,
            streams.classes,
            list(streams.streams[0].features.shape[1:]),
            streams.multi_label,
            streams.source,
            samples=streams.samples,
            sees=options.sees,
            embed=options.embed,
            dropout=options.dropout,
            pool=options.pool,
            skip=options.skip,
            several=self.options.loss.several,
        )
        model.normalise_by(*normalisation(self.parts.train, streams.samples))
        return model

    def batches(self, split: str, rows: range, steps: int, model: nn.Module) -> ActivityBatches:
        """Chunks of the training streams, changed; those of other splits as they are."""
        streams = self._of(split)
        augment = self.options.augment if split == "train" else AugmentOptions()
        spread = normalisation(self.parts.train, self.streams.samples)
        walker = Walker(
            streams, self.streams.samples, augment, *spread, seed=(self.seed, SPLITS.index(split)), mirror=self.streams.mirror
        )
        return ActivityBatches(walker, rows, steps, self.options.data.draw == "window")

    def _of(self, name: str) -> list[Stream]:
        if name not in SPLITS:
            raise OptionError(f"split={name!r}: expected one of {', '.join(SPLITS)}")
        streams: list[Stream] = getattr(self.parts, name)
        if not streams:
            raise OptionError(f"data.fold={self.options.data.fold} leaves no stream for split={name!r}")
        return streams

    def losses(self, model: nn.Module, batch: Batch, state: Any) -> tuple[dict[str, Tensor], Any]:
        """The mean over the steps that count, and what the memory adds, such as the cost of its writes."""
        terms: dict[str, Tensor] = {}
        logits, state = model(batch.inputs, state, batch.reset, terms=terms)
        counted = self._counted(batch)
        total = self._cost(logits[counted].float(), batch.targets.labels[counted])
        cost = mean(total, (batch.counts or self.counts(batch))["labels"])
        return {"loss": cost + sum(terms.values()), "labels": cost, **terms}, state

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many steps count."""
        return {"labels": self._counted(batch).sum().clamp(min=1)}

    def _counted(self, batch: Batch) -> Tensor:
        """bool [B, T], the steps that are learned from."""
        counted = batch.targets.known.clone()
        if last := self.options.data.last:
            counted[:, :-last] = False
        return counted

    def _cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over steps: logits [n, C] and labels [n] or [n, C]."""
        options = self.options.loss
        if labels.dim() == 1:
            return F.cross_entropy(logits, labels, label_smoothing=options.smoothing, reduction="sum")
        if options.several == "shares":
            shares = labels / labels.sum(-1, keepdim=True).clamp(min=1)
            return -(shares * logits.log_softmax(-1)).sum()
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / labels.shape[-1]

    @property
    def sigmoid(self) -> bool:
        """Whether each activity has a probability by itself."""
        return self.streams.multi_label and self.options.loss.several == "binary"

    @property
    def seconds(self) -> float:
        """Of a step."""
        times = self.streams.streams[0].times
        return float(times[1] - times[0]) if len(times) > 1 else 1.0

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures of the validation streams; without any, of the training streams as they are, which says less."""
        streams, where = (self.parts.validation, "") if self.parts.validation else (self.parts.train, " in training")
        watched = watch(model, streams, self.sigmoid)
        found = as_numbers(figures(watched, self.seconds, self.streams.background))
        return {f"{kind}{where}": value for kind, value in found.items() if not kind.endswith("(s)")}

    def notes(self) -> dict[str, Any]:
        """Who was trained on, and who must be tested on."""
        streams = {name: [one.name for one in getattr(self.parts, name)] for name in SPLITS}
        about = {
            "classes": self.streams.classes,
            "features": list(self.streams.streams[0].features.shape[1:]),
            "samples": self.streams.samples,
            "source": self.streams.source,
            "seconds": self.seconds,
            "sigmoid": self.sigmoid,
        }
        return {"streams": streams, "activity": about}

    def evaluate(
        self, models: Mapping[str, Any], options: Mapping[str, str], report: Report | None = None
    ) -> dict[str, list[Figure]]:
        """Figures of whole test streams, watched online; options are those of `EvaluationOptions`."""
        chosen = build(EvaluationOptions(), {key: parse(value) for key, value in options.items()}, "--")
        task = self._at(chosen.path)
        streams = task._of(chosen.split)
        for name, model in models.items():
            check_fits(name, model, streams, task.streams.classes)
            check_unseen(name, model, streams, chosen.split)
        found = {}
        for name, model in models.items():
            watched = watch(model, streams, task.sigmoid, report, name)
            found[name] = figures(watched, task.seconds, task.streams.background, chosen.resamples, chosen.seed)
        return found

    def label(self, model: Any, recording: Path, report: Report | None = None) -> list[Segment]:
        """What goes on in a recording of the sensor, or in features, that the model was trained on."""
        about = model.notes.get("activity")
        if not isinstance(about, dict):
            raise OptionError("this model does not say what it was trained on: expected one that `tokenturing train` trained")
        steps, seconds = steps_of(recording, about)
        runtime = model if isinstance(model, Runtime) else eager(model)
        state, found = runtime.initial_state(1), []
        for done, step in enumerate(steps, 1):
            logits, state = runtime.step(step[None], state)
            found.append(logits[0])
            if report:
                report("watching", done, len(steps))
        return list(segments_of(shares(np.stack(found), about["sigmoid"]), seconds, about["classes"], about["sigmoid"]))

    def _at(self, path: str) -> "Activity":
        """The same task on data that are elsewhere."""
        if not path:
            return self
        data = build(self.options.data, {"path": path}, "data.")
        return type(self)(self.Config(self.options.model, data, self.options.augment, self.options.loss), self.seed, self.report)

    def tests_like(self, other: Task) -> bool:
        """Those who leave out the same streams are tested on the same."""
        return isinstance(other, Activity) and type(self) is type(other) and self.options.data == other.options.data

    def view(self, model: Any) -> View:
        """What the encoder of the model's features wants to see."""
        return view_for(model)

    def session(self, model: Any, media: Any) -> VideoSession:
        """A session of a model on the runtime that watches a video."""
        return VideoSession(model, media)
