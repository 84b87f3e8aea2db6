"""A picture with a strip below that shows labels along time: what a model said and, if it is known, what was true."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tokenturing.viz.style import IDLE

WIDTH, TALLEST = 640, 720
"""pixels of the picture"""
ROW, GAP, MARGIN, NAMES = 26, 4, 8, 70
"""pixels: a row of the strip, between two, around, and for what the rows are called"""
TOUCHING = 1e-6
"""pixels by which two blocks that follow each other may overlap"""
MOST_LANES = 6
"""labels that lie at the same time in a row"""
ROLLING_SECONDS = 60.0
"""that are shown where the end is not known"""
BACK, INK, FAINT = "#14171c", "#f2f4f7", "#9aa3ae"
COLOURS = ("#3d85c6", "#e0862d", "#2e9e5b", "#dc4438", "#8e5bd0", "#1fa3a3", "#d9569f", "#a58b1f", "#9a6a4c", "#64809a")
"""of the labels in turn: each is also written where there is room"""


class Block(NamedTuple):
    """A label for some time."""

    start: float
    end: float
    """seconds"""
    label: str
    share: float = 1.0
    """how sure it is: of more than fit into a row the surest are shown"""


class Strip:
    """Draws.

    Args:
        rows: names of the rows, from above.
        labels: all that may come, in an order that gives each its colour.
        duration: seconds of the whole; None: the last ROLLING_SECONDS are shown.
    """

    def __init__(self, rows: Sequence[str], labels: Sequence[str], duration: float | None):
        self._rows, self._duration = list(rows), duration
        self._colours = {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(dict.fromkeys(labels))}
        self._font, self._small, self._smallest = (ImageFont.load_default(size) for size in (15, 12, 10))
        self._drawn: tuple[Any, float, Image.Image] | None = None

    @property
    def height(self) -> int:
        """Pixels that it adds."""
        return 2 * MARGIN + ROW + len(self._rows) * (ROW + GAP) + ROW

    def below(
        self, picture: np.ndarray, seconds: float, said: Sequence[str], blocks: Mapping[str, Sequence[Block]]
    ) -> np.ndarray:
        """The picture, uint8 [H, W, 3], with the strip: uint8 [H', WIDTH, 3], H' even.

        Args:
            picture: of this time, of the size that `size_of` gives.
            seconds: the time.
            said: what to write above the strip, the most important first: as much as the line has room for.
            blocks: of each row those known by now.
        """
        shown = Image.fromarray(picture)
        whole = Image.new("RGB", (WIDTH, shown.height + self.height + (shown.height + self.height) % 2), BACK)
        whole.paste(shown, ((WIDTH - shown.width) // 2, 0))
        whole.paste(self._rows_of(seconds, blocks), (0, shown.height + MARGIN + ROW))
        draw = ImageDraw.Draw(whole)
        time = f"{clock(seconds)}  "
        line = time + listed(draw, said, self._font, WIDTH - 2 * MARGIN - draw.textlength(time, self._font))
        draw.text((MARGIN, shown.height + MARGIN + 3), line, INK, self._font)
        now, top = self._place(seconds, self.begin(seconds)), shown.height + MARGIN + ROW
        draw.line((now, top, now, top + len(self._rows) * (ROW + GAP) + 2), INK, 2)
        return np.asarray(whole)

    def begin(self, seconds: float) -> float:
        """The time at the strip's left end, of a picture of this time."""
        return 0.0 if self._duration else max(seconds - ROLLING_SECONDS, 0.0)

    def _place(self, time: float, begin: float) -> float:
        """Where a time is, in pixels from the left."""
        share = (time - begin) / (self._duration or ROLLING_SECONDS)
        return MARGIN + NAMES + (WIDTH - 2 * MARGIN - NAMES) * min(max(share, 0.0), 1.0)

    def _rows_of(self, seconds: float, blocks: Mapping[str, Sequence[Block]]) -> Image.Image:
        """The rows and the times below them; drawn once for the pictures that share them."""
        begin = self.begin(seconds)
        if self._drawn and self._drawn[0] is blocks and self._drawn[1] == begin:
            return self._drawn[2]
        rows = Image.new("RGB", (WIDTH, self.height - MARGIN - ROW), BACK)
        draw = ImageDraw.Draw(rows)
        for number, name in enumerate(self._rows):
            at = GAP + number * (ROW + GAP)
            draw.rectangle((MARGIN + NAMES, at, WIDTH - MARGIN, at + ROW), fill="#22272f")
            places = [
                Block(self._place(one.start, begin), self._place(one.end, begin), one.label, one.share)
                for one in blocks.get(name, ())
            ]
            more = self._draw_row(draw, at, places)
            draw.text((MARGIN, at + (0 if more else 5)), name, FAINT, self._small)
            if more:
                draw.text((MARGIN, at + 14), f"and {more} more", FAINT, self._smallest)
        bottom, long = GAP + len(self._rows) * (ROW + GAP), self._duration or ROLLING_SECONDS
        for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
            time = begin + share * long
            draw.text((self._place(time, begin), bottom + 2), clock(time), FAINT, self._small, anchor=anchor)
        self._drawn = blocks, begin, rows
        return rows

    def _draw_row(self, draw: Any, at: float, places: Sequence[Block]) -> int:
        """Blocks in pixels; those that lie at the same time share the row's height -> how many more there are at a time."""
        lanes = lanes_of(places, MOST_LANES)
        tall = ROW / max(max(lanes, default=0) + 1, 1)
        for (start, end, label, _), lane in zip(places, lanes, strict=True):
            if lane < 0 or end - start < 0.5:
                continue
            above = at + lane * tall
            draw.rectangle(
                (start, above, max(end - 1, start), above + tall - (1 if lane else 0)), fill=self._colours.get(label, IDLE)
            )
            if tall >= 12 and (shown := shortened(draw, label, self._small, end - start - 6)):
                draw.text((start + 3, above + tall / 2), shown, INK, self._small, anchor="lm")
        return max(_in_order([one for one, lane in zip(places, lanes, strict=True) if lane < 0]), default=-1) + 1


def lanes_of(blocks: Sequence[Block], most: int) -> list[int]:
    """For each block, in the order of their starts, the number of the lane in which it lies over no other.

    Where more lanes than `most` were needed, the surest blocks are given theirs first, and those that find none get -1.
    """
    found = _in_order(blocks)
    if max(found, default=0) < most:
        return found
    found = [-1] * len(blocks)
    taken: list[list[tuple[float, float]]] = [[] for _ in range(most)]
    for index in sorted(range(len(blocks)), key=lambda index: -blocks[index].share):
        start, end = blocks[index].start, blocks[index].end
        for lane, others in enumerate(taken):
            place = bisect_right(others, (start, end))
            free_before = place == 0 or others[place - 1][1] <= start + TOUCHING
            if free_before and (place == len(others) or end <= others[place][0] + TOUCHING):
                others.insert(place, (start, end))
                found[index] = lane
                break
    return found


def _in_order(blocks: Sequence[Block]) -> list[int]:
    """The lane of each block, in the order of their starts, in as few as may be."""
    ends: list[float] = []
    found = []
    for block in blocks:
        lane = next((number for number, taken in enumerate(ends) if taken <= block.start + TOUCHING), len(ends))
        ends[lane : lane + 1] = [block.end]
        found.append(lane)
    return found


def listed(draw: Any, names: Sequence[str], font: Any, room: float) -> str:
    """As many names as fit into so many pixels, and how many more there are; of the first one at least a part."""
    if not names:
        return ""

    def rest(count: int) -> str:
        return f" and {len(names) - count} more" if count < len(names) else ""

    found = shortened(draw, names[0], font, room - draw.textlength(rest(1), font)) + rest(1)
    for count in range(2, len(names) + 1):
        line = ", ".join(names[:count])
        if draw.textlength(line, font) > room:
            break
        if draw.textlength(line + rest(count), font) <= room:
            found = line + rest(count)
    return found


def shortened(draw: Any, text: str, font: Any, room: float) -> str:
    """As much of a text as fits into so many pixels; nothing where only a letter or two would."""
    if draw.textlength(text, font) <= room:
        return text
    while len(text) > 3:
        text = text[:-1]
        if draw.textlength(text + ".", font) <= room:
            return text + "."
    return ""


def size_of(width: float, height: float) -> tuple[int, int]:
    """Of a picture as it is shown: as broad as the strip, or as tall as may be."""
    scale = min(WIDTH / width, TALLEST / height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def clock(seconds: float) -> str:
    """ "1:02:03", "2:03.4" """
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{int(rest):02}" if hours else f"{minutes}:{rest:04.1f}"
