"""`tokenturing stream`"""

import math
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, NamedTuple

from tyro.conf import Positional, UseAppendAction

from tokenturing.cli.options import argument
from tokenturing.cli.output import WIDTH, Output
from tokenturing.errors import OptionError, choose
from tokenturing.media.clock import STEP_SECONDS

if TYPE_CHECKING:
    from tokenturing.media.steps import Media
    from tokenturing.tasks.contract import Session
    from tokenturing.tasks.keeping import KeptSession

EVERY = 2.0
ROUNDING = 1e-6


class Due(NamedTuple):
    """A question and when to ask it."""

    time: float
    question: str


def stream(
    checkpoint: Annotated[Positional[str], argument("CHECKPOINT")],
    source: Annotated[Positional[str], argument("SOURCE")],
    ask: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], argument('"TIME QUESTION"')] = (),
    every: Annotated[float | None, argument("SECONDS", hint="(default: 2, or 0 with --ask)")] = None,
    jsonl: Annotated[str, argument("FILE")] = "",
    all_answers: Annotated[bool, argument("", name="all")] = False,
    state: Annotated[str, argument("FILE")] = "",
    audio_track: Annotated[str, argument("N|LANGUAGE", hint="(default: the file's default)")] = "",
    reconnect: Annotated[float, argument("SECONDS", hint=None)] = 60.0,
    segments: Annotated[str, argument("FILE", name="json")] = "",
    device: Annotated[str, argument("DEVICE", hint=None)] = "cpu",
) -> None:
    """Let a model watch a video, a sound file, a camera or an endless stream, and answer questions about it.

    Each line is what it notices or answers; at the end every question is asked once, and what there is to say is printed. What
    can be asked depends on the model's task. Of recall: "seen 2 last", "heard 1 last" (1 to 4), "heard before 7 was seen" (0 to
    9), "how long ago seen".

    A recording of a sensor, .csv or .npz, is labelled instead, by a model that knows its sensor, such as activity-watch: a line
    for each stretch of time, and with --json all of them in a file. Columns are ax, ay, az (acceleration), wx, wy, wz (rotation)
    and, where samples are not 50 a second, time in seconds; an .npz has `samples` [n, 6] and `times` [n] or `rate`.

    SOURCE is a file with pictures, sound or both; "camera", "camera:1" or /dev/video0; "-" for standard input; a named pipe; or
    an address (http, https, rtsp, rtsps). Ctrl-C ends what is endless.

    A network stream that states no length and breaks off is tried again at once, then after 1, 2, 4 ... 30 s; the time that was
    missed passes without pictures and sound. It is over when it was not reached for as long as --reconnect says.

    Args:
        checkpoint: the model: a folder, that of an export, or the name of a shipped one, such as recall-ttm.
        source: what to watch, see above.
        ask: a question and the second at which to ask it, such as --ask "12.0 seen 2 last"
        every: ask a few questions in turn, one every so many seconds; 0: never.
        jsonl: write everything to this file as well, one JSON object a line; "-": to standard output, and the rest to standard
            error.
        all_answers: at the end print the answers "nothing yet" too, one a line.
        state: keep the session in this file, every half a minute and at the end, and go on with the one that is there: what is
            watched now then follows what was watched before, and times count from its beginning.
        audio_track: which sound track to hear.
        reconnect: seconds in which to reach a network stream again that broke off; 0: not at all.
        segments: write what a recording was labelled with to this file, as JSON.
        device: "cpu", on the fast runtime, or where else PyTorch is to run the model, such as "cuda".
    """
    from tokenturing.cli.common import display_names, load_runtime
    from tokenturing.cli.recording import ENDINGS, label_recording
    from tokenturing.files.places import check_place
    from tokenturing.media.steps import open_media
    from tokenturing.tasks.keeping import KeptSession
    from tokenturing.train.recipe import task_of

    if source.endswith(ENDINGS) and "://" not in source:
        label_recording(checkpoint, source, segments, device)
        return
    if segments:
        raise OptionError(
            f"--json: {source} is no recording: expected a .csv or .npz; --jsonl writes what is noticed and answered"
        )
    asked = parse_questions([text for group in ask for text in group])
    seconds = (0.0 if ask else EVERY) if every is None else every
    if not 0 <= seconds < math.inf:
        raise OptionError(f"--every {seconds:g}: expected seconds, or 0 for never")
    _check_apart({"the source": source, "--jsonl": jsonl, "--state": state})
    for option, file in (("--jsonl", jsonl), ("--state", state)):
        if file and not (option == "--jsonl" and file == "-"):
            check_place(option, file)
    model = load_runtime(checkpoint, device)
    task = task_of(model)
    with ExitStack() as stack:
        media = stack.enter_context(open_media(source, audio_track=audio_track or None, reconnect=reconnect))
        session = task.session(model, media)
        for due in asked:
            choose("question", due.question, session.questions)
        kept = KeptSession(Path(state), session) if state else None
        output = Output(stack.enter_context(_open_lines(jsonl)) if jsonl else None, all_answers)
        output.say(_announced(source, media))
        if knows := getattr(session, "knows", ""):
            name = display_names([checkpoint])[0] or checkpoint
            output.say(textwrap.fill(f"{name} knows {knows}", WIDTH, break_on_hyphens=False))
        schedule = Schedule(asked, seconds, session.rotation)
        if kept and kept.steps:
            output.say(f"going on with {state}, after {kept.steps * STEP_SECONDS:.1f} s")
            schedule.skip(kept.steps * STEP_SECONDS)
        with _ended_by_terminate() if kept else nullcontext():
            _watch(media, session, schedule, output, kept)


