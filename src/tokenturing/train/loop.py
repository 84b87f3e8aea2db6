"""Training, read top to bottom: streams in chunks, the state carried on, gradients cut between chunks; any task."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing import state as states
from tokenturing.checkpoint import save
from tokenturing.checkpoint.folder import check_savable
from tokenturing.checkpoint.format import CONFIG
from tokenturing.checkpoint.tensors import digest
from tokenturing.checkpoint.weights import weights_of
from tokenturing.errors import CheckpointError, OptionError, TokenTuringError, a
from tokenturing.files import read_json
from tokenturing.tasks.contract import Batch, Task
from tokenturing.train.accumulate import batch_parts, mean_of, state_of, state_parts
from tokenturing.train.alone import alone
from tokenturing.train.compiled import begin_pass, compile_step, keep_results
from tokenturing.train.distributed import Workers, own_device
from tokenturing.train.kept import Kept
from tokenturing.train.log import RunLog
from tokenturing.train.optim import build_optimizer, rate_at, set_rate
from tokenturing.train.plain import finite, plain
from tokenturing.train.recipe import Recipe, check_parts
from tokenturing.train.resume import FILE, check_data, check_recipe, check_start, load_training, save_training
from tokenturing.train.stopping import stoppable

Report = Callable[[int, int, dict[str, Any]], None]
"""called after each update with (updates done, updates in all, metrics so far)"""
LOG_EVERY = 10
CPU = torch.device("cpu")
MOST_LOST = 100
"""updates in a row without a finite loss and gradient, after which a run is given up"""


class TrainingError(TokenTuringError):
    """A run that learns nothing."""


class Training:
    """One run: everything that changes while it goes on.

    Args:
        recipe: what to train.
        folder: of the run; a checkpoint in it is resumed from.
        task: None: that of the recipe.
        start: a model whose weights to begin from; None: untrained ones.
        device: where the model learns.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        task: Task | None = None,
        start: nn.Module | None = None,
        device: str | torch.device = "cpu",
    ):
        torch.set_num_threads(recipe.train.threads)
        self.recipe, self.folder, self.device = recipe, folder, own_device(torch.device(device))
        folder.mkdir(parents=True, exist_ok=True)
        self.workers = Workers(recipe.train.rows, self.device)
        self.parts = recipe.train.accumulate
        check_parts(self.parts, len(self.workers.rows), self.workers.count)
        self.task: Task = recipe.build_task() if task is None else task
        self.data = self.task.fingerprint()
        torch.manual_seed(recipe.train.seed)
        self.model = self.task.build()
        check_savable(self.model)  # rather than after hours of training
        self.start: str | None = None
        """a hash of the weights that the run began from, if they were given"""
        if start is not None:
            _begin_from(self.model, start)
            self.start = digest(weights_of(start).items())
        if recipe.train.compile:
            compile_step(self.model, recipe.train.compile)
        self.batches = self.task.batches("train", self.workers.rows, recipe.train.steps, self.model)
        self.model.to(self.device)  # only now: batches are drawn on the CPU
        self.optimizer = build_optimizer(self.model, recipe.train)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.state: Any = None
        self.update = 0
        self.seconds = 0.0
        self.skipped = 0
        """updates that were left out, as their loss or gradient was not finite"""
        self.lost = 0
        """the last so many of them in a row"""
        self.validation: dict[str, float] = {}
        self.kept = Kept(recipe.train, self.model)
        if (folder / FILE).exists():
            self._resume()

    def _resume(self) -> None:
        initial_state = getattr(self.model, "initial_state", None)
        like = None if initial_state is None else initial_state(self.recipe.train.rows)

        def check(progress: dict[str, Any]) -> None:
            check_recipe(self.recipe.to_json(), progress["recipe"], self.folder)
            check_data(self.data, progress.get("data"), self.folder)

        state, progress, tensors = load_training(self.folder, self.model, self.optimizer, like, check, self.device)
        self.state = None if state is None else states.move(self.workers.own(state), self.device)
        self.update, self.seconds, self.skipped = progress["update"], progress["seconds"], progress["skipped"]
        self.lost = progress.get("lost", 0)
        check_start(self.start, progress.get("start"), self.folder)
        self.start = progress.get("start")
        self.validation = progress.get("validation", {})
        self.kept.restore(progress.get("kept", {}), tensors)
        self.batches.restore(progress["streams"])

    def save(self) -> None:
        """Write all that is needed to go on; called by all processes together."""
        state = None if self.state is None else self.workers.whole(self.state)
        streams = self.workers.whole_streams(plain(self.batches.state()))
        if not self.workers.first:
            return
        progress = {
            "update": self.update,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "lost": self.lost,
            "start": self.start,
            "data": self.data,
            "validation": self.validation,
            "kept": self.kept.to_json(),
            "streams": streams,
            "recipe": self.recipe.to_json(),
        }
        save_training(self.folder, self.model, self.optimizer, state, progress, self.device, self.kept.tensors())

    def autocast(self) -> torch.autocast:
        """In which an update is computed: matrix products in the recipe's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.train.precision == "bfloat16")

    def advance(self) -> dict[str, float]:
        """One update -> its losses and rate."""
        began = time.perf_counter()
        batch = next(self.batches)
        rate = rate_at(self.update, self.recipe.train)
        set_rate(self.optimizer, rate)
        self.model.train()
        self.task.schedule(self.model, self.update)
        self.optimizer.zero_grad()
        parts = zip(batch_parts(self.task, batch, self.parts), state_parts(self.state, self.parts), strict=True)
        found, after = zip(*(self._backward(part, state) for part, state in parts), strict=True)
        self.state = state_of(after)
        self.workers.average_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.train.clip)
        averaged = self.workers.average(*mean_of(found).values())
        losses = dict(zip(found[0], averaged, strict=True))
        if torch.isfinite(norm) and math.isfinite(losses["loss"]):
            self.optimizer.step()
            self.lost = 0
        else:
            self.skipped += 1
            self.lost += 1
        self.update += 1
        self.kept.follow(self.model, self.update)
        self.seconds += time.perf_counter() - began
        return losses | {"rate": rate}

    def _backward(self, batch: Batch, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Add the gradient of some rows, by the number of parts -> their losses and the state after them."""
        begin_pass(self.recipe.train.compile)
        with self.autocast():
            found, state = self.task.losses(self.model, batch.to(self.device), state)
        (found["loss"] / self.parts).backward()
        losses = {name: torch.as_tensor(value).detach() for name, value in found.items()}
        state = None if state is None else states.detach(state)
        return losses, keep_results(self.recipe.train.compile, state, self.parameters)

    def validate(self) -> dict[str, float]:
        """What the task finds on validation data; nothing that is trained notices."""
        with self.kept.within(self.model):
            return self._validate()

    def _validate(self) -> dict[str, float]:
        with looking(self.model, self.device):
            found = self.task.validate(self.model)
        if not isinstance(found, dict):
            kind = type(self.task).__name__
            raise OptionError(f"validate() of the task {kind} returned {a(type(found))}: expected a dict of numbers by name")
        self.validation = plain(found)
        self.kept.see(self.update, self.validation, self.model)
        return self.validation

    def check_learning(self) -> None:
        """Raise a TrainingError where nothing is learned: long in a row, or from the first update to the last."""
        ended = self.update >= self.recipe.train.updates
        if self.lost >= MOST_LOST or (ended and self.lost == self.update > 0):
            raise TrainingError(
                f"the loss or its gradient was not finite in the last {self.lost} of {self.update} updates, so that nothing was "
                f"learned from them, and no model was written: expected a lower train.rate, or other data or losses of the task "
                f"{self.recipe.task!r}"
            )


