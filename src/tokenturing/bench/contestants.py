"""What is measured: the machine in each of its forms, the baselines and the peers, all of about as many parameters."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing import baselines
from tokenturing import state as states
from tokenturing.bench.plain import plain, plain_step
from tokenturing.errors import MissingExtraError, OptionError, choose
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.machine import TokenTuringMachine

LARGEST_HIDDEN = 1 << 14
PRECISIONS = ("float32", "int8", "bf16")


@dataclass(frozen=True)
class Size:
    """Of the machine; the others are matched to its number of parameters."""

    width: int
    memory_tokens: int
    read_tokens: int
    layers: int
    heads: int
    input_tokens: int

    def machine(self) -> TokenTuringMachine:
        """The machine, always with the same weights."""
        torch.manual_seed(0)
        return TokenTuringMachine(
            self.width, self.memory_tokens, self.read_tokens, self.layers, self.heads, input_tokens=self.input_tokens
        )


SIZES = {"small": Size(64, 16, 8, 2, 4, 5), "paper": Size(512, 96, 16, 4, 8, 16)}


@dataclass
class Contestant:
    """One model as the measurements need it. Tokens come as [B, N, D] for a step, [B, T, N, D] for training."""

    name: str
    kind: str
    """"machine", "baseline" or "peer" """
    parameters: int
    start: Callable[[int], Any]
    """rows -> the state before the first step"""
    step: Callable[[Tensor, Any], tuple[Any, Any]]
    """(x, state) -> y and the next state"""
    train: Callable[[Tensor], None] | None = None
    """one forward and backward pass, or None where there is no training"""
    grows: bool = False
    """whether the state grows with the stream, by design"""
    whole: Callable[[Tensor], Tensor] | None = None
    """x [B, T, N, D] -> the outputs of all steps at once, of a peer that has a form for that"""


def state_bytes(state: Any) -> int:
    """Bytes of all tensors and arrays in a state of whatever kind; what stands in it twice counts once."""
    leaves = list(_leaves(state))  # held, so that no two have the same id
    return sum({id(leaf): int(leaf.nbytes) for leaf in leaves}.values())


def _leaves(state: Any) -> Iterator[Any]:
    if isinstance(state, Tensor) or hasattr(state, "nbytes"):
        yield state
    elif isinstance(state, Mapping):
        for part in state.values():
            yield from _leaves(part)
    elif isinstance(state, list | tuple):
        for part in state:
            yield from _leaves(part)
    elif hasattr(state, "__dict__"):
        yield from _leaves(vars(state))


def numbers(module: nn.Module) -> int:
    """Parameters of a module that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def contestants(
    size: Size, folder: Path, threads: int, device: str = "cpu", only: list[str] | None = None
) -> tuple[list[Contestant], dict[str, str]]:
    """All that run here, and why the others do not, by name.

    Args:
        size: of the machine.
        folder: for exports.
        threads: of the exported machines.
        device: of all that is not exported.
        only: names; None: all.
    """
    from tokenturing.bench.peers import PEERS

    builders: dict[str, Callable[[], Contestant]] = {
        "plain loop": lambda: _plain(size, device),
        "eager": lambda: _library("eager", "machine", size.machine().to(device)),
        "eager bfloat16": lambda: _autocast(size, device),
        "compiled": lambda: _compiled(size, device),
    }
    if device == "cpu":
        builders |= {f"runtime {name}": partial(_exported, size, name, folder, threads) for name in PRECISIONS}
    goal = numbers(size.machine())
    builders |= {name: partial(_baseline, name, size, goal, device) for name in baselines.__all__}
    builders |= {name: partial(build, size, goal, device) for name, build in PEERS.items()}
    for name in only or ():
        choose("models", name, tuple(builders))
    found, skipped = [], {}
    for name, build in builders.items():
        if only is not None and name not in only:
            continue
        try:
            found.append(build())
        except (ImportError, MissingExtraError, OptionError) as error:  # an option: a precision that is not offered at this size
            skipped[name] = " ".join(str(error).split())
    return found, skipped


