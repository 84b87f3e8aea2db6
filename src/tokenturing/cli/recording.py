"""`tokenturing stream` of a recording in a file, .csv or .npz: what goes on from when to when."""

from collections.abc import Mapping
from pathlib import Path

from tokenturing.errors import OptionError

ENDINGS = (".csv", ".npz")


def is_recording(source: str) -> bool:
    """Whether a source is a recording in a file, by its name."""
    return source.lower().endswith(ENDINGS) and "://" not in source


def check_recording(source: str, options: Mapping[str, object]) -> None:
    """Raise an OptionError where options are given that say nothing of a recording."""
    if given := [option for option, value in options.items() if value]:
        raise OptionError(
            f"{', '.join(given)}: {source} is a recording without pictures and sound, which is labelled as a whole: expected a "
            "video to watch, or of a recording --json, which writes what goes on to a file"
        )


def label_recording(checkpoint: str, source: str, json_file: str, device: str) -> None:
    """Let a model watch a recording step by step; print what it makes of it, and write that to a file."""
    from tokenturing.cli.common import Progress, load_runtime
    from tokenturing.cli.labelling import write_report
    from tokenturing.cli.output import clock
    from tokenturing.files.places import check_place
    from tokenturing.train.recipe import task_of

    if json_file:
        check_place("--json", json_file)
    model = load_runtime(checkpoint, device)
    with Progress("watching") as progress:
        found = task_of(model).label(model, Path(source), progress.report)
    for one in found:
        print(f"{clock(one.start)} - {clock(one.end)}  {one.label} ({one.confidence:.0%})")
    if json_file:
        write_report(json_file, {"recording": Path(source).name}, found)
