"""`tokenturing stream`"""

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NamedTuple

from tyro.conf import Positional, UseAppendAction

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError, choose
from tokenturing.media.clock import STEP_SECONDS

if TYPE_CHECKING:
    from tokenturing.media.steps import Media
    from tokenturing.tasks.contract import Answer, Event, Session

EVERY = 2.0
ROUNDING = 1e-6
WIDTH = 80
"""columns of what is said in sentences"""


class Due(NamedTuple):
    """A question and when to ask it."""

    time: float
    question: str


def stream(
    checkpoint: Annotated[Positional[str], argument("CHECKPOINT")],
    source: Annotated[Positional[str], argument("FILE.mp4|.wav|camera")],
    ask: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], argument('"TIME QUESTION"')] = (),
    every: Annotated[float | None, argument("SECONDS", hint="(default: 2, or 0 with --ask)")] = None,
    jsonl: Annotated[str, argument("FILE")] = "",
    all_answers: Annotated[bool, argument("", name="all")] = False,
) -> None:
    """Let a model watch a video, a sound file or a camera, and answer questions about it.

    Each line is what it notices or answers; at the end every question is asked once, and what there is to say is printed. What
    can be asked depends on the model's task. Of recall: "seen 2 last", "heard 1 last" (1 to 4), "heard before 7 was seen" (0 to
    9), "how long ago seen".

    Args:
        checkpoint: the model: a folder, that of an export, or the name of a shipped one, such as recall-ttm.
        source: a file with pictures, sound or both, or "camera" (or "camera:1"; Ctrl-C ends it).
        ask: a question and the second at which to ask it, such as --ask "12.0 seen 2 last"
        every: ask a few questions in turn, one every so many seconds; 0: never.
        jsonl: write everything to this file as well, one JSON object a line.
        all_answers: at the end print the answers "nothing yet" too, one a line.
    """
    from tokenturing.cli.common import display_names, load_runtime
    from tokenturing.media.steps import open_media
    from tokenturing.train.recipe import task_of

    asked = parse_questions([text for group in ask for text in group])
    seconds = (0.0 if ask else EVERY) if every is None else every
    if seconds < 0:
        raise OptionError(f"--every {seconds:g}: expected seconds, or 0 for never")
    model = load_runtime(checkpoint)
    task = task_of(model)
    with ExitStack() as stack:
        media = stack.enter_context(open_media(source))
        session = task.session(model, media)
        for due in asked:
            choose("question", due.question, session.questions)
        file = stack.enter_context(_open_lines(jsonl)) if jsonl else None
        _announce(source, media)
        if knows := getattr(session, "knows", ""):
            name = display_names([checkpoint])[0] or checkpoint
            print(textwrap.fill(f"{name} knows {knows}", WIDTH, break_on_hyphens=False), flush=True)
        _watch(media, session, Schedule(asked, seconds, session.rotation), Output(file, all_answers))


def parse_questions(texts: Sequence[str]) -> list[Due]:
    """ "12.0 seen 2 last" -> when and what, by time."""
    due = []
    for text in texts:
        time, _, question = text.strip().partition(" ")
        try:
            due.append(Due(float(time), " ".join(question.split())))
        except ValueError:
            raise OptionError(f'--ask "{text}": expected "SECONDS QUESTION", as in "12.0 seen 2 last"') from None
    return sorted(due)


class Schedule:
    """Which questions are due: those asked for and, every so many seconds, one of the rotation.

    Args:
        asked: in the order of their times.
        every: seconds; 0: no rotation.
        rotation: the questions asked in turn.
    """

    def __init__(self, asked: Sequence[Due], every: float, rotation: Sequence[str]):
        self.waiting, self.every, self.rotation, self.turn = list(asked), every, rotation, 0

    def due(self, until: float) -> list[str]:
        """The questions whose time is before `until` and that were not yet asked."""
        found = []
        while self.waiting and self.waiting[0].time < until - ROUNDING:
            found.append(self.waiting.pop(0).question)
        while self.every and self.every * (self.turn + 1) < until - ROUNDING:
            found.append(self.rotation[self.turn % len(self.rotation)])
            self.turn += 1
        return found


def _open_lines(path: str) -> IO[str]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path).open("w", encoding="utf-8")