def _baseline(name: str, size: Size, goal: int, device: str) -> Contestant:
    return _library(name, "baseline", matched(name, size, goal).to(device))


def matched(name: str, size: Size, goal: int) -> RecurrentModel:
    """The baseline of that name whose hidden size brings it next to `goal` parameters, with as many layers as can be."""
    kind = getattr(baselines, name)
    for layers in (size.layers, *range(size.layers - 1, 0, -1)):
        options: dict[str, Any] = {"layers": layers, "input_tokens": size.input_tokens}
        if "Transformer" in name or name == "Retrieval":
            options["heads"] = size.heads
        if name == "RecurrentTransformer":
            options["state_tokens"] = size.read_tokens
        model, least = nearest(partial(_with_hidden, kind, size.width, options), goal)
        if least <= goal or layers == 1:
            return model
    raise AssertionError(name)


def _with_hidden(kind: Any, width: int, options: dict[str, Any], hidden: int) -> Any:
    return kind(width, hidden=hidden, **options)


def nearest(build: Callable[[int], Any], goal: int, step: int = 8) -> tuple[Any, int]:
    """The module of the hidden size that is nearest to `goal` parameters, and the fewest that it can have."""
    with torch.device("meta"):
        least = numbers(build(step))
        low, high = 1, LARGEST_HIDDEN // step
        while low < high:  # the first that has at least so many
            middle = (low + high) // 2
            low, high = (low, middle) if numbers(build(step * middle)) >= goal else (middle + 1, high)
        best = min((step * h for h in (max(low - 1, 1), low)), key=lambda h: abs(numbers(build(h)) - goal))
    torch.manual_seed(0)
    return build(best), least


def _library(name: str, kind: str, model: RecurrentModel) -> Contestant:
    def train(x: Tensor) -> None:
        model.zero_grad()
        y, state = model(x)
        loss_of(y, *(leaf for _, leaf in states.leaves(state))).backward()

    return Contestant(name, kind, numbers(model), model.initial_state, model.step, train, bool(model.growing))


def loss_of(*outputs: Tensor) -> Tensor:
    """Something to go back from, of all that came out."""
    return torch.stack([y.float().square().mean() for y in outputs if y.is_floating_point()]).sum()


def _plain(size: Size, device: str) -> Contestant:
    model = size.machine().to(device)

    def train(x: Tensor) -> None:
        model.zero_grad()
        y, state = plain(model, x)
        loss_of(y, state.memory).backward()

    return Contestant("plain loop", "machine", numbers(model), model.initial_state, lambda x, s: plain_step(model, x, s), train)


def _autocast(size: Size, device: str) -> Contestant:
    model = size.machine().to(device)
    kind = torch.device(device).type

    def step(x: Tensor, state: Any) -> tuple[Any, Any]:
        with torch.autocast(kind, torch.bfloat16):
            return model.step(x, state)

    def train(x: Tensor) -> None:
        model.zero_grad()
        with torch.autocast(kind, torch.bfloat16):
            y, state = model(x)
            loss = loss_of(y, state.memory)
        loss.backward()

    return Contestant("eager bfloat16", "machine", numbers(model), model.initial_state, step, train)


def _compiled(size: Size, device: str) -> Contestant:
    """One step of the cell by torch.compile; on a GPU as one CUDA graph."""
    model = size.machine().to(device)
    mode = "reduce-overhead" if device.startswith("cuda") else "default"
    model.cell.compile(dynamic=False, mode=mode)
    return _library("compiled", "machine", model)


def _exported(size: Size, precision: str, folder: Path, threads: int) -> Contestant:
    from tokenturing.export import export_onnx
    from tokenturing.runtime import load

    model = size.machine().eval()
    target = folder / precision
    runtime = load(export_onnx(model, target, precision=precision), threads=threads)
    return Contestant(
        f"runtime {precision}",
        "machine",
        numbers(model),
        runtime.initial_state,
        lambda x, state: runtime.step(x.numpy(), state),
    )


def inputs(size: Size, *shape: int, device: str = "cpu") -> Tensor:
    """Random tokens [..., N, D]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, size.input_tokens, size.width, generator=generator).to(device)
