"""`tokenturing evaluate`"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from tokenturing.cli.options import given
from tokenturing.errors import OptionError

if TYPE_CHECKING:
    from tokenturing.tasks.recall.probe import Row
    from tokenturing.tasks.recall.voices.bank import SpeechBank


def evaluate(
    checkpoints: Annotated[Positional[tuple[str, ...]], given("CHECKPOINT", hint="(required, one or more)")],
    speech: Annotated[str, given("FOLDER")] = "",
    delays: Annotated[str, given("SECONDS,...", hint=None)] = "0.5,5,60,600",
    json_file: Annotated[str, given("FILE", name="json")] = "",
    rows: Annotated[int, given("N", hint=None)] = 128,
    seed: Annotated[int, given("N", hint=None)] = 1,
    threads: Annotated[int, given("N", hint=None)] = 1,
) -> None:
    """Test what models remember: accuracy by kind of question and by delay, with 95 % intervals.

    Args:
        checkpoints: folders of models, of their runs or of exports, or names of shipped ones, such as recall-ttm.
        speech: test on those speakers of this folder ({digit}_{speaker}_{index}.wav) that no checkpoint
            was trained on, instead of on synthesised voices that none was trained on.
        delays: seconds between the end of the last event and the question; background runs through them.
        json_file: write the figures to this file as well, a list of rows.
        rows: streams to test on; each question is asked of half of them.
        seed: of the streams.
        threads: cores to use.
    """
    from tokenturing.cli.common import Progress, display_names, load_recall_model, notes_of
    from tokenturing.runtime import is_export
    from tokenturing.runtime import load as load_export
    from tokenturing.tasks.recall.probe import evaluate as measure

    if not checkpoints:
        raise OptionError("evaluate needs a checkpoint: a folder, or a name such as recall-ttm")
    if rows < 2:
        raise OptionError(f"--rows {rows}: expected at least 2")
    seconds = parse_delays(delays)
    _use_threads(threads)
    names = display_names(checkpoints)
    models = {
        name: load_export(given, threads=threads) if is_export(given) else load_recall_model(given)
        for name, given in zip(names, checkpoints, strict=True)
    }
    bank = held_out_voices(speech, [notes_of(model) for model in models.values()])
    with Progress("evaluating") as progress:
        found = measure(models, bank, seconds, rows=rows, seed=seed, report=progress.update)
    if json_file:
        write_rows(Path(json_file), found)
    show(found)


def parse_delays(text: str) -> list[float]:
    """ "0.5,5" -> [0.5, 5.0], ascending, each once."""
    from tokenturing.tasks.recall.probe import delay_steps

    try:
        seconds = [float(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"--delays {text!r}: expected seconds, such as 0.5,5,60,600") from None
    delay_steps(seconds)
    return sorted(set(seconds))


def held_out_voices(folder: str, notes: Sequence[Mapping[str, Any]]) -> "SpeechBank":
    """Voices that none of the checkpoints with these notes was trained on."""
    from tokenturing.cli.common import voices
    from tokenturing.tasks.recall.voices.bank import cached_bank
    from tokenturing.tasks.recall.voices.utterances import recorded, speakers

    with voices():
        if not folder:
            return cached_bank("test")
        present = speakers(recorded(folder))
        known = {name for each in notes for name in each.get("human_speakers", ())}
        unknown = [name for name in present if name not in known]
        if not unknown:
            raise OptionError(
                f"every speaker of {folder} was trained on ({', '.join(present)}): "
                "expected a folder with a speaker that is new to the checkpoint"
            )
        print(f"speakers that no checkpoint was trained on: {', '.join(unknown)}", flush=True)
        return cached_bank("test", folder, unknown)


def _use_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise OptionError(f"--threads {threads}: expected at least 1")
    torch.set_num_threads(threads)


def write_rows(path: Path, found: Mapping[str, Sequence["Row"]]) -> None:
    """A JSON list of rows, in one move; with several models each row names its own."""
    from tokenturing.files import write_file

    rows: list[dict[str, Any]] = []
    for name, of_model in found.items():
        model = {"model": name} if len(found) > 1 else {}
        rows += [{**model, **row.to_dict()} for row in of_model]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(rows, indent=1) + "\n").encode())


def show(found: Mapping[str, Sequence["Row"]]) -> None:
    """One table a model: kinds down, delays across."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name, rows in found.items():
        delays = sorted({row.delay for row in rows})
        cells = {(row.kind, row.delay): row for row in rows}
        table = Table(title=f"{name}: accuracy (95 % interval) by delay", title_justify="left", box=None)
        table.add_column("question")
        for delay in delays:
            table.add_column(f"{delay:g} s", justify="right", no_wrap=True)
        table.add_column("n", justify="right")
        for kind in dict.fromkeys(row.kind for row in rows):
            here = [cells[kind, delay] for delay in delays]
            table.add_row(kind, *map(_cell, here), str(here[0].count))
        console.print(table)


def _cell(row: "Row") -> str:
    share = f"[bold]{row.accuracy:.2f}[/]" if row.accuracy >= 0.95 else f"{row.accuracy:.2f}"
    return f"{share} [dim]{row.low:.2f}-{row.high:.2f}[/]"
