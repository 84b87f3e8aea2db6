"""All that a training run needs to go on as if it had never stopped, in one file, never pickle."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing import state as states
from tokenturing.checkpoint.tensors import TensorFile, pack
from tokenturing.errors import CheckpointError, OptionError
from tokenturing.files import write_file
from tokenturing.train.recipe import TrainOptions

FILE = "training.safetensors"
MAY_CHANGE = ("updates", "accumulate", "evaluate_every", "save_every", "threads")
"""of [train]: what a run may be resumed with another value of"""


def save_training(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    carried: Any,
    progress: dict[str, Any],
    device: torch.device,
    kept: dict[str, Tensor],
) -> None:
    """Write parameters, optimiser, the streams' states, weights that are kept and `progress` (plain JSON values) in one move."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    if carried is not None:
        tensors |= {f"carried.{name}": leaf for name, leaf in states.leaves(carried)}
    tensors |= {f"kept.{name}": tensor for name, tensor in kept.items()}
    tensors["random"] = torch.get_rng_state()
    if device.type != "cpu":
        tensors[f"random_{device.type}"] = torch.get_device_module(device).get_rng_state(device)
    write_file(folder / FILE, pack(tensors, {"progress": json.dumps(progress)}))


def load_training(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    carried_like: Any,
    check: Callable[[dict[str, Any]], None],
    device: torch.device,
) -> tuple[Any, dict[str, Any], dict[str, Tensor]]:
    """Restore all that `save_training` wrote -> the streams' states, the progress and the weights kept.

    `check` is given the progress before anything is restored.
    """
    file = TensorFile(folder / FILE, "training checkpoint")
    tensors = file.tensors()
    try:
        progress = json.loads(file.metadata["progress"])
        check(progress)
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, OptionError):
            raise
        raise CheckpointError(f"{folder / FILE} is no checkpoint of a run: delete it, or choose another --out") from error
    model.load_state_dict(_under("model.", tensors))
    restored: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        restored.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": restored, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"])
    if (drawn := tensors.get(f"random_{device.type}")) is not None:  # none where the run began on another kind of device
        torch.get_device_module(device).set_rng_state(drawn, device)
    leaves, kept = _under("carried.", tensors), _under("kept.", tensors)
    if not leaves:
        return None, progress, kept
    try:
        return states.rebuild(carried_like, leaves), progress, kept
    except KeyError as error:
        raise CheckpointError(f"{folder / FILE} was written by another model (no {error}): use another --out") from error


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_recipe(ours: dict[str, Any], theirs: dict[str, Any], folder: Path) -> None:
    """Raise an OptionError that names the first key in which the run in the folder differs from ours."""
    # What an older version did not know was as it is by default.
    theirs = theirs | {"train": asdict(TrainOptions()) | theirs.get("train", {})}
    for key, value in lasting(ours).items():
        other = lasting(theirs).get(key)
        if other != value:
            raise OptionError(
                f"{folder} holds a run of another recipe ({key}={other!r}, and now {value!r}): choose another --out, or delete it"
            )


def check_start(ours: str | None, theirs: str | None, folder: Path) -> None:
    """Raise an OptionError where weights are given and the run in the folder did not begin from them."""
    if ours not in (None, theirs):
        began = "from other weights" if theirs else "without given weights"
        raise OptionError(f"--from: {folder} holds a run that began {began}: leave out --from to go on, or choose another --out")


def check_data(ours: dict[str, str], theirs: dict[str, str] | None, folder: Path) -> None:
    """Raise an OptionError that says how the data, by the fingerprint of a task, differ from those of the run in the folder."""
    if theirs is None:
        if ours:
            warnings.warn(f"{folder} holds a run of an older version, which does not say what data it had", stacklevel=3)
        return
    new, gone = ([name for name in one if name not in other] for one, other in ((ours, theirs), (theirs, ours)))
    changed = [name for name in ours if theirs.get(name, ours[name]) != ours[name]]
    words = [f"{len(names)} {kind} ({_some(names)})" for kind, names in (("new", new), ("gone", gone)) if names]
    if changed:
        first = changed[0]
        words.append(f"{len(changed)} changed (such as {first}: {theirs[first]}, and now {ours[first]})")
    if words:
        raise OptionError(
            f"{folder} holds a run on other data: {', '.join(words)}: give it the data as they were, choose another --out, or "
            "delete it"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def lasting(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe by dotted keys, without what may change between a run's parts."""
    return {key: value for key, value in flat(recipe) if key not in [f"train.{name}" for name in MAY_CHANGE]}


def flat(recipe: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Its values by dotted keys."""
    for key, value in recipe.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
