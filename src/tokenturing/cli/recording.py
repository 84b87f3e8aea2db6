"""`tokenturing stream` of a recording in a file, .csv or .npz: what goes on from when to when."""

from pathlib import Path

ENDINGS = (".csv", ".npz")


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