@contextmanager
def looking(model: nn.Module, device: torch.device = CPU) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module's mode and the random numbers are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        others = [] if device.type == "cpu" else [device.index or 0]
        with torch.no_grad(), torch.random.fork_rng(others, device_type="cuda" if device.type == "cpu" else device.type):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _begin_from(model: nn.Module, start: nn.Module) -> None:
    """The weights of another model of the same form."""
    try:
        model.load_state_dict(start.state_dict())
    except RuntimeError as error:
        raise OptionError(f"--from: the weights do not fit the recipe's model ({' '.join(str(error).split())})") from error


def train(
    recipe: Recipe,
    folder: Path,
    *,
    task: Task | None = None,
    start: nn.Module | None = None,
    report: Report | None = None,
    device: str | torch.device = CPU,
) -> nn.Module:
    """Train a recipe to its end, from where its folder's checkpoint stands, and save the model in `folder/model`.

    A run that has reached its end is left as it is; with more updates in the recipe it goes on.
    """
    with alone(folder):
        run = Training(recipe, folder, task, start, device)
        if run.update < recipe.train.updates:
            _go_on(run, report)
        run.check_learning()
        run.kept.put_into(run.model)
        if run.workers.first and _updates_of(folder / "model") != run.update:
            save(run.model, folder / "model", notes=run_notes(run))
        return run.model


def _go_on(run: Training, report: Report | None) -> None:
    """From where the run stands to its end."""
    recipe, folder, total = run.recipe, run.folder, run.recipe.train.updates
    log = RunLog(folder, run.update) if run.workers.first else None
    metrics: dict[str, Any] = {}
    with stoppable(run.workers.count == 1) as stop:
        while run.update < total:
            metrics |= run.advance()
            run.check_learning()
            if log is not None:
                _look(run, log, metrics, total)
            if stop.wanted or run.update % recipe.train.save_every == 0 or run.update == total:
                run.save()
            if report and log is not None:
                report(run.update, total, metrics)
            if stop.wanted:
                raise KeyboardInterrupt
    if log is not None:
        log.close()
        if run.skipped:
            warnings.warn(
                f"{run.skipped} of {run.update} updates had no finite loss and gradient, and were left out", stacklevel=3
            )


def _updates_of(folder: Path) -> int | None:
    """How many updates the saved model has seen; None: there is none, or it does not say."""
    try:
        return read_json(folder / CONFIG)["notes"].get("updates")
    except (CheckpointError, KeyError, AttributeError):
        return None


def _look(run: Training, log: RunLog, metrics: dict[str, Any], total: int) -> None:
    """Validate and log, where it is time to."""
    losses = {name: value for name, value in metrics.items() if name != "validation"}
    if run.update % run.recipe.train.evaluate_every == 0 or run.update == total:
        metrics["validation"] = run.validate()
        log.write(run.update, **losses, seconds=round(run.seconds, 1), validation=run.validation)
    elif run.update % LOG_EVERY == 0:
        log.write(run.update, **losses, seconds=round(run.seconds, 1))


def run_notes(run: Training) -> dict[str, Any]:
    """What stands beside weights: recipe, time, figures, and what the task says."""
    return {
        "recipe": run.recipe.to_json(),
        "seconds": round(run.seconds),
        "updates": run.update,
        "updates_skipped": run.skipped,
        **run.kept.notes(),
        **finite(plain(run.task.notes())),
        "validation": finite(run.kept.validation or run.validation),
    }
