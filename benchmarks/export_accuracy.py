"""What precision costs in accuracy: a model on PyTorch and each of its exports, on the same streams of its task.

    python benchmarks/export_accuracy.py [CHECKPOINT] [--precisions float32,int8,bf16] [--int8-from WEIGHTS]
                                         [--set KEY=VALUE ...] [--json FILE]

The streams and questions are those of `tokenturing evaluate`, whose options may be set (`--set rows=64 delays=0.5,5,60`). All run
one step at a time. Precisions that are not offered for the model are left out, with the reason; --int8-from rounds smaller
matrices too, as if that made them faster. Shares right by delay, over all kinds of questions (of a task without delays: by kind),
and below them by how many points each export is off eager's at most, by delay and by kind.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from shared import chosen, markdown, place, positive, write

import tokenturing as tt
from tokenturing.cli.common import Progress, model_folder
from tokenturing.errors import MissingExtraError, OptionError
from tokenturing.evaluate.figures import Figure, pool
from tokenturing.export import eager, export_onnx, quantize
from tokenturing.export.onnx import PRECISIONS
from tokenturing.train.recipe import task_of

EAGER = "eager"


def by_column(figures: Sequence[Figure]) -> dict[str, Figure]:
    """Figures of all kinds pooled by where they were taken, or, where that is not told, of each kind."""
    places = list(dict.fromkeys(tuple(figure.where.items()) for figure in figures))
    if places == [()]:
        return {figure.kind: figure for figure in figures}
    found = {}
    for where in places:
        pooled = pool(figure for figure in figures if tuple(figure.where.items()) == where)
        if pooled:
            found[" ".join(f"{value:g} s" if key == "delay" else str(value) for key, value in where)] = pooled
    return found


def points(figures: Sequence[Figure], others: Sequence[Figure]) -> tuple[float, str]:
    """The largest difference of a figure from the other of its kind and place, in points, and where."""
    apart = [(abs(one.value - other.value), one) for one, other in zip(figures, others, strict=True)]
    largest, at = max(apart, key=lambda pair: pair[0])
    return 100 * largest, " ".join([at.kind, *map(str, at.where.values())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="recall-ttm")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument(
        "--int8-from", type=positive, default=quantize.LEAST, help="weights of the smallest matrix that is rounded"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="options of the task's evaluation")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    precisions = chosen(parser, "--precisions", arguments.precisions, PRECISIONS)
    for setting in arguments.set:
        if "=" not in setting:
            parser.error(f"--set {setting!r}: expected KEY=VALUE, as in rows=64")
    options = dict(setting.split("=", 1) for setting in arguments.set)
    torch.set_num_threads(arguments.threads)
    quantize.LEAST = arguments.int8_from
    model = tt.load(model_folder(arguments.checkpoint))
    machines: dict[str, Any] = {EAGER: eager(model)}
    with tempfile.TemporaryDirectory() as folder:
        for name in precisions:
            try:
                path = export_onnx(model, Path(folder) / name, precision=name)
            except (OptionError, MissingExtraError) as error:
                print(f"{name} is left out: {error}\n")
                continue
            machines[name] = tt.runtime.load(path, threads=arguments.threads)
        with Progress("evaluating") as progress:
            found = task_of(model).evaluate(machines, options, progress.report)
    columns = {name: by_column(figures) for name, figures in found.items()}
    first = columns[EAGER]
    table = [["", *first]]
    table += [[name, *(f"{figure.value:.4f}" for figure in of.values())] for name, of in columns.items()]
    table.append(["answers to each", *(str(figure.count) for figure in first.values())])
    print(f"{arguments.checkpoint}; {place()}\n\n{markdown(table)}\n")
    for name, figures in found.items():
        if name != EAGER:
            by_delay = max(100 * abs(of.value - first[at].value) for at, of in columns[name].items())
            largest, at = points(figures, found[EAGER])
            print(f"{name}: at most {by_delay:.2f} points off eager's in a column, {largest:.2f} in one kind ({at})")
    rows = {name: [figure.to_json() for figure in figures] for name, figures in found.items()}
    write(
        arguments.json,
        {"checkpoint": arguments.checkpoint, "int8_from": arguments.int8_from, "options": options, "figures": rows},
    )


if __name__ == "__main__":
    main()
