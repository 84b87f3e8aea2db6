"""One self-contained HTML file that opens offline, on wide and narrow screens, and follows the light or dark scheme."""

import html
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tokenturing.viz.style import HEARD, RIGHT, SEEN, WRONG

STYLE = (
    f":root {{ --right: {RIGHT}; --wrong: {WRONG}; --seen: {SEEN}; --heard: {HEARD}; }}"
    """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5d646e; --paper: #ffffff; --line: #d9dde3;
  --box: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --soft: #a2a9b4; --paper: #15171a; --line: #363b43; --box: #1e2126; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .8rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; }
p { max-width: 46rem; margin: .4rem 0 .8rem; } p.lead { font-size: 1.12rem; }
.note { color: var(--soft); font-size: .9rem; } .note b { color: var(--ink); }
svg { display: block; width: 100%; height: auto; color: var(--ink); margin: .6rem 0; }
svg image { image-rendering: pixelated; }
.wide { overflow-x: auto; } .narrow { display: none; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 600; }
.cards td { white-space: nowrap; } .cards th, .cards td { padding: .28rem .45rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
.right { color: var(--right); } .wrong { color: var(--wrong); } td.best { font-weight: 700; }
.seen { color: var(--seen); font-weight: 600; } .heard { color: var(--heard); font-weight: 600; }
.bars { display: grid; grid-template-columns: max-content minmax(6rem, 30rem) max-content; gap: .45rem .8rem;
  align-items: center; margin: .8rem 0; }
.bar { display: contents; } .track { background: var(--box); border: 1px solid var(--line); height: 1.1rem; }
.track i { display: block; height: 100%; }
@media (max-width: 64rem) {
  body { padding: 1.2rem .9rem 3rem; } .broad { display: none; } .narrow { display: block; max-width: 34rem; }
  th, td { padding: .28rem .35rem; }
  .bars { display: block; max-width: 34rem; } .bar { display: grid; grid-template-columns: 1fr max-content; }
  .bar .track { grid-area: 2 / 1 / 3 / 3; margin: .1rem 0 .6rem; }
  table.cards { max-width: 34rem; }
  table.cards, .cards tbody, .cards tr, .cards td { display: block; } .cards thead { display: none; }
  .cards tr { padding: .4rem 0; border-bottom: 1px solid var(--line); }
  .cards td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .08rem 0; }
  .cards td::before { content: attr(data-label); color: var(--soft); font-weight: 400; text-align: left; }
  .cards td:first-child { font-weight: 700; } .cards td:first-child::before { content: none; } }
"""
)


class Section(NamedTuple):
    """A heading, text, and a figure or table."""

    title: str
    text: str
    """plain text, may hold <b> and <span class="...">"""
    body: str = ""
    """SVG or a table, as HTML"""
    notes: Sequence[str] = ()
    """captions under the body, as HTML"""


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The HTML of the whole file."""
    parts = "\n".join(_section(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="lead">{lead}</p>\n{parts}\n</body>\n</html>\n'
    )


def _section(section: Section) -> str:
    body = f'<div class="wide">{section.body}</div>' if section.body else ""
    notes = "\n".join(f'<p class="note">{note}</p>' for note in section.notes)
    return f"<section>\n<h2>{html.escape(section.title)}</h2>\n<p>{section.text}</p>\n{body}\n{notes}\n</section>"


def both(draw: Callable[..., str], *content: Any, name: str) -> str:
    """A figure drawn twice: the page shows the broad one or the narrow one, as its window has room."""
    broad, narrow = draw(*content, name), draw(*content, f"{name}-narrow", narrow=True)
    return f'<div class="broad">{broad}</div>\n<div class="narrow">{narrow}</div>'


class Bar(NamedTuple):
    """A share with its name and its number in words."""

    label: str
    share: float
    text: str
    color: str


def bars(rows: Sequence[Bar]) -> str:
    """Shares from 0 to 1 as bars in HTML, which fit any window."""
    cells = "\n".join(
        f'<div class="bar"><span>{html.escape(bar.label)}</span><div class="track"><i style="width: {100 * bar.share:.1f}%; '
        f'background: {bar.color}"></i></div><b>{html.escape(bar.text)}</b></div>'
        for bar in rows
    )
    return f'<div class="bars">\n{cells}\n</div>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[Sequence[str]] = (), *, cards: bool = False
) -> str:
    """Plain text cells as an HTML table.

    Args:
        head: titles of the columns.
        rows: of cells.
        classes: unless empty, a CSS class (or "") for each cell.
        cards: show each row as a card of its own in a narrow window, for tables of many columns.
    """
    cells = [
        "".join(_cell(head[j], text, classes[i][j] if classes else "") for j, text in enumerate(row))
        for i, row in enumerate(rows)
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in cells)
    heading = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    opening = '<table class="cards">' if cards else "<table>"
    return f"{opening}\n<thead><tr>{heading}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _cell(label: str, text: str, css: str) -> str:
    chosen = f' class="{css}"' if css else ""
    return f'<td{chosen} data-label="{html.escape(label)}">{html.escape(text)}</td>'
