"""Who may import whom , what `import tokenturing` costs, and that nothing is ever unpickled."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokenturing

SOURCE = Path(tokenturing.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

LEVELS = [
    ("errors", "files", "options", "extras"),
    ("state", "layers", "media", "runtime"),
    ("memory", "processors"),
    ("registry", "checkpoint"),
    ("models",),
    ("baselines", "scenic", "encoders"),
    ("features",),
    ("evaluate",),
    ("tasks",),
]
"""each may import its own level and those before it"""
CORE = {room for level in LEVELS[:-2] for room in level} - {"media", "encoders"} | {"testing"}
GENERIC = ("train", "export", "bench", "serve", "runtime", "testing")
"""those that know models and tasks by their contracts only"""
FORBIDDEN = {
    "viz": {"models", "baselines", "scenic", "checkpoint", "registry", "state", "tasks", "train", "encoders", "serve"},
    **{name: {"demo", "cli"} for name in GENERIC},
}
WORDS = re.compile(r"recall|digit|voice|question", re.IGNORECASE)
"""of single tasks"""
DATA = {"world", "voices"}
"""folders of tasks that know no model"""
SPEAK_OF_TASKS = ("tasks", "registry", "cli", "demo", "viz", "encoders", "weights", "recipes")


def room(module: str) -> str:
    """The room of `tokenturing.room.file`; the package itself is "tokenturing"."""
    return (*module.split("."), "tokenturing")[1]


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Names of the modules that a file imports; not lazily: only when it is imported itself."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if (inside and not lazy) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""
            if node.module == "tokenturing":
                yield from (f"tokenturing.{alias.name}" for alias in node.names)
        nodes.extend(ast.iter_child_nodes(node))


def ours(path: Path) -> set[str]:
    """The rooms of this package that a file imports, lazily or not, besides the package itself."""
    found = {room(name) for name in imports(path) if name.split(".")[0] == "tokenturing"}
    return found - {"tokenturing", "__version__"}


def own_room(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return "tokenturing" if parts == ("__init__",) else room(f"tokenturing.{parts[0]}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_directions(path: Path) -> None:
    here, known = own_room(path), ours(path)
    below: set[str] = set()
    for level in LEVELS:
        below |= set(level)
        if here in level:
            assert known <= below, f"{here} may import {sorted(below)} and imports {sorted(known - below)}"
    assert not known & FORBIDDEN.get(here, set()), f"{here} must not import {sorted(known & FORBIDDEN[here])}"
    assert here in ("cli", "__main__") or "cli" not in known, "nothing imports the command line"


@pytest.mark.parametrize(
    "path", [path for path in FILES if own_room(path) in GENERIC], ids=lambda path: str(path.relative_to(SOURCE))
)
def test_generic_rooms_know_no_task(path: Path) -> None:
    known = {name for name in imports(path) if name.startswith("tokenturing.tasks")}
    assert known <= {"tokenturing.tasks.contract"}, f"{path} imports {known}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_words_of_tasks_stand_in_tasks(path: Path) -> None:
    if own_room(path) not in SPEAK_OF_TASKS:
        found = WORDS.findall(path.read_text(encoding="utf-8"))
        assert not found, f"{path} speaks of {sorted(set(found))}"


def test_words_of_tasks_control() -> None:
    assert WORDS.findall((SOURCE / "tasks" / "recall" / "task.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "path", [path for path in FILES if DATA & set(path.parts)], ids=lambda path: str(path.relative_to(SOURCE))
)
def test_data_of_tasks_knows_no_model(path: Path) -> None:
    assert not ours(path) & {"models", "baselines", "memory", "processors", "layers", "checkpoint"}


def test_directions_control(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from tokenturing.cli import main\nimport tokenturing.models.cell\n")
    assert ours(file) == {"cli", "models"}
    assert set(imports(file, lazy=False)) == {"tokenturing.models.cell"}


def test_core_needs_only_core_libraries() -> None:
    allowed = {"tokenturing", "torch", "numpy", "safetensors", *sys.stdlib_module_names}
    for path in FILES:
        if own_room(path) in CORE:
            roots = {name.split(".")[0] for name in imports(path, lazy=False)}
            assert roots <= allowed, f"{path} imports {sorted(roots - allowed)} when it is imported"


HEAVY = [
    "rich",
    "tyro",
    "matplotlib",
    "sklearn",
    "scipy",
    "av",
    "soundfile",
    "tensorboard",
    "onnx",
    "starlette",
    "uvicorn",
    "huggingface_hub",
    "pytest",
    "torch",
    "torch._dynamo",
    "torch._inductor",
    "tokenturing.baselines",
    "tokenturing.scenic",
    "tokenturing.testing",
    "tokenturing.cli",
    "tokenturing.train",
    "tokenturing.tasks",
    "tokenturing.encoders",
]


def test_import_is_light() -> None:
    code = f"import sys, tokenturing; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", f"import tokenturing imports {run.stdout}"


def test_public_names() -> None:
    for name in tokenturing.__all__:
        assert getattr(tokenturing, name) is not None
        assert name in dir(tokenturing)
    assert tokenturing.baselines.LSTM is not None
    assert callable(tokenturing.from_scenic)
    assert callable(tokenturing.testing.check_streaming)
    with pytest.raises(AttributeError, match="nonsense"):
        tokenturing.nonsense  # noqa: B018


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
UNSAFE_CALLS = {("torch", "load"), ("torch", "save"), ("numpy", "load"), ("np", "load")}
SAFE = {"allow_pickle": False, "weights_only": True}
"""what makes numpy's and PyTorch's loading read numbers only"""


def unsafe(path: Path) -> list[str]:
    """What could run code that a file holds."""
    found = [name for name in imports(path) if name.split(".")[0] in UNSAFE_MODULES]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = (getattr(node.func.value, "id", ""), node.func.attr)
            safely = call[1] == "load" and any(
                keyword.arg in SAFE and getattr(keyword.value, "value", None) is SAFE[keyword.arg] for keyword in node.keywords
            )
            if call in UNSAFE_CALLS and not safely:
                found.append(".".join(call))
        elif isinstance(node, ast.Name) and node.id in ("eval", "exec"):
            found.append(node.id)
    return found


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    for path in FILES:
        assert not unsafe(path), f"{path} uses {unsafe(path)}"
    bad = tmp_path / "bad.py"
    bad.write_text("import pickle, torch\ntorch.load('x', weights_only=False)\neval('1')\n")
    assert sorted(unsafe(bad)) == ["eval", "pickle", "torch.load"]
