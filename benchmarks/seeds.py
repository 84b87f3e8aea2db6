"""Every memory of the recall task from several seeds: what is the memory and what is luck?

    python benchmarks/seeds.py [--models recall,recall-lstm] [--seeds 0,1,2] [--full] [--out runs/seeds] [--json FILE]

The recipes are those of recipes/, with half the updates and synthesised voices. A run that was stopped goes on where it was; one
that is done is not trained again. --full trains the recipes as they are, which takes half an hour a model or more.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from tokenturing.evaluate.figures import Figure
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.probe import evaluate
from tokenturing.tasks.recall.voices.bank import cached_bank
from tokenturing.train.loop import train
from tokenturing.train.recipe import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL = ["train.updates=1300", "schedule.late_clock=600"]
MODELS = (
    "recall",
    "recall-paper",
    "recall-lstm",
    "recall-gru",
    "recall-mingru",
    "recall-memoryless",
    "recall-window",
    "recall-full",
    "recall-recurrent",
    "recall-mixer",
    "recall-retrieval",
)
DELAYS = (0.5, 5.0, 60.0)


def trained(name: str, seed: int, out: Path, changes: Sequence[str]) -> RecallModel:
    """A model of that recipe and seed, trained or taken from where its training stands."""
    recipe = load_recipe(RECIPES / f"{name}.toml", [*changes, f"train.seed={seed}"])

    def report(done: int, total: int, metrics: Mapping[str, Any]) -> None:
        if done % 100 == 0:
            print(f"{name} seed {seed}: {done}/{total} loss {metrics['loss']:.3f}", flush=True)

    model = train(recipe, out / f"{name}-{seed}", report=report)
    assert isinstance(model, RecallModel)
    return model


def table(name: str, parameters: int, seeds: Mapping[int, Sequence[Figure]]) -> list[dict[str, Any]]:
    """Mean and spread over the seeds, of each kind and delay."""
    rows = []
    for same in zip(*seeds.values(), strict=True):
        shares = [row.value for row in same]
        rows.append(
            {
                "model": name,
                "parameters": parameters,
                "seeds": list(seeds),
                "kind": same[0].kind,
                "delay": same[0].where["delay"],
                "count": same[0].count,
                "shares": shares,
                "mean": mean(shares),
                "spread": stdev(shares) if len(shares) > 1 else None,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--rows", type=int, default=80, help="streams to test on")
    parser.add_argument("--full", action="store_true", help="the recipes as they are")
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    found = []
    for name in arguments.models.split(","):
        changes = () if arguments.full else SMALL
        models = {str(seed): trained(name, seed, arguments.out, changes) for seed in seeds}
        parameters = sum(p.numel() for p in models[str(seeds[0])].memory.parameters())
        tested = evaluate(models, cached_bank("test"), DELAYS, rows=arguments.rows)
        rows = table(name, parameters, {seed: tested[str(seed)] for seed in seeds})
        for row in rows:
            spread = "" if row["spread"] is None else f" +- {row['spread']:.2f}"
            print(f"{name:18} {row['kind']:8} {row['delay']:6g} s  {row['mean']:.2f}{spread}", flush=True)
        found += rows
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
