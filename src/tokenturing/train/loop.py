"""Training, read top to bottom: streams in chunks, the state carried on, gradients cut between chunks."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing import state as states
from tokenturing.checkpoint import load, save
from tokenturing.errors import OptionError, choose
from tokenturing.layers.look_back import LookBack
from tokenturing.memory.write import WRITTEN, GatedWrite
from tokenturing.tasks.recall.eyes.perception import Perception
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.tokens import TokenRenderer, perceived, training_banks, training_streams
from tokenturing.tasks.recall.voices.bank import SpeechBank, cached_bank, join_banks
from tokenturing.tasks.recall.world.plans import RecallConfig
from tokenturing.tasks.recall.world.questions import ANSWERS, FACTS, KINDS, QUESTIONS, UNASKED, all_answers, kind_of
from tokenturing.tasks.recall.world.streams import Batch, RecallStreams
from tokenturing.train.distributed import Workers
from tokenturing.train.log import RunLog
from tokenturing.train.recipe import Recipe
from tokenturing.train.resume import FILE, load_training, save_training

Report = Callable[[int, int, dict[str, Any]], None]
"""called after each update with (updates done, updates in all, metrics so far)"""
KIND_OF_QUESTION = torch.tensor([KINDS.index(kind_of(q)) for q in range(len(QUESTIONS))])


def build_model(recipe: Recipe) -> RecallModel:
    """The untrained model of a recipe, behind its frozen perception."""
    perception = load(recipe.perception)
    if not isinstance(perception, Perception):
        raise OptionError(f"perception={recipe.perception!r} is a {type(perception).__name__}: expected a Perception")
    torch.manual_seed(recipe.train.seed)
    model = RecallModel(
        recipe.model.memory,
        recipe.model.options,
        len(QUESTIONS),
        len(ANSWERS),
        FACTS,
        perception.config["width"],
    )
    model.perception.load_state_dict(perception.state_dict())
    model.perception.requires_grad_(False)
    return model.train()


PRECISIONS = ("float32", "bfloat16")
EVERY = 3
"""of so many steps one is asked every question: its neighbours know the same"""


class Losses(NamedTuple):
    """Mean cross-entropies of one batch."""

    answer: Tensor
    """of the answers asked for"""
    facts: Tensor
    """of the facts, read off the output tokens by a linear head"""
    every: Tensor
    """of the answers to every question, at some of the steps"""


def losses(model: RecallModel, y: Tensor, batch: Batch, whole: Batch | None = None) -> Losses:
    """What a model's answers, read off its memory's output tokens, cost.

    Args:
        model: whose heads answer.
        y: the output tokens [B, T, R, D].
        batch: what they were made of.
        whole: the batch that `batch` is some rows of: means then are sums over `batch` by the numbers in `whole`.
    """
    whole = whole or batch
    asked = batch.question >= 0
    some = slice(EVERY - 1, None, EVERY)
    return Losses(
        _mean_loss(model.read_off(y[asked], batch.question[asked]), batch.answer[asked], whole.answer[whole.question >= 0]),
        _mean_loss(model.every_fact(y), batch.facts, whole.facts),
        _mean_loss(model.every_answer(y[:, some]), all_answers(batch.facts[:, some]), all_answers(whole.facts[:, some])),
    )


def _mean_loss(logits: Tensor, truth: Tensor, whole: Tensor) -> Tensor:
    """Sum of the cross-entropies over what is asked in `truth`, by how much is asked in `whole`."""
    total = F.cross_entropy(logits.float().flatten(0, -2), truth.flatten(), ignore_index=UNASKED, reduction="sum")
    return total / (whole != UNASKED).sum()


def rate_at(update: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    train = recipe.train
    cosine = 0.5 * (1 + math.cos(math.pi * update / train.updates))
    return train.rate * min(1.0, (update + 1) / train.warmup) * (0.01 + 0.99 * cosine)


@torch.no_grad()
def validate(model: RecallModel, batches: list[Batch]) -> dict[str, float]:
    """Accuracy by kind of question on consecutive chunks, the first quarter of which only fills the memory."""
    right, count = np.zeros(len(KINDS)), np.zeros(len(KINDS))
    training, state = model.training, None
    model.eval()
    for index, batch in enumerate(batches):
        logits, state = model(perceived(batch, model.perception), state, batch.reset)
        if index < len(batches) // 4:
            continue
        asked = batch.question >= 0
        kinds = KIND_OF_QUESTION[batch.question[asked]].numpy()
        np.add.at(right, kinds, (logits.argmax(-1) == batch.answer)[asked].numpy())
        np.add.at(count, kinds, 1)
    model.train(training)
    return {kind: float(r / c) for kind, r, c in zip(KINDS, right, count, strict=True) if c}


def validation_batches(model: RecallModel, bank: SpeechBank, recipe: Recipe, chunks: int = 12) -> list[Batch]:
    """Fixed streams of validation images and voices."""
    shortest = min(RecallConfig.shortest, recipe.data.longest)
    config = RecallConfig(split="validation", without_modality=0.0, shortest=shortest, longest=recipe.data.longest)
    renderer = TokenRenderer(model.perception, bank, config)
    streams = RecallStreams(48, 64, bank, config, seed=99, renderer=renderer)
    return [next(streams) for _ in range(chunks)]


class Training:
    """One run: everything that changes while it goes on.

    Args:
        recipe: what to train.
        folder: of the run; a checkpoint in it is gone on from.
        bank: the voices to train on; None: those of the recipe.
    """

    def __init__(self, recipe: Recipe, folder: Path, bank: SpeechBank | None = None):
        choose("train.precision", recipe.train.precision, PRECISIONS)
        torch.set_num_threads(recipe.train.threads)
        self.recipe, self.folder = recipe, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.bank, self.human_speakers = (bank, ()) if bank is not None else _all_voices(recipe)
        self.model = build_model(recipe)
        if recipe.train.compile:
            self._compile()
        self.streams = training_streams(recipe, self.bank, self.model.perception)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, recipe.train.rate, betas=(0.9, 0.98), weight_decay=recipe.train.weight_decay
        )
        self.workers = Workers(recipe.train.rows)
        self.state: Any = None
        self.update = 0
        self.seconds = 0.0
        self.skipped = 0
        if (folder / FILE).exists():
            self._resume()

    def _compile(self) -> None:
        """One step, not the loop: so it is made once for streams of any length."""
        cell = getattr(self.model.memory, "cell", None)
        if cell is None:
            raise OptionError(
                f"train.compile with memory={self.recipe.model.memory!r}: expected a TokenTuringMachine, or compile=false"
            )
        cell.compile(dynamic=False)

    def _resume(self) -> None:
        # An update of zeros gives the optimiser its tensors, so that their names and shapes are known.
        state, progress = load_training(self.folder, self.model, self.optimizer, self.model.initial_state(self.recipe.train.rows))
        self.state = None if state is None else self.workers.own(state)
        if progress["recipe"] != _plain(self.recipe):
            raise OptionError(f"{self.folder} holds a run of another recipe: choose another --out, or delete it")
        self.update, self.seconds, self.skipped = progress["update"], progress["seconds"], progress["skipped"]
        self.streams.restore(progress["streams"])

    def _set_stage(self) -> None:
        """From which gate on a slot counts as written now, and whether the inputs' clocks are read."""
        train, cell = self.recipe.train, getattr(self.model.memory, "cell", None)
        if isinstance(write := getattr(cell, "write", None), GatedWrite):
            write.written = 0.5 if self.update < train.early_writes else WRITTEN
        if isinstance(look_back := getattr(cell, "look_back", None), LookBack):
            look_back.heeds_clock = self.update >= train.late_clock

    def autocast(self) -> torch.autocast:
        """In which an update is computed: matrix products in the recipe's precision."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.train.precision == "bfloat16")

    def save(self) -> None:
        """Write all that is needed to go on; called by all processes together."""
        state = None if self.state is None else self.workers.whole(self.state)
        if not self.workers.first:
            return
        progress = {
            "update": self.update,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "streams": self.streams.state(),
            "recipe": _plain(self.recipe),
        }
        save_training(self.folder, self.model, self.optimizer, state, progress)

    def advance(self) -> dict[str, float]:
        """One update -> its losses."""
        began = time.perf_counter()
        whole = next(self.streams)
        batch = whole.take(self.workers.rows)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.update, self.recipe)
        self._set_stage()
        with self.autocast():
            y, state = self.model.remember(perceived(batch, self.model.perception), self.state, batch.reset)
            found = losses(self.model, y, batch, whole)
        self.optimizer.zero_grad()
        train = self.recipe.train
        total = found.answer + train.facts * found.facts + train.every * found.every
        (total * self.workers.count).backward()
        self.workers.average_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.train.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            self.skipped += 1
        self.state = states.detach(state)
        self.update += 1
        self.seconds += time.perf_counter() - began
        answer, facts, every = self.workers.total(*found)
        rate = self.optimizer.param_groups[0]["lr"]
        return {"loss": answer, "facts": facts, "every": every, "rate": rate}


def _all_voices(recipe: Recipe) -> tuple[SpeechBank, tuple[str, ...]]:
    banks, speakers = training_banks(recipe)
    return join_banks(banks), speakers


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON would give it back."""
    import json

    return json.loads(json.dumps(recipe.to_dict()))


