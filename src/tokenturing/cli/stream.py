"""`tokenturing stream`"""

import math
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal, NamedTuple

from tyro.conf import Positional, UseAppendAction

from tokenturing.cli.options import argument
from tokenturing.cli.output import WIDTH, Output
from tokenturing.errors import OptionError, choose

if TYPE_CHECKING:
    from tokenturing.cli.labelling import Labelling
    from tokenturing.cli.stages import Stages
    from tokenturing.media.feed import Feed
    from tokenturing.media.steps import Media
    from tokenturing.tasks.contract import Session
    from tokenturing.tasks.keeping import KeptSession

EVERY = 2.0
RECONNECT = 60.0
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
    out: Annotated[str, argument("VIDEO")] = "",
    truth: Annotated[str, argument("FILE")] = "",
    segments: Annotated[str, argument("FILE", name="json")] = "",
    audio_track: Annotated[str, argument("N|LANGUAGE", hint="(default: the file's default)")] = "",
    drop: Annotated[Literal["auto", "oldest", "never"], argument("auto|oldest|never", hint=None)] = "auto",
    reconnect: Annotated[float, argument("SECONDS", hint=None)] = RECONNECT,
    device: Annotated[str, argument("DEVICE", hint=None)] = "cpu",
) -> None:
    """Let a model watch a video, a sound file, a camera or an endless stream: it answers questions, or says what goes on.

    Each line is what it notices or answers; at the end every question is asked once, and what there is to say is printed. What
    can be asked depends on the model's task. Of recall: "seen 2 last", "heard 1 last" (1 to 4), "heard before 7 was seen" (0 to
    9), "how long ago seen".

    A recording of a sensor, .csv or .npz, is labelled by a model that knows its sensor, such as activity-watch: a line for each
    stretch of time, and with --json all of them in a file; no other option but --device applies. Columns are ax, ay, az
    (acceleration), wx, wy, wz (rotation) and, where samples are not 50 a second, time in seconds; an .npz has `samples`
    [n, 6] and `times` [n] or `rate`.

    SOURCE is a file with pictures, sound or both; "camera", "camera:1" or /dev/video0; "-" for standard input; a named pipe; or
    an address (http, https, rtsp, rtsps). Ctrl-C ends what is endless.

    A network stream that states no length and breaks off is tried again at once, then after 1, 2, 4 ... 30 s; the time that was
    missed passes without pictures and sound. It is over when it was not reached for as long as --reconnect says.

    Where a model is slower than a camera or an endless network stream, steps that wait and are more than a second late are left
    out, the oldest first, and counted. Of files and pipes none is.

    A model that says what goes on labels time: --out writes a video with what it said along time below the picture, --json what
    it said from when to when, and how long a step took.

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
        out: write the pictures to this video (mp4, mkv or mov), with the labels so far in a strip below.
        truth: what is true, to be shown beside what the model says, and how much of that is: segments with start, end and
            label, as JSON or CSV.
        segments: write the labelled segments to this file, and how long each stage of a step took.
        audio_track: which sound track to hear.
        drop: which steps are left out: "auto", see above; "oldest", the same for a pipe, taken for a live source; "never".
        reconnect: seconds in which to reach a network stream again that broke off; 0: not at all.
        device: "cpu", on the fast runtime, or where else PyTorch is to run the model, such as "cuda".
    """
    from tokenturing.cli.common import display_names, load_runtime
    from tokenturing.cli.labelling import Labelling, check_labels, labels_time, write_report
    from tokenturing.cli.recording import check_recording, is_recording, label_recording
    from tokenturing.cli.segments import read_segments
    from tokenturing.cli.stages import Stages
    from tokenturing.files.places import check_place
    from tokenturing.media.feed import Feed
    from tokenturing.media.steps import open_media
    from tokenturing.media.view import View
    from tokenturing.tasks.keeping import KeptSession
    from tokenturing.train.recipe import task_of

    if is_recording(source):
        _check_apart({"the source": source, "--json": segments})
        watched = {"--ask": ask, "--every": every is not None, "--jsonl": jsonl, "--all": all_answers, "--state": state}
        media_only = {"--audio-track": audio_track, "--drop": drop != "auto", "--reconnect": reconnect != RECONNECT}
        check_recording(source, {"--out": out, "--truth": truth} | watched | media_only)
        label_recording(checkpoint, source, segments, device)
        return
    asked = parse_questions([text for group in ask for text in group])
    seconds = (0.0 if ask else EVERY) if every is None else every
    if not 0 <= seconds < math.inf:
        raise OptionError(f"--every {seconds:g}: expected seconds, or 0 for never")
    written = {"--jsonl": jsonl, "--state": state, "--out": out, "--json": segments}
    _check_apart({"the source": source, "--truth": truth} | written)
    true = read_segments(truth) if truth else []
    for option, file in written.items():
        if file and not (option == "--jsonl" and file == "-"):
            check_place(option, file)
    model = load_runtime(checkpoint, device)
    task = task_of(model)
    view = task.view(model) if hasattr(task, "view") else View()
    with ExitStack() as stack:
        media = stack.enter_context(open_media(source, **view._asdict(), audio_track=audio_track or None, reconnect=reconnect))
        feed = Feed(media, drop)
        session = task.session(model, media)
        for due in asked:
            choose("question", due.question, session.questions)
        check_labels(session, {"--out": out, "--truth": truth, "--json": segments})
        kept = KeptSession(Path(state), session) if state else None
        output = Output(stack.enter_context(_open_lines(jsonl)) if jsonl else None, all_answers)
        output.say(_announced(source, media))
        name = display_names([checkpoint])[0] or checkpoint
        if knows := getattr(session, "knows", ""):
            output.say(textwrap.fill(f"{name} knows {knows}", WIDTH, break_on_hyphens=False))
        schedule = Schedule(asked, seconds, session.rotation)
        before = kept.steps * media.step_seconds if kept else 0.0
        if before:
            output.say(f"going on with {state}, after {before:.1f} s")
            schedule.skip(before)
        labelling = stack.enter_context(Labelling(session, media, out, true)) if labels_time(session) else None
        if labelling and (unknown := labelling.unknown()):
            print(f"{name} does not know what {truth} calls {', '.join(unknown[:5])}, and never says it", file=sys.stderr)
        stages = Stages(session, media.step_seconds)
        with _ended_by_terminate() if kept else nullcontext():
            interrupted = _watch(Watching(media, feed, session, stages, labelling), schedule, output, kept, before)
        if labelling:
            output.say(stages.line(feed.dropped))
            if truth:
                output.say(_agreed(labelling.agreement(), truth))
            if segments:
                about = {"source": media.name, "model": name, "step_seconds": media.step_seconds, "left_out": feed.dropped}
                write_report(segments, about | {"milliseconds": stages.figures()}, labelling.segments)
    if interrupted:
        raise KeyboardInterrupt


