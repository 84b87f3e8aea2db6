"""`tokenturing demo`"""

from pathlib import Path
from typing import Annotated

from tokenturing.cli.options import argument


def demo(
    out: Annotated[str, argument("FOLDER", hint=None)] = "runs/demo",
    model: Annotated[str, argument("CHECKPOINT", hint=None)] = "recall-ttm",
    fast: bool = False,
) -> None:
    """See it work in five minutes: a small machine learns, a trained one watches, a report is written.

    Args:
        out: where report.html and the video are written.
        model: the trained model that watches: a shipped one's name, or a folder.
        fast: train for seconds only and do not wait, for a quick look or a test.
    """
    from rich.console import Console

    from tokenturing.cli.common import model_folder
    from tokenturing.extras import require
    from tokenturing.files.places import check_place

    require("cli", "tasks", "speech", "media")
    check_place("--out", out, folder=True)
    from tokenturing.demo.run import run

    run(Path(out), model_folder(model), fast, Console())
