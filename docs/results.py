"""Fill the table of results in README.md from the figures noted in the shipped checkpoints: `make results`.

A checkpoint's notes["figures"] are the rows of `tokenturing evaluate NAME --json FILE`. Rows of human voices have
"voices": "human" besides; they make a second table.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import tokenturing as tt
from tokenturing.checkpoint import shipped
from tokenturing.models.recall import RecallModel

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- results:start -->\n", "<!-- results:end -->"
NAMES = {
    "TokenTuringMachine": "**Token Turing Machine**",
    "WindowTransformer": "Transformer, sliding window",
    "FullTransformer": "Transformer, whole history",
    "RecurrentTransformer": "recurrent Transformer",
    "TemporalMixer": "temporal Mixer",
    "Retrieval": "retrieval",
    "Memoryless": "no memory",
}
Row = dict[str, Any]


def figures() -> dict[str, tuple[int, list[Row]]]:
    """For each kind of memory its number of parameters and its rows."""
    found = {}
    for name in shipped():
        model = tt.load(name)
        rows = model.notes.get("figures")
        if isinstance(model, RecallModel) and rows:
            size = sum(p.numel() for p in model.memory.parameters())
            found[model.config["memory"]] = (size, rows)
    return found


def render(found: dict[str, tuple[int, list[Row]]]) -> str:
    """The tables as Markdown."""
    synthesised = _table(found, lambda row: row.get("voices") != "human")
    human = _table(found, lambda row: row.get("voices") == "human" and row["kind"].startswith("heard"))
    if not human:
        return synthesised or "No checkpoint has figures yet.\n"
    return f"{synthesised}\nThe questions about hearing, for a human speaker that no model was trained on:\n\n{human}"


def _table(found: dict[str, tuple[int, list[Row]]], belongs: Callable[[Row], bool]) -> str:
    chosen = {name: (size, list(filter(belongs, rows))) for name, (size, rows) in found.items()}
    delays = sorted({row["delay"] for _, rows in chosen.values() for row in rows})
    if not delays:
        return ""
    heads = ["memory", "parameters", *map(_time, delays)]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for name, (size, rows) in sorted(chosen.items(), key=lambda item: -_total(item[1][1])):
        cells = [_cell(row["accuracy"] for row in rows if row["delay"] == delay) for delay in delays]
        lines.append(_line([NAMES.get(name, name), f"{size / 1000:.0f} k", *cells]))
    return "\n".join(lines) + "\n"


def _total(rows: list[Row]) -> float:
    return mean(row["accuracy"] for row in rows) if rows else 0.0


def _time(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


def _cell(shares: Iterable[float]) -> str:
    listed = list(shares)
    return f"{mean(listed):.2f} / {min(listed):.2f}" if listed else "–"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def filled(text: str, table: str) -> str:
    """The README with this table in its place."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8"), render(figures())), encoding="utf-8")
    print(f"filled the table of results in {README.name}")