def _agreed(share: float | None, truth: str) -> str:
    if share is None:
        return f"{truth} says nothing of the steps that were watched"
    return f"what it said was true at {share:.1%} of the steps for which {truth} knows it; of a step without a word it is not"


class Watching(NamedTuple):
    """A session, and what surrounds it."""

    media: "Media"
    feed: "Feed"
    session: "Session"
    stages: "Stages"
    labelling: "Labelling | None"


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


def _watch(watching: Watching, schedule: Schedule, output: Output, kept: "KeptSession | None", before: float) -> bool:
    """All steps of the media, then every question once -> whether Ctrl-C ended it early, which what is endless needs to end."""
    seconds, interrupted, session = before, False, watching.session
    step_seconds = watching.media.step_seconds
    try:
        for begin in _steps(watching, output, seconds):
            if kept:
                kept.advance()
            seconds = begin + step_seconds
            if questions := schedule.due(seconds):
                output.answers(begin, session.ask(*questions))
    except KeyboardInterrupt:
        interrupted = watching.media.duration is not None
    finally:
        if kept:
            kept.save()
    output.say(f"\nat the end, after {seconds:.1f} s:")
    output.summary(seconds, session.ask(*session.questions))
    for late in schedule.waiting:
        print(f"not asked, since it was over by {late.time:g} s: {late.question}", file=sys.stderr)
    return interrupted


def _steps(watching: Watching, output: Output, before: float) -> Iterator[float]:
    """When each step begins, once the model has taken it; a bar shows how far that is."""
    from tokenturing.cli.common import Progress

    media, labelling = watching.media, watching.labelling
    total = round(media.duration / media.step_seconds) if media.duration else 0
    with Progress("watching") if total else nullcontext() as progress, closing(iter(watching.feed)) as steps:  # type: ignore[type-var]
        for number, taken in enumerate(steps, start=1):
            begin = before + taken.step.time
            events = watching.stages.take(taken)
            if labelling:
                began = time.perf_counter()
                labelling.show(taken.passed)
                labelling.add(taken.step.time)
                watching.stages.wrote(time.perf_counter() - began)
            for event in events:
                output.event(begin, event)
            yield begin
            if progress:
                progress.update(min(number, total), total)
