"""Docs are executed: blocks run, commands and links exist, the printed tree and the table are true."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tokenturing.evaluate.figures import Figure
from tokenturing.evaluate.growth import Size
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.tasks.recall.world.plans import RecallConfig
from tokenturing.tasks.recall.world.questions import AGO_BORDERS, DEPTH, FACTS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".cfg", "", ".sh", ".html"}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[str]:
    """The lines of all shell blocks, without comments."""
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return sorted({line.split("  #")[0].strip() for line in lines} - {""})


def project_files() -> list[Path]:
    """Files that are tracked, or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no git repository")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


def results() -> ModuleType:
    """docs/results.py as a module."""
    spec = importlib.util.spec_from_file_location("results", ROOT / "docs" / "results.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- what can be run


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "docs/from-lstm.md"])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / page, "python")
    assert found
    names: dict = {}
    for number, block in enumerate(found, 1):
        exec(compile(block, f"block {number} of {page}", "exec"), names)


def test_the_library_fits_in_15_lines():
    assert len(blocks(README, "python")[0].splitlines()) <= 15


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("make ")])
def test_make_targets_exist(line: str):
    # A dry run with a Python that is there, so that nothing is set up.
    found = subprocess.run(["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("tokenturing ")])
def test_commands_parse(line: str):
    from tokenturing.cli.main import COMMANDS

    _, command, *arguments = shlex.split(line)
    assert command in COMMANDS
    run = "from tokenturing.cli.main import main; main()"
    shown = subprocess.run([sys.executable, "-c", run, command, "--help"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    for argument in arguments:
        if argument.startswith("--"):
            assert argument in shown.stdout
        if argument.endswith(".toml"):
            assert (ROOT / argument).exists()


# --- what must be true


def test_readme_is_short_and_begins_with_commands():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("make demo") for line in lines[:20])


def test_printed_tree_is_the_real_one():
    tree = blocks(README, "text")[0]
    printed, parents = set(), []
    for line in tree.splitlines():
        name, comment = line.split(maxsplit=1)
        assert comment, f"{name} has no comment"
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], name]
        printed.add("".join(parents))
    assert printed == real_folders()


def real_folders() -> set[str]:
    """Folders down to the packages that have something in them."""
    shown = ["*", "src/tokenturing", "src/tokenturing/*", "src/tokenturing/tasks/*", "tests/*", "docs/*"]
    folders = {path for pattern in shown for path in ROOT.glob(pattern) if path.is_dir()}
    folders.discard(ROOT / "src")
    return {f"{path.relative_to(ROOT)}/" for path in folders if holds_something(path)}


def holds_something(folder: Path) -> bool:
    """Whether it is part of the project: not hidden, not made by a tool, not an empty package."""
    if folder.name.startswith((".", "__")) or folder.name.endswith(".egg-info"):
        return False
    if folder.name in ("runs", "build", "dist", "site", "venv"):
        return False
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return any(path.name != "__init__.py" or path.stat().st_size for path in files)


def test_table_of_results_is_what_the_checkpoints_say():
    made = results()
    text = README.read_text(encoding="utf-8")
    measured = made.figures()
    assert made.filled(text, made.render(measured)) == text, "fill it in with: make results"
    page = made.RESULTS.read_text(encoding="utf-8")
    assert made.filled(page, made.render_all(measured)) == page, "fill it in with: make results"


def test_tables_of_speed_are_what_was_measured():
    made = results()
    text = made.SPEED.read_text(encoding="utf-8")
    assert len(list(made.MEASURED.glob("*.json"))) >= 4
    assert made.speed_page(text) == text, "fill it in with: make results"
    page = made.ACTIVITY.read_text(encoding="utf-8")
    assert made.activity_page(page) == page, "fill it in with: make results"
    page = made.ABLATIONS.read_text(encoding="utf-8")
    assert made.ablations_page(page) == page, "fill it in with: make results"


def test_table_has_mean_and_worst_kind():
    made = results()
    rows = [
        Figure(kind, accuracy, 0.0, 1.0, 64, where={"delay": delay})
        for kind, delay, accuracy in [("seen-1", 5.0, 1.0), ("heard-1", 5.0, 0.9), ("heard-1", 600.0, 0.8)]
    ]
    lstm = made.Measured("LSTM", 72_400, Size(750, 1_234_000, 5_120), 1076, rows)
    table = made.render({"recall-lstm": lstm})
    assert table.splitlines()[0] == "| memory | parameters | multiply-adds | state | training | 5 s | 10 min |"
    assert table.splitlines()[2] == "| LSTM | 72 k | 1.2 M | 5.1 kB | 1,076 s | 0.95 / 0.90 | 0.80 / 0.80 |"
    rows.append(Figure("heard-1", 0.7, 0.5, 0.8, 64, where={"delay": 5.0, "voices": "human"}))
    human = made.render({"recall-lstm": lstm})
    assert human.splitlines()[0].endswith("| 10 min | a human, 5 s |")
    assert human.splitlines()[2] == table.splitlines()[2] + " 0.70 / 0.70 |"
    every = made.render_all({"recall-lstm": lstm})
    assert "### LSTM, synthesised" in every
    assert "| heard-1 | 64 | 0.70 (0.50 to 0.80) |" in every


def test_rules_of_recall_are_those_of_the_code():
    page = (ROOT / "docs" / "recall.md").read_text(encoding="utf-8")
    borders = [f"{border:g}" for border in AGO_BORDERS]
    assert "under {} s, {} to {} s, {} to {} s, {} to {} s, over {} s".format(
        *[borders[0], borders[0], borders[1], borders[1], borders[2], borders[2], borders[3], borders[3]]
    ) in " ".join(page.split())
    config = RecallConfig()
    shortest, longest = config.shortest * STEP_SECONDS, config.longest * STEP_SECONDS
    assert f"lasts {shortest:g} to {longest:g} s" in page
    assert f"`seen-{DEPTH}`" in page
    assert f"`seen-{DEPTH + 1}`" not in page
    assert f"reads {FACTS} facts" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "mailto:", "#")):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


def test_files_hold_nothing_of_one_machine():
    """No absolute paths, no registry's address, nothing of a folder beside the project."""
    homes = "|".join(["work", "root", "home", "Users", "opt"])
    hosts = "|".join(["pypi", "pythonhosted", "npmjs", "anaconda"])
    patterns = {
        "an absolute path": re.compile(rf"(?<![\w.}}/:-])/({homes})/\w"),
        "a registry's address": re.compile(rf"\b({hosts})\.(org|com)\b"),
        "a folder beside the project": re.compile(r"\b" + "shared" + "/"),
    }
    found = [
        f"{path.relative_to(ROOT)}: {what}: {match.group()}"
        for path in project_files()
        for what, pattern in patterns.items()
        if (match := pattern.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert not found, "\n".join(found)
