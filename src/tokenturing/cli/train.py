"""`tokenturing train`"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction

from tokenturing.cli.options import argument

if TYPE_CHECKING:
    from tokenturing.train.recipe import Recipe


def train(
    recipe: Annotated[Positional[str], argument("RECIPE.toml")],
    settings: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], argument("KEY=VALUE", name="set")] = (),
    out: Annotated[str, argument("FOLDER")] = "",
    speech: Annotated[str, argument("FOLDER")] = "",
    start: Annotated[str, argument("CHECKPOINT", name="from")] = "",
    device: Annotated[str, argument("DEVICE", hint=None)] = "cpu",
) -> None:
    """Train a model from a recipe; go on where the last run was stopped.

    A run that has ended goes on with more updates: --set train.updates=5000.

    Args:
        recipe: what to train, on what and how, such as recipes/recall.toml.
        settings: change single values of the recipe, such as --set train.rate=3e-4 train.seed=1
        out: where the run is kept: checkpoints, metrics, the trained model. Default: runs/NAME OF THE RECIPE.
        speech: recordings {digit}_{speaker}_{index}.wav to train on besides the synthesised voices.
        start: begin from the weights of this checkpoint, of a model of the same form.
        device: where the model learns: "cpu", "cuda", "cuda:1", "mps". A run may go on on another one. With torchrun: "cpu" or
            "cuda", a GPU for each process.
    """
    from tokenturing.files.places import check_place
    from tokenturing.train.recipe import load_recipe

    folder = check_place("--out", out or Path("runs") / Path(recipe).stem, folder=True, filled=True)
    changes = [setting for group in settings for setting in group]
    if speech:
        changes.append(f"speech.folder={json.dumps(speech)}")  # a TOML string is written like JSON's
    loaded = load_recipe(find_recipe(recipe), changes)
    _train(loaded, folder, start, device)


def find_recipe(recipe: str) -> Path:
    """The recipe's file, or the one of that name that came with the package."""
    path = Path(recipe)
    packaged = Path(__file__).parents[1] / "recipes" / f"{path.stem}.toml"
    return packaged if not path.exists() and packaged.exists() else path


def _train(recipe: "Recipe", folder: Path, start: str, device: str) -> None:
    from tokenturing.checkpoint import load
    from tokenturing.cli.common import Progress, device_of, model_folder
    from tokenturing.train.distributed import Workers, own_device
    from tokenturing.train.loop import train as train_model
    from tokenturing.train.resume import FILE

    place = device_of(device)
    workers = Workers(recipe.train.rows, own_device(place))
    begin = load(model_folder(start)) if start else None
    if not workers.first:
        train_model(recipe, folder, start=begin, device=place)
        workers.close()
        return
    trained = False
    if (folder / FILE).exists():
        print(f"going on with the run in {folder}", flush=True)
    try:
        with Progress(folder.name) as progress:

            def report(done: int, total: int, metrics: dict[str, Any]) -> None:
                nonlocal trained
                trained = True
                progress.label = folder.name
                progress.update(done, total, _note(metrics))

            task = recipe.build_task(progress.report)
            model = train_model(recipe, folder, task=task, start=begin, report=report, device=place)
    except KeyboardInterrupt:
        kept = "the same command goes on from the last checkpoint"
        print(kept if (folder / FILE).exists() else "stopped before the first checkpoint: nothing is kept", file=sys.stderr)
        raise
    workers.close()
    if not trained:
        print("it has ended before: nothing was done; --set train.updates=N with more of them goes on")
    _print_validation(folder)
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"the model is in {folder / 'model'}: {size:,} trained parameters")
    print(f"next: tokenturing evaluate {folder}")


def _note(metrics: dict[str, Any]) -> str:
    """Metrics as a few words behind the bar."""
    words = [f"loss {metrics['loss']:.3f}"]
    if shares := metrics.get("validation"):
        words.append(f"validation {sum(shares.values()) / len(shares):.3f}")
    return "  ".join(words)


def _print_validation(folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from tokenturing.files import read_json

    table = Table(title="on validation data", title_justify="left", box=None, show_header=False)
    for name, share in read_json(folder / "model" / "config.json")["notes"].get("validation", {}).items():
        table.add_row(name, f"{share:.3f}")
    Console().print(table)