def _announce(source: str, media: "Media") -> None:
    tracks = [name for name, there in (("pictures", media.has_video), ("sound", media.has_sound)) if there]
    length = f", {media.duration:.1f} s" if media.duration else ""
    print(f"{source}: {' and '.join(tracks)}{length}", flush=True)


def _watch(media: "Media", session: "Session", schedule: Schedule, output: "Output") -> None:
    """All steps of the media, then every question once; Ctrl-C ends it early, with the questions."""
    seconds, interrupted = 0.0, False
    try:
        for begin in _steps(media, session, output):
            seconds = begin + STEP_SECONDS
            if questions := schedule.due(seconds):
                output.answers(begin, session.ask(*questions))
    except KeyboardInterrupt:
        interrupted = media.duration is not None  # a camera has no other end
    print(f"\nat the end, after {seconds:.1f} s:")
    output.summary(seconds, session.ask(*session.questions))
    for late in schedule.waiting:
        print(f"not asked, since it was over by {late.time:g} s: {late.question}", file=sys.stderr)
    if interrupted:
        raise KeyboardInterrupt


def _steps(media: "Media", session: "Session", output: "Output") -> Iterator[float]:
    """When each step begins, once the model has taken it; a bar shows how far that is."""
    from tokenturing.cli.common import Progress

    total = round(media.duration / STEP_SECONDS) if media.duration else 0
    with Progress("watching") if total else nullcontext() as progress:
        for number, step in enumerate(media, start=1):
            for event in session.take(step):
                output.event(step.time, event)
            yield step.time
            if progress:
                progress.update(min(number, total), total)


class Output:
    """Lines for people and, if there is a file, JSON lines for programs.

    Args:
        file: for the JSON lines.
        all_answers: whether the summary has a line for each question whose answer is "nothing yet".
    """

    def __init__(self, file: IO[str] | None, all_answers: bool = False):
        self.file, self.all_answers, self.noticed = file, all_answers, 0

    def event(self, time: float, event: "Event") -> None:
        """Something was noticed."""
        self.noticed += 1
        print(f"{_clock(time)}  ({event.sense} {event.what})", flush=True)
        self._write({"time": round(time, 2), "event": event.sense, "what": event.what, "confidence": round(event.confidence, 4)})

    def answers(self, time: float, answers: Sequence["Answer"]) -> None:
        """Questions were answered."""
        for answer in answers:
            print(f"{_clock(time)}  {answer.question}? {answer.answer} ({answer.confidence:.0%})", flush=True)
            self._write_answer(time, answer, final=False)

    def summary(self, time: float, answers: Sequence["Answer"]) -> None:
        """Every question was answered at the end: all go to the file, and to people those with something to say."""
        from tokenturing.tasks.contract import NOTHING_YET

        for answer in answers:
            self._write_answer(time, answer, final=True)
        empty = [answer.question for answer in answers if answer.answer == NOTHING_YET]
        for answer in answers:
            if self.all_answers or answer.answer != NOTHING_YET:
                print(f"{_clock(time)}  {answer.question}? {answer.answer} ({answer.confidence:.0%})")
        if len(empty) == len(answers) and not self.noticed:
            hint = "" if self.all_answers else " (--all prints them)"
            print(f'nothing was recognised: all {len(answers)} answers are "{NOTHING_YET}"{hint}')
        elif empty and not self.all_answers:
            print(in_one_line(f"{NOTHING_YET}: ", empty))

    def _write_answer(self, time: float, answer: "Answer", final: bool) -> None:
        self._write(
            {
                "time": round(time, 2),
                "question": answer.question,
                "answer": answer.answer,
                "confidence": round(answer.confidence, 4),
                "final": final,
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        if self.file is not None:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()


def in_one_line(head: str, questions: Sequence[str]) -> str:
    """As many questions as fit into WIDTH, and how many more there are."""
    for shown in range(len(questions), 0, -1):
        more = len(questions) - shown
        tail = f" ... ({more} more question{'s' * (more > 1)}; --all prints them)" if more else ""
        line = head + ", ".join(questions[:shown]) + tail
        if len(line) <= WIDTH:
            return line
    return f"{head}{len(questions)} question{'s' * (len(questions) > 1)} (--all prints them)"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:05.2f}" if hours else f"{minutes}:{rest:05.2f}"
