"""The training as a curve that grows in the terminal; lines where there is no terminal."""

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tokenturing.demo.learning import Learned, Point, learn
from tokenturing.tasks.last_digits.model import DEPTH

WIDTH, HEIGHT = 60, 12
COLORS = ("magenta", "yellow", "green", "blue")
NAMES = ("last", "2nd last", "3rd last", "4th last")
CHANCE = 0.1


def learn_live(seconds: float, console: Console) -> Learned:
    """Train for so many seconds and show how it goes."""
    if not console.is_terminal:
        return learn(seconds, lambda point, learned: console.print(line(point, learned), highlight=False))
    with Live(console=console, auto_refresh=False) as live:
        return learn(
            seconds,
            lambda point, learned: live.update(Group(chart(learned, seconds), Text(line(point, learned))), refresh=True),
        )


def line(point: Point, learned: Learned) -> str:
    """Where the training stands, in one line."""
    shares = "  ".join(f"{name} {share:.2f}" for name, share in zip(NAMES, learned.shares[-1], strict=True))
    return f"{point.seconds:5.0f} s  {point.updates:5} updates  loss {point.loss:.2f}   right: {shares}"


def chart(learned: Learned, seconds: float) -> Text:
    """Share right over time, for each of the last digits a line of its own colour."""
    cells = [[(" ", "")] * WIDTH for _ in range(HEIGHT)]
    chance = _row(CHANCE)
    cells[chance] = [("·", "dim")] * WIDTH
    for k in reversed(range(DEPTH)):
        for at, shares in zip(learned.seconds, learned.shares, strict=True):
            column = min(int(at / seconds * WIDTH), WIDTH - 1)
            cells[_row(shares[k])][column] = ("●", COLORS[k])
    text = Text("share of right answers on new images    ", "bold")
    for name, color in zip(NAMES, COLORS, strict=True):
        text.append("● ", color)
        text.append(f"{name}  ")
    for row, content in enumerate(cells):
        label = {0: "1.0", HEIGHT // 2: "0.5", chance: "0.1"}.get(row, "   ")
        text.append(f"\n{label} │", "dim")
        for character, style in content:
            text.append(character, style)
    text.append(f"\n    └{'─' * WIDTH} {seconds:.0f} s\n", "dim")
    return text


def _row(share: float) -> int:
    return round((1 - share) * (HEIGHT - 1))
