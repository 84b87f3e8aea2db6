"""The minute in a terminal: what is seen and heard now, the memory, questions and answers.

Where standard output is no terminal, plain lines.
"""

import time
from collections import deque
from collections.abc import Iterable

import numpy as np
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tokenturing.evaluate.trace import EMPTY, Holdings
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.tasks.recall.minute import Minute
from tokenturing.tasks.recall.watching import Asked, Moment
from tokenturing.tasks.recall.world.questions import NOTHING

FRAMES_PER_SECOND = 12
SLOTS_PER_COLUMN = 16
FRAME_WIDTH, QUESTION_WIDTH = 34, 66
SLOT_WIDTHS = {False: 24, True: 19}
"""of a slot's line, and of one that is compact"""
BORDERS = 4
WIDE_HEIGHT, NARROW_HEIGHT = 20, 24
"""lines that the screen needs with the questions beside the memory, and below it"""
GREYS = 32
CELLS = {"seen": "white on #2f6fb2", "heard": "black on #e8963f"}
LEGEND = Text.assemble((" seen ", CELLS["seen"]), " ", (" heard ", CELLS["heard"]))
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
        _PAIRS[top, bottom] = Style(color=Color.from_rgb(fore, fore, fore), bgcolor=Color.from_rgb(back, back, back))
    return _PAIRS[top, bottom]


def memory_width(slots: int, *, compact: bool) -> int:
    """Of the panel of so many slots."""
    return BORDERS + SLOT_WIDTHS[compact] * -(-slots // SLOTS_PER_COLUMN)


def wide_width(slots: int) -> int:
    """Of a terminal that has room for everything side by side."""
    return FRAME_WIDTH + memory_width(slots, compact=False) + QUESTION_WIDTH


class Screen:
    """What is on the terminal at one moment.

    Args:
        minute: that is shown.
        slots: M.
        width: of the terminal, in characters.
        height: of the terminal, in lines.
    """

    def __init__(self, minute: Minute, slots: int, width: int, height: int):
        self.minute = minute
        self.holdings = Holdings(minute.events, slots, len(minute.frames))
        self.held = self.holdings.held
        self.compact = width < FRAME_WIDTH + memory_width(slots, compact=False)
        self.memory_width = memory_width(slots, compact=self.compact)
        self.wide = width >= wide_width(slots)
        lines = SLOTS_PER_COLUMN if self.wide else height - SLOTS_PER_COLUMN - 6
        self.asked: deque[Asked] = deque(maxlen=min(max(lines, 2), SLOTS_PER_COLUMN))
        self.right = self.count = 0
        self.moment: Moment | None = None

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
        step = self.moment.step
        head = Text.assemble(
            (f" {clock(step)} of {clock(len(self.minute.frames))}  ", "bold"),
            _now("eyes", self.moment.sees),
            _now("ears", self.moment.hears),
        )
        picture = half_blocks(self.minute.frames[step])
        frame = Panel(picture, title="what it sees", width=FRAME_WIDTH, padding=0)
        memory = Panel(self._memory(self.moment), title="its memory", subtitle=LEGEND, width=self.memory_width)
        title = f"questions: {self.right} of {self.count} right"
        questions = Panel(self._questions(), title=title, width=QUESTION_WIDTH)
        upper = Table.grid()
        if self.wide:
            upper.add_row(frame, memory, questions)
            return Group(head, upper)
        upper.add_row(frame, memory)
        return Group(head, upper, questions)

    def _memory(self, moment: Moment) -> RenderableType:
        """Each slot: what it holds, its gate now, how long ago it was written."""
        whole = Table.grid()
        columns = []
        for first in range(0, len(self.held), SLOTS_PER_COLUMN):
            lines = []
            for slot in range(first, min(first + SLOTS_PER_COLUMN, len(self.held))):
                gate, age = moment.trace.gate[slot], moment.trace.age[slot] * STEP_SECONDS
                longest = 4 if self.compact else 6
                bar = "█" * max(round(longest * gate), int(gate > 0.02))
                since = f"{min(age, 9999):4.0f}s" if self.compact else f"{age:5.0f} s "
                cell = self._cell(int(self.held[slot]))
                lines.append(Text.assemble(cell, (f" {bar:{longest}}", "bold magenta"), (since, "dim")))
            columns.append(Text("\n").join(lines))
        whole.add_row(*columns)
        return whole

    def _cell(self, index: int) -> Text:
        if index < 0:
            return Text("    ·    " if index == EMPTY else "    -    ", "dim")
        event = self.minute.events[index]
        return Text(f" {event.kind:5} {event.label} ", CELLS[event.kind])

    def _questions(self) -> RenderableType:
        lines = [question_line(asked) for asked in self.asked]
        lines += [Text()] * ((self.asked.maxlen or 0) - len(lines))
        return Text("\n", no_wrap=True, overflow="ellipsis").join(lines)


def _now(organ: str, found: tuple[int, float]) -> Text:
    digit, share = found
    if digit == NOTHING or share < SURE:
        return Text(f"  {organ}: nothing     ", "dim")
    return Text(f"  {organ}: {digit} ({share:4.0%})    ", "bold")


def question_line(asked: Asked) -> Text:
    """One question, the answer, and the truth where the answer is wrong."""
    answer = (f"✔ {asked.answer}", "bold green")
    if not asked.right:
        answer = (f"✘ {asked.answer}, it was {asked.truth}", "bold red")
    return Text.assemble((f"{clock(asked.step)}  ", "dim"), f"{asked.question}? ", answer)


def show(minute: Minute, moments: Iterable[Moment], slots: int, speed: float, console: Console) -> list[Moment]:
    """Show each moment as it comes, at most `speed` times as fast as life -> all of them."""
    width, height = console.width, console.height
    fits = width >= FRAME_WIDTH + memory_width(slots, compact=True) and height >= NARROW_HEIGHT
    if console.is_terminal and width < wide_width(slots):
        shown = "" if fits else ", too small for pictures"
        console.print(
            f"This terminal is {width} x {height}{shown}; {wide_width(slots)} x {WIDE_HEIGHT} shows all side by side.",
            style="dim",
        )
    if console.is_terminal and (fits or (width >= wide_width(slots) and height >= WIDE_HEIGHT)):
        return _show_live(minute, moments, slots, speed, console)
    return _show_lines(minute, moments, console)


def _show_live(minute: Minute, moments: Iterable[Moment], slots: int, speed: float, console: Console) -> list[Moment]:
    screen = Screen(minute, slots, console.width, console.height)
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
        starts.setdefault(event.first, []).append(f"({event.kind}: {event.label})")
    seen, right = [], 0
    for moment in moments:
        seen.append(moment)
        for what in starts.get(moment.step, ()):
            console.print(f"{clock(moment.step)}  {what}", style="dim", highlight=False)
        for asked in moment.asked:
            right += asked.right
            console.print(question_line(asked))
    count = sum(len(moment.asked) for moment in seen)
    console.print(f"{right} of {count} right")
    return seen
