"""No module of the package imports itself in a circle, not even for the sake of types."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tokenturing

SOURCE = Path(tokenturing.__file__).parent


def module_name(path: Path, source: Path) -> str:
    parts = (source.name, *path.relative_to(source).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """All that runs, or that a type checker reads, when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def imported(text: str, known: set[str]) -> set[str]:
    """The modules among `known` that a module of this text names in its imports."""
    found = set()
    for node in outside_functions(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module or "")
    return found & known


def graph(source: Path) -> dict[str, set[str]]:
    """Module -> the modules that it imports, of a package in that folder."""
    files = {module_name(path, source): path for path in source.rglob("*.py")}
    return {name: imported(path.read_text(encoding="utf-8"), set(files)) for name, path in files.items()}


def has_no_cycle(modules: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        raise AssertionError(f"modules import one another: {' <- '.join(error.args[1])}") from error


def test_no_cycle() -> None:
    modules = graph(SOURCE)
    assert modules["tokenturing.models.contract"] >= {"tokenturing.models.scan", "tokenturing.models.arguments"}
    has_no_cycle(modules)


@pytest.mark.parametrize(
    ("text", "cycle"),
    [
        ("from package.a import it\n", True),
        ("from package import a\n", True),
        ("import package.a\n", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.a import it\n", True),
        ("class Here:\n    from package.a import it\n", True),
        ("def late():\n    from package.a import it\n", False),
        ("import package\n", False),
    ],
)
def test_control(text: str, cycle: bool, tmp_path: Path) -> None:
    source = tmp_path / "package"
    (source / "inner").mkdir(parents=True)
    (source / "__init__.py").write_text("")
    (source / "a.py").write_text("from package import inner\nit = 1\n")
    (source / "inner" / "__init__.py").write_text("from package.inner.b import late\n")
    (source / "inner" / "b.py").write_text(text)
    if not cycle:
        return has_no_cycle(graph(source))
    with pytest.raises(AssertionError, match=r"import one another: .*package\.a"):
        has_no_cycle(graph(source))
