"""Optional packages: what is missing is said at once, in one line that helps, and the runtime needs no torch."""

import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tokenturing import errors
from tokenturing.errors import MissingExtraError
from tokenturing.extras import EXTRAS, WITHOUT_TORCH, require

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_ASKED_FOR = {"all", "dev", "docs", "peers", "ray", "vision"}
"""by anything in the package as a whole: of `vision` whoever names one of its models needs one package"""


def package(requirement: str) -> str:
    return re.split(r"[<>=~!;\s]", requirement)[0]


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_the_table_is_that_of_the_package() -> None:
    declared = PROJECT["optional-dependencies"]
    assert EXTRAS.keys() == declared.keys() - NOT_ASKED_FOR
    for extra, packages in EXTRAS.items():
        others = [package(one) for one in declared[extra] if not one.startswith("tokenturing[")]
        assert others == list(packages), extra
    assert declared["all"] == [f"tokenturing[{','.join(EXTRAS)}]"]


def test_only_what_was_exported_does_without_torch() -> None:
    assert not {"torch", "huggingface_hub", "filelock"} & {package(one) for one in PROJECT["dependencies"]}
    for extra in EXTRAS.keys() - {"torch"}:
        brings_torch = "tokenturing[torch]" in PROJECT["optional-dependencies"][extra]
        assert brings_torch is (extra not in WITHOUT_TORCH), extra


def test_all_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    require("cli", "tasks", "speech")  # the control
    hide(monkeypatch, "rich", "sklearn", "scipy")
    with pytest.raises(MissingExtraError) as raised:
        require("cli", "tasks", "speech")
    assert str(raised.value) == (
        "rich, scikit-learn, scipy are not installed; install them with: pip install 'tokenturing[cli,tasks,speech]'"
    )
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize(
    ("hidden", "wanted", "named"),
    [
        (["torch"], ["cli"], "torch is not installed; install it with: pip install 'tokenturing[torch]'"),
        (["torch", "tyro"], ["cli"], "torch, tyro are not installed; install them with: pip install 'tokenturing[cli]'"),
        (["onnx"], ["export"], "onnx is not installed; install it with: pip install 'tokenturing[export]'"),
        (["torch", "openvino"], ["bf16"], "openvino is not installed; install it with: pip install 'tokenturing[bf16]'"),
    ],
)
def test_extras_bring_torch_along(hidden: list[str], wanted: list[str], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, *hidden)
    with pytest.raises(MissingExtraError) as raised:
        require(*wanted)
    assert str(raised.value) == named


def test_a_checkout_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise errors.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(errors.importlib.metadata, "version", unknown)
    assert str(MissingExtraError("av", "media")).endswith(f"pip install '{Path(errors.__file__).parents[2]}[media]'")


WITHOUT = "import sys; sys.modules.update(dict.fromkeys({hidden!r})); "


def run(hidden: list[str], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT.format(hidden=hidden) + code], capture_output=True, text=True)


@pytest.mark.parametrize("name", ["TokenTuringMachine", "load", "state", "baselines"])
def test_a_model_without_torch_says_what_to_install(name: str) -> None:
    ran = run(["torch"], f"import tokenturing as tt; tt.runtime.load; tt.{name}")
    last = ran.stderr.strip().splitlines()[-1]
    assert last.endswith("MissingExtraError: torch is not installed; install it with: pip install 'tokenturing[torch]'")


BLOCKED = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize("module", ["tokenturing.export", "tokenturing.export.onnx", "tokenturing.export.cache"])
@pytest.mark.parametrize("hidden", [BLOCKED, WITHOUT.format(hidden=["torch"])], ids=["not found", "hidden"])
def test_modules_that_need_torch_say_so(module: str, hidden: str) -> None:
    ran = subprocess.run([sys.executable, "-c", hidden + f"import {module}"], capture_output=True, text=True)
    last = ran.stderr.strip().splitlines()[-1]
    assert last.endswith("MissingExtraError: torch is not installed; install it with: pip install 'tokenturing[torch]'")


@pytest.mark.parametrize(
    ("hidden", "arguments", "said"),
    [
        (["torch", "tyro", "rich"], [], "torch, tyro, rich are not installed; install them with: pip install 'tokenturing[cli]'"),
        (
            ["sklearn", "av", "scipy"],
            ["demo"],
            "scikit-learn, scipy, av are not installed; install them with: pip install 'tokenturing[tasks,speech,media]'",
        ),
    ],
)
def test_commands_say_it_before_they_begin(hidden: list[str], arguments: list[str], said: str) -> None:
    ran = run(hidden, f"from tokenturing.cli.main import main; main({arguments!r})")
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", f"tokenturing: {said}\n")


def test_training_says_it_before_it_begins(tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "recall.toml"
    arguments = ["train", str(recipe), "--out", str(tmp_path / "run")]
    ran = run(["sklearn", "soundfile"], f"from tokenturing.cli.main import main; main({arguments!r})")
    said = "soundfile, scikit-learn are not installed; install them with: pip install 'tokenturing[speech,tasks]'"
    assert (ran.returncode, ran.stderr) == (2, f"tokenturing: {said}\n")
    assert not (tmp_path / "run").exists()
