"""`tokenturing bench`"""

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError

if TYPE_CHECKING:
    from tokenturing.bench.contestants import Contestant, Size

WHAT = ("step", "training", "position", "memory")


def bench(
    what: Annotated[Positional[tuple[str, ...]], argument("WHAT", hint="(step, training, position, memory; all)")] = (),
    size: Literal["small", "paper"] = "small",
    models: Annotated[str, argument("NAME,...", hint="(default: all)")] = "",
    batches: Annotated[str, argument("B,...", hint=None)] = "1,8",
    rounds: Annotated[int, argument("N", hint=None)] = 31,
    steps: Annotated[int, argument("N", hint=None)] = 100_000,
    seconds: Annotated[float, argument("S", hint=None)] = 60.0,
    threads: Annotated[int, argument("N", hint=None)] = 1,
    device: str = "cpu",
    out: Path = Path("runs/bench"),
) -> None:
    """Measure speed and memory here: the machine in all its forms, the baselines, and peers where they are installed.

    All take turns in one run. OUT/bench.json has the figures, bench.md tables of them, the PNG files pictures.
    `tokenturing bench serve` measures a server under load; it has options of its own.

    Args:
        what: "step": a step by the number of rows; "training": forward and backward; "position": a step's time and the state's
            size by position in the stream; "memory": of training, by the length of the stream and by `recompute`.
        size: "small": width 64, 16 memory tokens, 2 layers; "paper": width 512, 96 memory tokens, 4 layers.
        models: only these, such as "plain loop,eager,LSTM"; a wrong name lists them.
        batches: rows of a step.
        rounds: turns of each; a training step gets a quarter of them.
        steps: the last position.
        seconds: for each model to get there; who needs longer is not run any further.
        threads: cores to use.
        device: "cpu", or "cuda" for all that is not exported.
        out: the folder to write.
    """
    import torch

    from tokenturing.bench import report
    from tokenturing.bench.contestants import SIZES, contestants, inputs
    from tokenturing.bench.machine import describe, limits
    from tokenturing.cli.common import device_of
    from tokenturing.errors import choose
    from tokenturing.evaluate.cost import multiply_adds
    from tokenturing.files import write_file
    from tokenturing.files.places import check_place

    chosen = tuple(choose("WHAT", word, WHAT) for word in what) or WHAT
    rows = _numbers("--batches", batches)
    check_place("--out", out, folder=True)
    device_of(device)
    if min(rounds, steps, threads) < 1 or seconds <= 0:
        raise OptionError("--rounds, --steps, --threads and --seconds: expected numbers above 0")
    only = [name.strip() for name in models.split(",")] if models else None
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = SIZES[size]
    result: dict[str, Any] = {
        "command": _command(),
        "size": size,
        "threads": threads,
        "device": device,
        "machine": describe(),
        "limits": limits(device),
        "multiply_adds": multiply_adds(shape.machine(), shape.input_tokens),
    }
    with tempfile.TemporaryDirectory() as folder:
        found, skipped = contestants(shape, Path(folder), threads, device, only)
        found, broken = _runnable(found, inputs(shape, 1, device=device))
        result["skipped"] = skipped | broken
        result["contestants"] = [
            {"name": one.name, "kind": one.kind, "parameters": one.parameters, "grows": one.grows} for one in found
        ]
        _measure(result, chosen, found, shape, rows, rounds, steps, seconds)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "bench.json", (json.dumps(result, indent=1) + "\n").encode())
    write_file(out / "bench.md", report.markdown(result).encode())
    made = report.figures(result, out)
    _show(result)
    print(f"{out}: bench.json, bench.md, {', '.join(path.name for path in made)}")


def _numbers(option: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise OptionError(f"{option} {text!r}: expected whole numbers above 0, such as 1,8")
    return found


def _command() -> str:
    """As it was called, without the program's folder."""
    return shlex.join(["tokenturing", *sys.argv[1:]])


def _runnable(found: "list[Contestant]", x: Any) -> "tuple[list[Contestant], dict[str, str]]":
    """Those that can make two steps, and what the others say: a peer that is broken here stops nobody."""
    import torch

    able, broken = [], {}
    for one in found:
        try:
            with torch.no_grad():
                one.step(x, one.step(x, one.start(1))[1])
            able.append(one)
        except Exception as error:
            if one.kind != "peer":
                raise
            broken[one.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return able, broken


def _measure(
    result: dict[str, Any],
    chosen: tuple[str, ...],
    found: "list[Contestant]",
    size: "Size",
    batches: list[int],
    rounds: int,
    steps: int,
    seconds: float,
) -> None:
    from tokenturing.bench.measure import POSITIONS, by_position, step_latency, training
    from tokenturing.bench.memory import recompute_memory
    from tokenturing.cli.common import Progress

    device = result["device"]
    if "step" in chosen:
        with Progress("steps") as bar:
            result["step"] = step_latency(found, size, batches, rounds, device, bar.update)
    if "training" in chosen:
        with Progress("training") as bar:
            result["training"], failed = training(found, size, max(rounds // 4, 1), device=device, report=bar.update)
            result["skipped"] |= {f"{name}, training": reason for name, reason in failed.items()}
    if "position" in chosen:
        positions = [*(p for p in POSITIONS if p < steps), steps]
        with Progress("positions") as bar:
            result["position"] = by_position(found, size, positions, seconds, device, bar.update)
    if "memory" in chosen:
        with Progress("memory") as bar:
            result["memory"] = recompute_memory(threads=result["threads"], report=bar.update)


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from tokenturing.bench.report import tables

    console = Console()
    for title, (head, *rows) in tables(result):
        table = Table(title=title, title_justify="left", box=None)
        for index, name in enumerate(head):
            table.add_column(name, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for name, reason in result["skipped"].items():
        console.print(f"not measured: {name} ({reason})", markup=False)
