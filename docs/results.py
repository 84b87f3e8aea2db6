"""Fill the tables of results in README.md and docs/speed.md: `make results`.

README.md has the figures noted in the shipped checkpoints, docs/speed.md what `tokenturing bench` wrote: docs/speed/NAME.json.

A checkpoint's notes["figures"] are the rows of `tokenturing evaluate NAME --json FILE`. Rows of human voices have
"voices": "human" besides; they make a second table.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean

import tokenturing as tt
from tokenturing.bench.report import figures as bench_figures
from tokenturing.bench.report import markdown
from tokenturing.checkpoint import shipped
from tokenturing.evaluate.figures import Figure, readable

README = Path(__file__).parents[1] / "README.md"
SPEED, MEASURED = Path(__file__).with_name("speed.md"), Path(__file__).with_name("speed")
IMAGES = Path(__file__).with_name("images")
START, END = "<!-- results:start -->\n", "<!-- results:end -->"


def figures() -> dict[str, tuple[int, list[Figure]]]:
    """For each kind of memory its number of parameters and its rows."""
    found = {}
    for name in shipped():
        model = tt.load(name)
        rows = model.notes.get("figures")
        if getattr(model, "task", None) == "recall" and rows:
            size = sum(p.numel() for p in model.memory.parameters())
            found[model.config["memory"]] = (size, [Figure.from_json(row) for row in rows])
    return found


def render(found: dict[str, tuple[int, list[Figure]]]) -> str:
    """The tables as Markdown."""
    synthesised = _table(found, lambda row: row.where.get("voices") != "human")
    human = _table(found, lambda row: row.where.get("voices") == "human" and row.kind.startswith("heard"))
    if not human:
        return synthesised or "No checkpoint has figures yet.\n"
    return f"{synthesised}\nThe questions about hearing, for a human speaker that no model was trained on:\n\n{human}"


def _table(found: dict[str, tuple[int, list[Figure]]], belongs: Callable[[Figure], bool]) -> str:
    chosen = {name: (size, list(filter(belongs, rows))) for name, (size, rows) in found.items()}
    delays = sorted({row.where["delay"] for _, rows in chosen.values() for row in rows})
    if not delays:
        return ""
    heads = ["memory", "parameters", *map(_time, delays)]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for name, (size, rows) in sorted(chosen.items(), key=lambda item: -_total(item[1][1])):
        cells = [_cell(row.value for row in rows if row.where["delay"] == delay) for delay in delays]
        lines.append(
            _line([f"**{readable(name)}**" if name == "TokenTuringMachine" else readable(name), f"{size / 1000:.0f} k", *cells])
        )
    return "\n".join(lines) + "\n"


def _total(rows: list[Figure]) -> float:
    return mean(row.value for row in rows) if rows else 0.0


def _time(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


def _cell(shares: Iterable[float]) -> str:
    listed = list(shares)
    return f"{mean(listed):.2f} / {min(listed):.2f}" if listed else "–"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def filled(text: str, table: str, start: str = START, end: str = END) -> str:
    """A page with this table between two marks."""
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{table}\n{end}{after}"


def speed_page(text: str) -> str:
    """docs/speed.md with the tables of docs/speed/*.json in their places."""
    for file in sorted(MEASURED.glob("*.json")):
        table = markdown(json.loads(file.read_text(encoding="utf-8"))).replace("\n## ", "\n### ")
        text = filled(text, table, f"<!-- {file.stem}:start -->\n", f"<!-- {file.stem}:end -->")
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8"), render(figures())), encoding="utf-8")
    SPEED.write_text(speed_page(SPEED.read_text(encoding="utf-8")), encoding="utf-8")
    for file in sorted(MEASURED.glob("*.json")):
        for made in bench_figures(json.loads(file.read_text(encoding="utf-8")), IMAGES):
            made.replace(IMAGES / f"{made.stem}-{file.stem}.png")
    print(f"filled the tables of results in {README.name} and {SPEED.name}, and drew the figures")
