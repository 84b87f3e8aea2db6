"""`tokenturing train`"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction

from tokenturing.cli.options import given

if TYPE_CHECKING:
    from tokenturing.train.recipe import Recipe

TASKS = ("recall", "perception")


def train(
    recipe: Annotated[Positional[str], given("RECIPE.toml")],
    settings: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], given("KEY=VALUE", name="set")] = (),
    out: Annotated[str, given("FOLDER")] = "",
    speech: Annotated[str, given("FOLDER")] = "",
) -> None:
    """Train a model from a recipe; go on where the last run was stopped.

    Args:
        recipe: what to train, on what and how, such as recipes/recall.toml.
        settings: change single values of the recipe, such as --set train.rate=3e-4 train.seed=1
        out: where the run is kept: checkpoints, metrics, the trained model. Default: runs/NAME OF THE RECIPE.
        speech: recordings {digit}_{speaker}_{index}.wav to train on besides the synthesised voices.
    """
    from tokenturing.errors import choose
    from tokenturing.train.recipe import load_recipe

    changes = [setting for group in settings for setting in group]
    if speech:
        changes.append(f"speech.folder={json.dumps(speech)}")  # a TOML string is written like JSON's
    loaded = load_recipe(_find(recipe), changes)
    choose("task", loaded.task, TASKS)
    folder = Path(out) if out else Path("runs") / Path(recipe).stem
    if loaded.task == "perception":
        _train_perception(loaded, folder)
    else:
        _train_recall(loaded, folder)


def _find(recipe: str) -> Path:
    """The recipe's file, or the one of that name that came with the package."""
    path = Path(recipe)
    packaged = Path(__file__).parents[1] / "recipes" / f"{path.stem}.toml"
    return packaged if not path.exists() and packaged.exists() else path


def _train_recall(recipe: "Recipe", folder: Path) -> None:
    from tokenturing.cli.common import Progress, voices
    from tokenturing.tasks.recall.tokens import training_banks
    from tokenturing.train.distributed import Workers
    from tokenturing.train.loop import train as train_model
    from tokenturing.train.resume import FILE

    workers = Workers(recipe.train.rows)
    if workers.first and (folder / FILE).exists():
        print(f"going on with the run in {folder}", flush=True)
    with workers.first_alone(), voices():
        training_banks(recipe)  # builds what is not in the cache, with a progress bar of its own
    if not workers.first:
        train_model(recipe, folder)
        workers.close()
        return
    try:
        with Progress(folder.name) as progress:
            model = train_model(
                recipe,
                folder,
                report=lambda done, total, metrics: progress.update(done, total, _note(metrics)),
            )
    except KeyboardInterrupt:
        print("the same command goes on from the last checkpoint", file=sys.stderr)
        raise
    workers.close()
    _print_shares("validation accuracy", model_validation(folder))
    print(f"the model is in {folder / 'model'}: {_parameters(model.memory):,} parameters in its memory")
    print(f"next: tokenturing evaluate {folder}")


def model_validation(folder: Path) -> dict[str, float]:
    """The last validation figures noted in a run's model."""
    from tokenturing.files import read_json

    return read_json(folder / "model" / "config.json")["notes"].get("validation", {})


def _note(metrics: dict[str, Any]) -> str:
    """Metrics as a few words behind the bar."""
    words = [f"loss {metrics['loss']:.3f}"]
    if shares := metrics.get("validation"):
        words.append(f"validation {sum(shares.values()) / len(shares):.3f}")
    return "  ".join(words)


def _train_perception(recipe: "Recipe", folder: Path) -> None:
    import torch

    from tokenturing.checkpoint import save
    from tokenturing.cli.common import Progress, voices
    from tokenturing.tasks.recall.eyes.training import perception_figures, train_perception
    from tokenturing.tasks.recall.tokens import training_banks
    from tokenturing.tasks.recall.voices.bank import cached_bank

    torch.set_num_threads(recipe.train.threads)
    with voices():
        banks, speakers = training_banks(recipe)
        held_out = cached_bank("validation")
    seconds = 0.0
    with Progress(folder.name) as progress:

        def report(done: int, total: int, metrics: dict[str, float]) -> None:
            nonlocal seconds
            seconds = metrics["seconds"]
            progress.update(done, total, _note(metrics))

        train = recipe.train
        model = train_perception(banks, updates=train.updates, seed=train.seed, rate=train.rate, report=report)
    figures = perception_figures(model, held_out, "validation")
    notes = {
        "recipe": recipe.to_dict(),
        "seed": train.seed,
        "seconds": round(seconds),
        "human_speakers": list(speakers),
        "validation": figures,
    }
    save(model, folder / "model", notes=notes)
    _print_shares("shares on single steps of validation images and voices", figures)
    print(f"the perception is in {folder / 'model'}")


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _print_shares(title: str, shares: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, show_header=False)
    for name, share in shares.items():
        table.add_row(name, f"{share:.3f}")
    Console().print(table)
