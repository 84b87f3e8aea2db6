"""One self-contained HTML file that opens offline and follows the light or dark scheme."""

import html
from collections.abc import Sequence
from typing import NamedTuple

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5d646e; --paper: #ffffff; --line: #d9dde3;
  --box: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --soft: #a2a9b4; --paper: #15171a; --line: #363b43; --box: #1e2126; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .8rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; }
p { max-width: 46rem; margin: .4rem 0 .8rem; } p.lead { font-size: 1.12rem; }
.note { color: var(--soft); font-size: .9rem; }
svg { display: block; width: 100%; height: auto; color: var(--ink); margin: .6rem 0; }
svg image { image-rendering: pixelated; }
.wide { overflow-x: auto; } .wide > svg { min-width: 46rem; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 600; }
.right { color: #2e9e5b; } .wrong { color: #dc4438; } td.best { font-weight: 700; }
.seen { color: #3d85c6; font-weight: 600; } .heard { color: #e0862d; font-weight: 600; }
"""


class Section(NamedTuple):
    """A heading, text, and a figure or table."""

    title: str
    text: str
    """plain text, may hold <b> and <span class="...">"""
    body: str = ""
    """SVG or a table, as HTML"""
    note: str = ""


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
    note = f'<p class="note">{section.note}</p>' if section.note else ""
    return f"<section>\n<h2>{html.escape(section.title)}</h2>\n<p>{section.text}</p>\n{body}\n{note}\n</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[Sequence[str]] = ()) -> str:
    """Plain text cells as an HTML table; `classes`, unless empty, has a CSS class (or "") for each cell."""
    cells = ["".join(_cell(text, classes[i][j] if classes else "") for j, text in enumerate(row)) for i, row in enumerate(rows)]
    body = "\n".join(f"<tr>{row}</tr>" for row in cells)
    heading = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    return f"<table>\n<thead><tr>{heading}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _cell(text: str, css: str) -> str:
    return f'<td class="{css}">{html.escape(text)}</td>' if css else f"<td>{html.escape(text)}</td>"
