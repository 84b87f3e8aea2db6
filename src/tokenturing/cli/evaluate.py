"""`tokenturing evaluate`"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError

if TYPE_CHECKING:
    from tokenturing.evaluate.figures import Figure


def evaluate(
    checkpoints: Annotated[Positional[tuple[str, ...]], argument("CHECKPOINT", hint="(required, one or more)")],
    settings: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], argument("KEY=VALUE", name="set")] = (),
    json_file: Annotated[str, argument("FILE", name="json")] = "",
    threads: Annotated[int, argument("N", hint=None)] = 1,
    device: Annotated[str, argument("DEVICE", hint=None)] = "cpu",
) -> None:
    """Test what models have learned: figures with 95 % intervals, on test data of their task.

    A task has options of its own, which may be written as flags: `--rows 80` is `--set rows=80`. Of the recall task: --rows N
    (streams, 128), --delays 0.5,5,60,600 (seconds between the end of the last event and the question), --seed N (1), --speech
    FOLDER (test on those speakers of {digit}_{speaker}_{index}.wav that no model was trained on), --bank FILE (test on voices
    that `SpeechBank.save` wrote). A flag without a value is `true`. Of last_digits: --rows, --seed. Of the
    activity tasks: --split test|validation|train (parts of the data by the model's own fold), --path (where the data are now),
    --resamples N (200, of the streams, for the intervals).

    Args:
        checkpoints: folders of models, of their runs or of exports, or names of shipped ones, such as recall-ttm.
        settings: options of the task.
        json_file: write the figures to this file as well, a list of rows.
        threads: cores to use.
        device: where models as they were trained work: "cpu", "cuda", "cuda:1", "mps".
    """
    import torch

    from tokenturing.cli.common import Progress, display_names, load_any
    from tokenturing.extras import require
    from tokenturing.files.places import check_place

    if not checkpoints:
        raise OptionError("evaluate needs a checkpoint: a folder, or a name such as recall-ttm")
    if threads < 1:
        raise OptionError(f"--threads {threads}: expected at least 1")
    if json_file:
        check_place("--json", json_file)
    torch.set_num_threads(threads)
    options = dict(_option(setting) for group in settings for setting in group)
    models = {
        name: load_any(checkpoint, threads, device)
        for name, checkpoint in zip(display_names(checkpoints), checkpoints, strict=True)
    }
    with Progress("evaluating") as progress:
        found: dict[str, list[Figure]] = {}
        groups = _tasks_of(models)
        require(*(extra for task, _ in groups for extra in getattr(task, "extras", ())))
        for task, names in groups:
            found |= task.evaluate({name: models[name] for name in names}, options, progress.report)
    found = {name: found[name] for name in models}
    show(found)
    if json_file:
        write_figures(Path(json_file), found)


def _tasks_of(models: Mapping[str, Any]) -> list[tuple[Any, list[str]]]:
    """Each task with the models that it may evaluate together."""
    from tokenturing.train.recipe import task_of

    groups: list[tuple[Any, list[str]]] = []
    for name, model in models.items():
        task = task_of(model)
        if groups and type(groups[0][0]) is not type(task):
            kinds = f"{type(groups[0][0]).__name__}, {type(task).__name__}"
            raise OptionError(f"the models are of several tasks ({kinds}): evaluate them one after the other")
        for other, names in groups:
            if other.tests_like(task):
                names.append(name)
                break
        else:
            groups.append((task, [name]))
    return groups


def _option(setting: str) -> tuple[str, str]:
    key, found, value = setting.partition("=")
    if not found:
        raise OptionError(f"--set {setting!r}: expected key=value, as in rows=80")
    return key.strip(), value.strip()


def write_figures(path: Path, found: Mapping[str, Sequence["Figure"]]) -> None:
    """A JSON list of rows, in one move; with several models each row names its own."""
    from tokenturing.files import write_file

    rows: list[dict[str, Any]] = []
    for name, of_model in found.items():
        model = {"model": name} if len(found) > 1 else {}
        rows += [{**model, **figure.to_json()} for figure in of_model]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(rows, indent=1) + "\n").encode())


def show(found: Mapping[str, Sequence["Figure"]]) -> None:
    """One table a model: kinds down, conditions across."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name, figures in found.items():
        columns = sorted({tuple(figure.where.items()) for figure in figures}, key=str)
        columns.sort(key=lambda where: [value for _, value in where if isinstance(value, float)])
        cells = {(figure.kind, tuple(figure.where.items())): figure for figure in figures}
        measure = figures[0].measure if figures else "accuracy"
        by = " and ".join(dict.fromkeys(key for where in columns for key, _ in where))
        title = f"{name}: {measure} (95 % interval)" + (f" by {by}" if by else "")
        table = Table(title=title, title_justify="left", box=None)
        table.add_column("")
        for where in columns:
            table.add_column(" ".join(_condition(*part) for part in where) or measure, justify="right", no_wrap=True)
        table.add_column("n", justify="right")
        for kind in dict.fromkeys(figure.kind for figure in figures):
            here = [cells.get((kind, where)) for where in columns]
            table.add_row(kind, *map(_cell, here), str(max(figure.count for figure in here if figure)))
        console.print(table)


def _condition(key: str, value: float | str) -> str:
    return f"{value:g} s" if key == "delay" else str(value)


def _cell(figure: "Figure | None") -> str:
    if figure is None:
        return ""
    share = f"[bold]{figure.value:.2f}[/]" if figure.value >= 0.95 else f"{figure.value:.2f}"
    return f"{share} [dim]{figure.low:.2f}-{figure.high:.2f}[/]"
