"""How much of a figure is luck: small models trained from several seeds, tested alike.

    python benchmarks/seeds.py [--seeds 0,1,2] [--out runs/seeds] [--json FILE]

The recipes are those of recipes/, made small: half the width, half the rows, fewer updates, synthesised voices. A run that was
stopped goes on where it was.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from tokenturing.evaluate.recall import Row, evaluate
from tokenturing.models.recall import RecallModel
from tokenturing.tasks.speech import cached_bank
from tokenturing.train.loop import train
from tokenturing.train.recipe import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL = ["train.updates=1500", "train.rows=32", "data.curriculum=[40, 40]", "model.options.width=32"]
HIDDEN = {"recall": 64, "recall-lstm": 72, "recall-gru": 85}
"""of the small models, so that their parameters are equal within 10 %"""
DELAYS = (0.5, 60.0)


def small(name: str, seed: int, out: Path) -> RecallModel:
    """A small model of that recipe and seed, trained or taken from where its training stands."""
    settings = [*SMALL, f"model.options.hidden={HIDDEN[name]}", f"train.seed={seed}"]
    recipe = load_recipe(RECIPES / f"{name}.toml", settings)

    def report(done: int, total: int, metrics: Mapping[str, Any]) -> None:
        if done % 100 == 0:
            print(f"{name} seed {seed}: {done}/{total} loss {metrics['loss']:.3f}", flush=True)

    return train(recipe, out / f"{name}-{seed}", report=report)


def table(found: Mapping[str, Sequence[Row]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Mean and spread over the seeds, of each kind and delay."""
    rows = []
    for name in HIDDEN:
        of_seeds = [found[f"{name} {seed}"] for seed in seeds]
        for same in zip(*of_seeds, strict=True):
            shares = [row.accuracy for row in same]
            rows.append({
                "model": name, "kind": same[0].kind, "delay": same[0].delay, "count": same[0].count,
                "shares": shares, "mean": mean(shares), "spread": stdev(shares) if len(shares) > 1 else 0.0,
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--rows", type=int, default=120, help="streams to test on")
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    models = {f"{name} {seed}": small(name, seed, arguments.out) for seed in seeds for name in HIDDEN}
    for name in HIDDEN:
        print(name, sum(p.numel() for p in models[f"{name} {seeds[0]}"].memory.parameters()), "parameters")
    rows = table(evaluate(models, cached_bank("test"), DELAYS, rows=arguments.rows), seeds)
    for row in rows:
        print(
            f"{row['model']:12} {row['kind']:8} {row['delay']:6g} s  {row['mean']:.2f} +- {row['spread']:.2f}"
        )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
