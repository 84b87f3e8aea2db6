"""Fill the tables of results in README.md and the pages of docs/, and draw the figures: `make results`.

README.md and docs/results.md have the figures noted in the shipped checkpoints and, of models that are not shipped, the same
notes in docs/results/NAME.json; docs/speed.md what `tokenturing bench` wrote: docs/speed/NAME.json.

A checkpoint's notes["figures"] are the rows of `tokenturing evaluate NAME --json FILE`. Rows of human voices have
"voices": "human" besides; they make tables of their own.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import copyfile
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from torch import nn

import tokenturing as tt
from tokenturing.bench.report import figures as bench_figures
from tokenturing.bench.report import markdown
from tokenturing.bench.serve_report import draw as draw_load
from tokenturing.bench.serve_report import markdown as load_markdown
from tokenturing.checkpoint import shipped
from tokenturing.cli.ablate import draw as draw_ablation
from tokenturing.demo.figures import called
from tokenturing.demo.report import happenings
from tokenturing.evaluate.figures import Figure, pool
from tokenturing.evaluate.growth import Size, growth
from tokenturing.evaluate.trace import holdings
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.tasks.recall.minute import make_minute
from tokenturing.tasks.recall.model import INPUT_TOKENS, build_memory
from tokenturing.tasks.recall.watching import Watched, watch
from tokenturing.tasks.recall.world.questions import KINDS
from tokenturing.train.ablation.table import markdown as ablation_markdown
from tokenturing.train.recipe import load_recipe
from tokenturing.viz.memory import draw_memory
from tokenturing.viz.style import BROAD, MARKS, SERIES, figure

README = Path(__file__).parents[1] / "README.md"
RECIPES = Path(__file__).parents[1] / "recipes"
RESULTS, NOTED = Path(__file__).with_name("results.md"), Path(__file__).with_name("results")
SPEED, MEASURED = Path(__file__).with_name("speed.md"), Path(__file__).with_name("speed")
LOADED = MEASURED / "serving"
"""what `tokenturing bench serve` wrote"""
ACTIVITY, FOLDS = Path(__file__).with_name("activity.md"), NOTED / "activity"
"""the page, and the table.json of `tokenturing crossvalidate` for each data set on it"""
ABLATIONS, ABLATED = Path(__file__).with_name("ablations.md"), NOTED / "ablations"
"""the page, and the ablation.json of `tokenturing ablate` for each data set on it"""
IMAGES = Path(__file__).with_name("images")
START, END = "<!-- results:start -->\n", "<!-- results:end -->"
MINUTE = round(60 / STEP_SECONDS)
LENGTHS = (1.0, 10.0, 60.0, 600.0)
"""seconds of a stream after which cost and size are drawn"""


ACTIVITY_KINDS = ("frame accuracy", "mAP", "edit", "F1@50")
"""of what `tokenturing evaluate` says of activity, on the page"""
HUMAN, HUMAN_DELAY = "a human, 5 s", 5.0
"""the column about hearing a human speaker"""


class Measured(NamedTuple):
    """What is known of one trained memory."""

    title: str
    parameters: int
    minute: Size
    """after a minute of a stream"""
    seconds: float
    """of training"""
    figures: list[Figure]


def figures() -> dict[str, Measured]:
    """What is noted of each checkpoint, shipped or not, by its name."""
    found = {}
    for name in shipped():
        model = tt.load(name)
        if getattr(model, "task", None) == "recall" and model.notes.get("figures"):
            found[name] = _measured(name, model.config["memory"], model.memory, model.notes)
    for file in sorted(NOTED.glob("*.json")):
        notes = json.loads(file.read_text(encoding="utf-8"))
        recipe = notes["recipe"]["model"]
        found[file.stem] = _measured(file.stem, recipe["memory"], build_memory(recipe["memory"], recipe["options"]), notes)
    return dict(sorted(found.items(), key=lambda item: -_total(item[1].figures)))


def _measured(name: str, kind: str, memory: nn.Module, notes: dict[str, Any]) -> Measured:
    (minute,) = growth(memory, INPUT_TOKENS, [MINUTE])
    size = sum(p.numel() for p in memory.parameters())
    return Measured(called(name, kind), size, minute, notes["seconds"], [Figure.from_json(row) for row in notes["figures"]])


def synthesised(row: Figure) -> bool:
    """Whether a row is of synthesised voices."""
    return row.where.get("voices") != "human"


def human(row: Figure) -> bool:
    """Whether a row is about hearing a human speaker."""
    return row.where.get("voices") == "human" and row.kind.startswith("heard")


def render(found: dict[str, Measured]) -> str:
    """The table of README.md as Markdown."""
    delays = sorted({row.where["delay"] for one in found.values() for row in filter(synthesised, one.figures)})
    if not delays:
        return "No checkpoint has figures yet.\n"
    heard = any(human(row) for one in found.values() for row in one.figures)
    heads = ["memory", "parameters", "multiply-adds", "state", "training", *map(_time, delays), *([HUMAN] if heard else [])]
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for name, one in found.items():
        bold = "**" if name == "recall-ttm" else ""
        rows = list(filter(synthesised, one.figures))
        cells = [_cell(row.value for row in rows if row.where["delay"] == delay) for delay in delays]
        if heard:
            cells.append(_cell(row.value for row in one.figures if human(row) and row.where["delay"] == HUMAN_DELAY))
        lines.append(_line([f"{bold}{one.title}{bold}", *_costs(one), *cells]))
    return "\n".join(lines) + "\n"


def _costs(one: Measured) -> list[str]:
    return [
        f"{one.parameters / 1e3:.0f} k",
        f"{one.minute.multiply_adds / 1e6:.2g} M",
        f"{one.minute.nbytes / 1e3:.2g} kB" if one.minute.nbytes else "none",
        f"{one.seconds:,.0f} s",
    ]


def render_all(found: dict[str, Measured]) -> str:
    """Every kind of question at every delay, for docs/results.md."""
    parts = []
    for voices, belongs in (("synthesised test voices", synthesised), ("a human speaker nobody was trained on", human)):
        for one in found.values():
            rows = list(filter(belongs, one.figures))
            delays = sorted({row.where["delay"] for row in rows})
            kinds = [kind for kind in KINDS if any(row.kind == kind for row in rows)]
            if not rows:
                continue
            lines = [_line(["question", "n", *map(_time, delays)]), _line(["---", *["---:"] * (len(delays) + 1)])]
            for kind in kinds:
                here = {row.where["delay"]: row for row in rows if row.kind == kind}
                cells = [f"{r.value:.2f} ({r.low:.2f} to {r.high:.2f})" if (r := here.get(d)) else "–" for d in delays]
                lines.append(_line([kind, str(max(row.count for row in here.values())), *cells]))
            parts.append(f"### {one.title}, {voices}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _total(rows: list[Figure]) -> float:
    return mean(row.value for row in rows) if rows else 0.0


def _time(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


def _cell(shares: Iterable[float]) -> str:
    listed = list(shares)
    return f"{mean(listed):.2f} / {min(listed):.2f}" if listed else "–"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def draw(found: dict[str, Measured]) -> None:
    """Share right by delay and by depth, and what a step and a state cost by the length of the stream."""
    delays = sorted({row.where["delay"] for one in found.values() for row in filter(synthesised, one.figures)})
    with figure(10.5, 3.6) as drawn:
        row = drawn.subplots(1, 3, sharey=True)
        for axes, sense in zip(row, ("all questions", "seen k-th last, 5 s", "heard k-th last, 5 s"), strict=True):
            axes.set_title(sense)
            axes.set_ylim(0, 1.03)
            axes.grid(True, axis="y")
        for index, one in enumerate(found.values()):
            style = _style(index, one.title)
            rows = list(filter(synthesised, one.figures))
            shares = [pool(row for row in rows if row.where["delay"] == delay) for delay in delays]
            row[0].plot(range(len(delays)), [share.value if share else None for share in shares], **style)
            for axes, sense in zip(row[1:], ("seen", "heard"), strict=True):
                by_kind = {row.kind: row.value for row in rows if row.where["delay"] == 5.0}
                axes.plot(range(1, 5), [by_kind.get(f"{sense}-{k}") for k in range(1, 5)], **style)
        row[0].set_xticks(range(len(delays)), [_time(delay) for delay in delays])
        row[0].set_xlabel("since the last event")
        row[0].set_ylabel("share right")
        for axes in row[1:]:
            axes.set_xticks(range(1, 5))
            axes.set_xlabel("k")
        handles, labels = row[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7))
        drawn.savefig(IMAGES / "results-shares.png", dpi=130)
    _draw_costs()


def _draw_costs() -> None:
    """Of every memory that has a recipe: what a step costs does not depend on the weights."""
    with figure(10.5, 4.2) as drawn:
        cost, size = drawn.subplots(1, 2)
        for index, path in enumerate(sorted(RECIPES.glob("recall*.toml"), key=lambda path: path.stem)):
            recipe = load_recipe(path).options.model
            memory = build_memory(recipe.memory, recipe.options)
            sizes = growth(memory, INPUT_TOKENS, [round(length / STEP_SECONDS) for length in LENGTHS])
            style = _style(index, called(path.stem, recipe.memory))
            cost.plot(LENGTHS, [one.multiply_adds / 1e6 for one in sizes], **style)
            size.plot(LENGTHS, [one.nbytes / 1e3 for one in sizes], **style)
        cost.set_yscale("log")
        size.set_yscale("symlog", linthresh=0.1)  # one has no state at all
        for axes, title in ((cost, "multiply-adds a step, in millions"), (size, "state of one stream, in kB")):
            axes.set_xscale("log")
            axes.set_xticks(LENGTHS, [_time(length) for length in LENGTHS])
            axes.minorticks_off()
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("length of the stream so far")
            axes.set_title(title)
            axes.grid(True)
        handles, labels = cost.get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=4)
        drawn.savefig(IMAGES / "results-costs.png", dpi=130)


def draw_minute() -> None:
    """The memory of the shipped machine over the minute of the demo."""
    minute = make_minute()
    watched = Watched.of(list(watch(tt.load("recall-ttm"), minute)))
    held = holdings(watched.gates, minute.events)
    with figure(BROAD, 2.2 + 0.38 * held.shape[1]) as drawn:
        draw_memory(drawn, held, watched.gates, watched.reads, happenings(minute), STEP_SECONDS)
        drawn.savefig(IMAGES / "memory.png", dpi=110)


def _style(index: int, label: str) -> dict[str, object]:
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": MARKS[index % len(MARKS)],
        "markersize": 4.5,
        "linestyle": "-" if index < len(SERIES) else "--",
        "label": label,
    }


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
    for file in sorted(LOADED.glob("load-*.json")):
        table = load_markdown(json.loads(file.read_text(encoding="utf-8")))
        text = filled(text, table, f"<!-- {file.stem}:start -->\n", f"<!-- {file.stem}:end -->")
    return text


def activity_page(text: str) -> str:
    """docs/activity.md with the tables of docs/results/activity/*.json in their places."""
    for file in sorted(FOLDS.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        kinds = [kind for kind in next(iter(found.values())) if kind in ACTIVITY_KINDS]
        lines = [_line(["recipe", "folds", *kinds]), _line(["---", *["---:"] * (len(kinds) + 1)])]
        for name, row in sorted(found.items(), key=lambda item: -item[1][kinds[0]]["mean"]):
            cells = [_interval(row[kind]) for kind in kinds]
            lines.append(_line([f"`{name}`", str(row[kinds[0]]["folds"]), *cells]))
        table = "\n".join(lines) + "\n"
        text = filled(text, table, f"<!-- {file.stem}:start -->\n", f"<!-- {file.stem}:end -->")
    return text


def ablations_page(text: str) -> str:
    """docs/ablations.md with the tables of docs/results/ablations/*.json in their places."""
    for file in sorted(ABLATED.glob("*.json")):
        table = ablation_markdown(json.loads(file.read_text(encoding="utf-8")))
        text = filled(text, table, f"<!-- {file.stem}:start -->\n", f"<!-- {file.stem}:end -->")
    return text


def draw_ablations() -> None:
    """Of each the wide figure, light."""
    for file in sorted(ABLATED.glob("*.json")):
        with TemporaryDirectory() as folder:
            draw_ablation(Path(folder), json.loads(file.read_text(encoding="utf-8")))
            copyfile(Path(folder) / "ablation.png", IMAGES / f"ablation-{file.stem}.png")


def _interval(part: dict[str, Any]) -> str:
    spread = "" if part["low"] is None else f" ({part['low']:.3f} to {part['high']:.3f})"
    return f"{part['mean']:.3f}{spread}"


if __name__ == "__main__":
    measured = figures()
    README.write_text(filled(README.read_text(encoding="utf-8"), render(measured)), encoding="utf-8")
    RESULTS.write_text(filled(RESULTS.read_text(encoding="utf-8"), render_all(measured)), encoding="utf-8")
    draw(measured)
    draw_minute()
    SPEED.write_text(speed_page(SPEED.read_text(encoding="utf-8")), encoding="utf-8")
    ACTIVITY.write_text(activity_page(ACTIVITY.read_text(encoding="utf-8")), encoding="utf-8")
    ABLATIONS.write_text(ablations_page(ABLATIONS.read_text(encoding="utf-8")), encoding="utf-8")
    draw_ablations()
    for file in sorted(MEASURED.glob("*.json")):
        for made in bench_figures(json.loads(file.read_text(encoding="utf-8")), IMAGES):
            made.replace(IMAGES / f"{made.stem}-{file.stem}.png")
    for file in sorted(LOADED.glob("load-*.json")):
        draw_load(json.loads(file.read_text(encoding="utf-8")), IMAGES / f"serve-{file.stem}.png")
    pages = ", ".join(page.name for page in (README, RESULTS, ACTIVITY, ABLATIONS, SPEED))
    print(f"filled the tables of {pages}, and drew the figures")
