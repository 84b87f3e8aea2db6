"""The demo from its beginning to its end."""

from pathlib import Path

import torch
from rich.console import Console

from tokenturing.checkpoint import load
from tokenturing.demo.contest import summary
from tokenturing.demo.figures import LENGTHS, compare
from tokenturing.demo.live_curve import learn_live
from tokenturing.demo.report import write_report
from tokenturing.demo.terminal import show
from tokenturing.encoders.sound import SpeechEmbedding
from tokenturing.errors import MissingExtraError, OptionError, TokenTuringError, a
from tokenturing.evaluate.figures import readable
from tokenturing.evaluate.trace import machine_of
from tokenturing.media.writer import write_video
from tokenturing.tasks.recall.minute import Minute, make_minute
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.watching import Asked, Moment, Watched, answers, watch

TRAINING_SECONDS, SPEED = 100.0, 4.0
FAST_SECONDS, FAST_SPEED = 8.0, 1000.0
RIVAL = "recall-lstm"
"""watches the same minute for comparison"""


def run(out: Path, model_name: str, fast: bool, console: Console) -> Path:
    """Train a small machine, watch a minute with a shipped one, write the report -> where that is."""
    torch.set_num_threads(1)  # for operations this small, a second core costs more than it gives
    model = _load(model_name)
    seconds, speed = (FAST_SECONDS, FAST_SPEED) if fast else (TRAINING_SECONDS, SPEED)
    with console.status("preparing the minute that is watched later"):
        minute = make_minute()  # first, so that whatever is missing is missed before anything is waited for
        SpeechEmbedding()
    console.rule(f"1. A small Token Turing Machine learns from nothing ({seconds:.0f} s at most)")
    console.print("Real handwritten digits pass by; it is to recall the last four. It starts as random numbers.")
    learned = learn_live(seconds, console)
    console.rule(f"2. {model_name} watches a minute of pictures and sound that it was never trained on")
    moments = show(minute, watch(model, minute), machine_of(model.memory).memory_tokens, speed, console)
    watched, others = Watched.of(moments), _others(moments)
    console.print(summary(watched.asked, others), style="bold", highlight=False)
    console.rule("3. The report")
    with console.status("measuring what each model costs, drawing"):
        compared = compare(model, model_name, LENGTHS[:-1] if fast else LENGTHS)
        report = out / "report.html"
        write_report(report, minute, watched, others, learned, compared)
        video = _write_video(out / "minute.mp4", minute)
    console.print(f"Open [bold]{report}[/] in a browser: the minute, the memory, every model's figures and costs.")
    if video is not None:
        console.print(f"Or let it watch a file: tokenturing stream {model_name} {video}")
    return report


def _load(name: str) -> RecallModel:
    model = load(name)
    if getattr(model, "task", None) != "recall":
        raise OptionError(f"{name} holds {a(type(model))}: expected a RecallModel with a memory")
    machine_of(model.memory)
    return model


def _others(moments: list[Moment]) -> dict[str, list[Asked]]:
    """What the rival answers, by its kind; empty where it cannot be loaded."""
    try:
        model = load(RIVAL)
    except TokenTuringError:
        return {}
    return {readable(type(model.memory).__name__): answers(model.eval(), moments)}  # type: ignore[arg-type, union-attr]


def _write_video(path: Path, minute: Minute) -> Path | None:
    """The same minute as a real video file, where PyAV is installed."""
    try:
        write_video(path, minute.frames, minute.waveform)
    except MissingExtraError:
        return None
    return path
