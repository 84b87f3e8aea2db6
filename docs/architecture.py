"""Draw which room of the package imports which, from the code's own imports: `python docs/architecture.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tokenturing"
PICTURE = Path(__file__).with_name("images") / "architecture.png"
LEFT_OUT = {"errors", "__main__", "__init__"}
"""imported by nearly all, or the door"""


def rooms() -> dict[str, set[str]]:
    """Each room (a folder or file beside `__init__.py`) and those that it imports, lazily or not."""
    found: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        here = path.relative_to(SOURCE).with_suffix("").parts[0]
        if here not in LEFT_OUT:
            found.setdefault(here, set()).update(name for name in imported(path) if name not in LEFT_OUT | {here})
    return {here: known & set(found) for here, known in found.items()}


def imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == "tokenturing" else node.module for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "tokenturing" and rest:
                yield rest.split(".")[0]


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """How many rooms at most stand below each; rooms that import one another share a level."""
    reach = {room: _reachable(graph, room) for room in graph}
    height = dict.fromkeys(graph, 0)
    for _ in graph:
        for room, known in graph.items():
            below = [height[other] + 1 for other in known if room not in reach[other]]
            height[room] = max([height[room], *below])
    return height


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen, left = set(), [start]
    while left:
        for other in graph[left.pop()] - seen:
            seen.add(other)
            left.append(other)
    return seen


def reduced(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no longer path stands for."""
    reach = {room: _reachable(graph, room) for room in graph}
    return [
        (room, other)
        for room, known in graph.items()
        for other in sorted(known)
        if not any(other in reach[between] for between in known - {other} if room not in reach[between])
    ]


def draw(graph: dict[str, set[str]], file: Path) -> None:
    """One box a room, those that others stand on below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    height = levels(graph)
    places: dict[str, tuple[float, float]] = {}
    arrows = reduced(graph)
    for level in reversed(range(max(height.values()) + 1)):
        row = sorted(room for room in graph if height[room] == level)
        above = {room: [places[other][0] for other, below in arrows if below == room] or [5.0] for room in row}
        row.sort(key=lambda room: sum(above[room]) / len(above[room]))
        for index, room in enumerate(row):
            shift = 0.35 * (level % 2) if len(row) > 1 else 0.0
            places[room] = ((index + 0.5) / len(row) * 9.6 + shift, level)
    figure, axes = plt.subplots(figsize=(9, 0.8 * (max(height.values()) + 1.5)))
    for room, other in arrows:
        (x, y), (to_x, to_y) = places[room], places[other]
        arrow = {"arrowstyle": "-|>", "color": "#7a8794", "shrinkA": 9, "shrinkB": 11, "linewidth": 0.9}
        bend = 0.12 if abs(x - to_x) < 0.3 and abs(y - to_y) > 1 else 0.0
        axes.annotate("", (to_x, to_y), (x, y), arrowprops=arrow | {"connectionstyle": f"arc3,rad={bend}"})
    for room, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#eef3f8", "edgecolor": "#3b5b7a"}
        axes.text(x, y, room, ha="center", va="center", fontsize=10, bbox=box, color="#14222f")
    axes.set_xlim(0, 10)
    axes.set_ylim(-0.6, max(height.values()) + 0.6)
    axes.axis("off")
    figure.tight_layout(pad=0.2)
    figure.savefig(file, dpi=110, facecolor="white", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(rooms(), PICTURE)
    print(f"{PICTURE.relative_to(ROOT)}: {len(rooms())} rooms")
