"""The minute in a terminal: what is seen and heard now, the memory, questions and answers.

Where standard output is no terminal, plain lines.
"""

import time
from collections import deque
from collections.abc import Iterable

import numpy as np
from rich.color import Color
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tokenturing.demo.minute import Minute
from tokenturing.demo.watching import Asked, Moment
from tokenturing.evaluate.trace import EMPTY, Holdings
from tokenturing.tasks.questions import NOTHING, STEP_SECONDS

FRAMES_PER_SECOND = 12
SLOTS_PER_COLUMN = 16
QUESTIONS_SHOWN = 9
GREYS = 32
CELLS = {"seen": "white on #2f6fb2", "heard": "black on #e8963f"}
SURE = 0.5
"""below this share, eyes and ears are shown as seeing or hearing nothing"""


def clock(step: int) -> str:
    """Steps as minutes and seconds."""
    seconds = step * STEP_SECONDS
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def half_blocks(frame: np.ndarray) -> Text:
    """A grey frame [H, W] as H / 2 lines of characters, two pixels in each."""
    levels = (frame.clip(0, 1) * (GREYS - 1)).round().astype(int)
    text = Text()
    for upper, lower in zip(levels[::2], levels[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            text.append("▀", _grey_pair(int(top), int(bottom)))
        text.append("\n")
    text.rstrip()
    return text


_PAIRS: dict[tuple[int, int], Style] = {}


def _grey_pair(top: int, bottom: int) -> Style:
    if (top, bottom) not in _PAIRS:
        fore, back = (round(level * 255 / (GREYS - 1)) for level in (top, bottom))
        _PAIRS[top, bottom] = Style(
            color=Color.from_rgb(fore, fore, fore), bgcolor=Color.from_rgb(back, back, back)
        )
    return _PAIRS[top, bottom]


class Screen:
    """What is on the terminal at one moment.

    Args:
        minute: that is shown.
        slots: M.
        wide: three columns instead of two.
    """

    def __init__(self, minute: Minute, slots: int, wide: bool):
        self.minute, self.wide = minute, wide
        self.holdings = Holdings(minute.events, slots, len(minute.frames))
        self.asked: deque[Asked] = deque(maxlen=QUESTIONS_SHOWN)
        self.right = self.count = 0
        self.moment: Moment | None = None
        self.held = self.holdings.held

    def take(self, moment: Moment) -> None:
        """Go on to the next moment."""
        self.moment = moment
        self.held = self.holdings.advance(moment.step, moment.trace.gate)
        self.asked.extend(moment.asked)
        self.count += len(moment.asked)
        self.right += sum(asked.right for asked in moment.asked)

    def render(self) -> RenderableType:
        """The present moment."""
        assert self.moment is not None
        frame = Panel(half_blocks(self.minute.frames[self.moment.step]), title="what it sees", width=34)
        now = Group(frame, _now("eyes", self.moment.sees), _now("ears", self.moment.hears))
        memory = Panel(self._memory(self.moment), title="its memory", subtitle=self._legend())
        questions = Panel(self._questions(), title=f"questions: {self.right} of {self.count} right", width=44)
        head = Text(f" {clock(self.moment.step)} of {clock(len(self.minute.frames))}", "bold")
        if self.wide:
            return Group(head, Columns([now, memory, questions]))
        return Group(head, Columns([now, memory]), questions)

    @staticmethod
    def _legend() -> Text:
        return Text.assemble((" seen ", CELLS["seen"]), " ", (" heard ", CELLS["heard"]))

    def _memory(self, moment: Moment) -> RenderableType:
        """Each slot: what it holds, its gate now, how long ago it was written."""
        tables = []
        for first in range(0, len(self.held), SLOTS_PER_COLUMN):
            table = Table(box=None, padding=(0, 1), header_style="dim")
            table.add_column("holds")
            table.add_column("gate", width=5)
            table.add_column("age", justify="right", width=5)
            for slot in range(first, min(first + SLOTS_PER_COLUMN, len(self.held))):
                gate, age = moment.trace.gate[slot], moment.trace.age[slot] * STEP_SECONDS
                bar = Text("█" * max(round(5 * gate), int(gate > 0.02)), "bold magenta")
                table.add_row(self._cell(int(self.held[slot])), bar, Text(f"{age:.0f} s", "dim"))
            tables.append(table)
        return Columns(tables)

    def _cell(self, index: int) -> Text:
        if index < 0:
            return Text("   ·   " if index == EMPTY else "   -   ", "dim")
        event = self.minute.events[index]
        return Text(f" {event.kind:5} {event.digit} ", CELLS[event.kind])

    def _questions(self) -> RenderableType:
        lines = Text("\n").join(question_line(asked) for asked in self.asked)
        return Group(lines, *[Text("")] * (QUESTIONS_SHOWN - len(self.asked)))


def _now(organ: str, found: tuple[int, float]) -> Text:
    digit, share = found
    nothing = digit == NOTHING or share < SURE
    return Text(f" {organ}: nothing", "dim") if nothing else Text(f" {organ}: {digit}  ({share:.0%})", "bold")


def question_line(asked: Asked) -> Text:
    """One question, the answer, and the truth where the answer is wrong."""
    answer = (asked.answer, "bold green") if asked.right else (f"{asked.answer} (it was {asked.truth})", "bold red")
    return Text.assemble((f"{clock(asked.step)}  ", "dim"), f"{asked.question}? ", answer)


def show(minute: Minute, moments: Iterable[Moment], slots: int, speed: float, console: Console) -> list[Moment]:
    """Show each moment as it comes, at most `speed` times as fast as life -> all of them."""
    if console.is_terminal:
        return _show_live(minute, moments, slots, speed, console)
    return _show_lines(minute, moments, console)


def _show_live(
    minute: Minute, moments: Iterable[Moment], slots: int, speed: float, console: Console
) -> list[Moment]:
    screen = Screen(minute, slots, wide=console.width >= 125)
    seen: list[Moment] = []
    began = drawn = time.monotonic()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for moment in moments:
            screen.take(moment)
            seen.append(moment)
            time.sleep(max(0.0, began + (moment.step + 1) * STEP_SECONDS / speed - time.monotonic()))
            if time.monotonic() - drawn >= 1 / FRAMES_PER_SECOND or moment.step == len(minute.frames) - 1:
                drawn = time.monotonic()
                live.update(screen.render(), refresh=True)
    console.print(screen.render())
    return seen


def _show_lines(minute: Minute, moments: Iterable[Moment], console: Console) -> list[Moment]:
    starts: dict[int, list[str]] = {}
    for event in minute.events:
        starts.setdefault(event.first, []).append(f"({event.kind}: {event.digit})")
    seen, right = [], 0
    for moment in moments:
        seen.append(moment)
        for what in starts.get(moment.step, ()):
            console.print(f"{clock(moment.step)}  {what}", style="dim", highlight=False)
        for asked in moment.asked:
            right += asked.right
            console.print(question_line(asked), Text("right" if asked.right else "wrong", "dim"))
    count = sum(len(moment.asked) for moment in seen)
    console.print(f"{right} of {count} right")
    return seen
