"""`tokenturing bench serve`"""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError

SOAK_SHARE = 0.7
"""of the sessions that are held"""
PLAIN = "benchmarks/plain_server.py"


def bench_serve(
    checkpoint: Annotated[Positional[str], argument("CHECKPOINT", hint=None)] = "recall-ttm",
    seconds: Annotated[float, argument("S", hint=None)] = 10.0,
    sessions: Annotated[str, argument("N,...", hint=None)] = "25,50,100,200,400,800",
    kind: Literal["media", "inputs"] = "media",
    sound: Annotated[float, argument("SHARE", hint=None)] = 0.5,
    soak: Annotated[float, argument("MINUTES", hint="(default: none)")] = 0.0,
    against: Annotated[str, argument("FILE", hint=None)] = PLAIN,
    json_file: Annotated[str, argument("FILE", name="json")] = "",
    figure: Annotated[str, argument("FILE")] = "",
) -> None:
    """How many sessions `tokenturing serve` holds here at 12.5 steps a second, every step on the disk before its reply.

    A number is held when 99 of 100 steps are answered within the 80 ms until the next is due. The same is found for the server
    with --batch 1, and for a plain server with one lock where its script is there. All run as processes of their own on
    this machine, and so does the load; they take turns.

    Args:
        checkpoint: the model that is served.
        seconds: for each number of sessions.
        sessions: numbers to try; then those between the last that is held and the first that is not.
        kind: what steps bring: "media", a frame and sound, or "inputs", what the model itself takes.
        sound: share of the "media" sessions that send sound too.
        soak: go on for so long with 70 % of what is held, and look at the server's memory.
        against: the script of a plain server; it is left out where this is no file.
        json_file: write the figures here.
        figure: draw latency by sessions into this PNG file.
    """
    from tokenturing.extras import require

    require("serve")
    from tokenturing.bench import serve
    from tokenturing.bench.machine import describe
    from tokenturing.bench.serve_load import Order
    from tokenturing.bench.serve_report import draw, in_short
    from tokenturing.cli.bench import _numbers
    from tokenturing.cli.common import Progress
    from tokenturing.files import write_file

    if seconds <= 0 or soak < 0 or not 0 <= sound <= 1:
        raise OptionError("--seconds and --soak: expected numbers above 0; --sound: expected 0 to 1")
    ladder = _numbers("--sessions", sessions)
    order = Order("", 0, seconds, kind=kind, share=sound)
    plain = Path(against) if Path(against).is_file() else None
    result: dict[str, Any] = {
        "command": shlex.join(["tokenturing", *sys.argv[1:]]),
        "kind": kind,
        "sound": sound,
        "machine": describe(),
        "busy": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    with Progress("sessions") as bar:
        result |= serve.compare(checkpoint, plain, ladder, order, bar.update)
    if soak:
        number = max(1, round(SOAK_SHARE * result["held"][serve.BATCHED]))
        with Progress("soak") as bar:
            result["soak"] = serve.soak(checkpoint, number, soak, order, bar.update)
    _show(result)
    if plain is None:
        print(f"not measured: a plain server (there is no {against!r} here)")
    print("\n".join(in_short(result)))
    if json_file:
        write_file(Path(json_file), (json.dumps(result, indent=1) + "\n").encode())
    if figure:
        draw(result, Path(figure))


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from tokenturing.bench.serve_report import table

    head, *rows = table(result)
    shown = Table(box=None)
    for index, name in enumerate(head):
        shown.add_column(name, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)
