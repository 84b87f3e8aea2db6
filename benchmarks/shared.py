"""What scripts of timings share: how options are checked, and how figures are written down."""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tokenturing.bench.machine import describe
from tokenturing.bench.measure import Timing
from tokenturing.errors import OptionError, choose

PACKAGES = ("tokenturing", "torch", "onnxruntime")


def positive(text: str) -> int:
    """A whole number above 0, as the type of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return int(text)


def several(text: str) -> list[int]:
    """ "1,16" -> 1 and 16, as the type of an option."""
    return [positive(part.strip()) for part in text.split(",")]


def chosen(parser: argparse.ArgumentParser, option: str, text: str, names: Sequence[str]) -> list[str]:
    """Those of the names that the text has, in their own order; a name that is not there ends the script with the list."""
    wanted = [part.strip() for part in text.split(",")]
    try:
        for name in wanted:
            choose(option, name, names)
    except OptionError as error:
        parser.error(str(error))
    return [name for name in names if name in wanted]


def short(value: float, digits: int = 3) -> str:
    """So many digits, and no exponent where a number is large."""
    return f"{value:,.0f}" if value >= 10**digits else f"{value:.{digits}g}"


def milliseconds(timing: Timing) -> str:
    """The median, and the quartiles in brackets."""
    return f"{short(timing.median * 1e3)} ms ({short(timing.low * 1e3)}-{short(timing.high * 1e3)})"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the head first, as a table."""
    head, *rest = rows
    marks = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rest))


def command() -> str:
    """As the script was called."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def place() -> str:
    """The machine in a line."""
    machine, threads = describe(), torch.get_num_threads()
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in PACKAGES if name in machine["versions"])
    return f"{machine['processor']}, {threads} of {machine['cores']} cores ({', '.join(machine['flags'])}); {versions}"


def write(file: str | None, found: Mapping[str, Any]) -> None:
    """The figures with what they were measured by and on, as JSON; None: nowhere."""
    if file:
        head = {"command": command(), "threads": torch.get_num_threads(), "machine": describe()}
        Path(file).write_text(json.dumps({**head, **found}, indent=1) + "\n", encoding="utf-8")