def train(recipe: Recipe, folder: Path, *, bank: SpeechBank | None = None, report: Report | None = None) -> RecallModel:
    """Train a recipe to its end, from where its folder's checkpoint stands, and save the model in `folder/model`."""
    run = Training(recipe, folder, bank)
    speaks = run.workers.first
    log = RunLog(folder, run.update) if speaks else None
    validation = validation_batches(run.model, cached_bank("validation") if bank is None else bank, recipe)
    total = recipe.train.updates
    metrics: dict[str, Any] = {}
    while run.update < total:
        metrics |= run.advance()
        if log is None:
            pass
        elif run.update % recipe.train.evaluate_every == 0 or run.update == total:
            metrics["validation"] = validate(run.model, validation)
            log.write(run.update, **metrics, **metrics["validation"], seconds=round(run.seconds, 1))
        elif run.update % 10 == 0:
            log.write(
                run.update,
                **{k: metrics[k] for k in ("loss", "facts", "every", "rate")},
                seconds=round(run.seconds, 1),
            )
        if run.update % recipe.train.save_every == 0 or run.update == total:
            run.save()
        if report and speaks:
            report(run.update, total, metrics)
    if log is not None:
        log.close()
        save(run.model, folder / "model", notes=run_notes(run, metrics))
    return run.model


def run_notes(run: Training, metrics: dict[str, Any]) -> dict[str, Any]:
    """What stands beside weights: recipe, seed, time, figures."""
    return {
        "recipe": _plain(run.recipe),
        "seconds": round(run.seconds),
        "updates_skipped": run.skipped,
        "human_speakers": list(run.human_speakers),
        "validation": metrics.get("validation", {}),
    }