def _check_apart(named: Mapping[str, str]) -> None:
    """Refuse to write over what is watched, or one file over the other."""
    places: dict[Path, str] = {}
    for what, path in named.items():
        if path and path != "-" and "://" not in path:
            other = places.setdefault(Path(path).resolve(), what)
            if other != what:
                raise OptionError(f"{what} {path} is {other} too: expected another file")


def parse_questions(texts: Sequence[str]) -> list[Due]:
    """ "12.0 seen 2 last" -> when and what, by time."""
    due = []
    for text in texts:
        time, _, question = text.strip().partition(" ")
        try:
            due.append(Due(float(time), " ".join(question.split())))
            if not math.isfinite(due[-1].time):
                raise ValueError(f"{time} is no time")
        except ValueError:
            raise OptionError(f'--ask "{text}": expected "SECONDS QUESTION", as in "12.0 seen 2 last"') from None
    return sorted(due)


class Schedule:
    """Which questions are due: those asked for and, every so many seconds, one of the rotation.

    Args:
        asked: in the order of their times.
        every: seconds; 0: no rotation.
        rotation: the questions asked in turn; without any there are none to ask.
    """

    def __init__(self, asked: Sequence[Due], every: float, rotation: Sequence[str]):
        self.waiting, self.every, self.rotation, self.turn = list(asked), every if rotation else 0.0, rotation, 0

    def skip(self, until: float) -> None:
        """The time before `until` is past: what was to be asked then is not asked any more."""
        while self.waiting and self.waiting[0].time < until - ROUNDING:
            late = self.waiting.pop(0)
            print(f"not asked, since the session is beyond {late.time:g} s: {late.question}", file=sys.stderr)
        self.turn = max(math.ceil((until - ROUNDING) / self.every) - 1, 0) if self.every else 0

    def due(self, until: float) -> list[str]:
        """The questions whose time is before `until` and that were not yet asked."""
        found = []
        while self.waiting and self.waiting[0].time < until - ROUNDING:
            found.append(self.waiting.pop(0).question)
        while self.every and self.every * (self.turn + 1) < until - ROUNDING:
            found.append(self.rotation[self.turn % len(self.rotation)])
            self.turn += 1
        return found


@contextmanager
def _open_lines(path: str) -> Iterator[IO[str]]:
    if path == "-":
        yield sys.stdout
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", encoding="utf-8") as file:
        yield file


def _announced(source: str, media: "Media") -> str:
    tracks = [name for name, there in (("pictures", media.has_video), ("sound", media.has_sound)) if there]
    length = f", {media.duration:.1f} s" if media.duration else ""
    return f"{media.name if '://' in source else source}: {' and '.join(tracks)}{length}"


@contextmanager
def _ended_by_terminate() -> Iterator[None]:
    """What a service manager sends ends the stream as Ctrl-C does, so that the session is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(media: "Media", session: "Session", schedule: Schedule, output: Output, kept: "KeptSession | None") -> None:
    """All steps of the media, then every question once; Ctrl-C ends it early, with the questions."""
    seconds, interrupted = kept.steps * STEP_SECONDS if kept else 0.0, False
    try:
        for begin in _steps(media, session, output, seconds):
            if kept:
                kept.advance()
            seconds = begin + STEP_SECONDS
            if questions := schedule.due(seconds):
                output.answers(begin, session.ask(*questions))
    except KeyboardInterrupt:
        interrupted = media.duration is not None  # what is endless has no other end
    finally:
        if kept:
            kept.save()
    output.say(f"\nat the end, after {seconds:.1f} s:")
    output.summary(seconds, session.ask(*session.questions))
    for late in schedule.waiting:
        print(f"not asked, since it was over by {late.time:g} s: {late.question}", file=sys.stderr)
    if interrupted:
        raise KeyboardInterrupt


def _steps(media: "Media", session: "Session", output: Output, before: float) -> Iterator[float]:
    """When each step begins, once the model has taken it; a bar shows how far that is."""
    from tokenturing.cli.common import Progress

    total = round(media.duration / STEP_SECONDS) if media.duration else 0
    with Progress("watching") if total else nullcontext() as progress:
        for number, step in enumerate(media, start=1):
            begin = before + step.time
            for event in session.take(step):
                output.event(begin, event)
            yield begin
            if progress:
                progress.update(min(number, total), total)
