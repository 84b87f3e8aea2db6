"""Laws of tasks, and a task in a package of somebody else's: no file here has to change for it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import activity_files
import numpy as np
import pytest
import torch
from recall_files import tiny_bank, tiny_recipe
from torch import Tensor, nn

import tokenturing as tt
from tokenturing.checkpoint import register
from tokenturing.errors import OptionError
from tokenturing.models.contract import Input
from tokenturing.options import build
from tokenturing.registry import TASKS, find_task
from tokenturing.tasks.contract import Batch, Task
from tokenturing.tasks.last_digits.model import DEPTH
from tokenturing.tasks.last_digits.task import ROWS, STEPS, DigitStreams, LastDigits
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.probe import Probe, evaluate
from tokenturing.tasks.recall.world.questions import ANSWERS
from tokenturing.train.loop import Training, looking
from tokenturing.train.recipe import load_recipe, parse_recipe, task_of

ROOT = Path(__file__).parents[1]
STEPS_DRAWN = 5


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("tasks"))


def make(name: str, recipe: Path, seed: int = 0) -> Task:
    """A task, as small as it can be."""
    content: dict[str, Any] = {}
    if name == "recall":
        content = {"perception": str(recipe.parent / "perception"), "tokens": {"sightings": 1, "backgrounds": 100}}
        content["model"] = {"options": {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2}}
        content["data"] = {"shortest": 4, "longest": 12}
    if name.startswith("activity"):
        content = activity_files.small(name, recipe.parent / name)
    if name in ("recall", "perception"):
        content["speech"] = {"bank": str(recipe.parent / "bank.npz")}
    task = find_task(name)
    return task(build(task.Config(), content), seed)


every_task = pytest.mark.parametrize("name", TASKS)


def leaves(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [leaf for part in tree for leaf in leaves(part)]


def same(a: Any, b: Any) -> bool:
    return all(map(torch.equal, leaves(a), leaves(b)))


def drawn(batches: Any, count: int = 3) -> list[Batch]:
    return [next(batches) for _ in range(count)]


@every_task
def test_the_same_seed_gives_the_same_batches(name: str, recipe: Path) -> None:
    task, again, other = (make(name, recipe, seed) for seed in (0, 0, 1))
    model = task.build()
    first, second, third = (drawn(t.batches("train", range(4), STEPS_DRAWN, model)) for t in (task, again, other))
    assert all(map(same, first, second))
    assert not any(map(same, first, third)), "another seed"
    assert not same(first[0], first[1]), "and not always the same"
    for batch in first:
        assert all(leaf.shape[:2] == (4, STEPS_DRAWN) for leaf in leaves(batch)), "trees of [B, T, ...]"
        assert batch.reset.dtype == torch.bool


@every_task
def test_a_row_is_the_same_whatever_other_rows_there_are(name: str, recipe: Path) -> None:
    task = make(name, recipe)
    model = task.build()
    whole, low, high = (drawn(task.batches("train", rows, STEPS_DRAWN, model)) for rows in (range(8), range(4), range(4, 8)))
    for all_rows, first, last in zip(whole, low, high, strict=True):
        joined = [torch.cat(parts) for parts in zip(leaves(first), leaves(last), strict=True)]
        assert same(leaves(all_rows), joined)
        assert not same(leaves(first), leaves(last)), "the control: other rows are other streams"


@every_task
def test_batches_go_on_where_they_stood(name: str, recipe: Path) -> None:
    task = make(name, recipe)
    model = task.build()
    batches, resumed = (task.batches("train", range(4), STEPS_DRAWN, model) for _ in range(2))
    drawn(batches)
    resumed.restore(json.loads(json.dumps(batches.state())))
    assert all(map(same, drawn(batches), drawn(resumed)))
    fresh = task.batches("train", range(4), STEPS_DRAWN, model)
    assert not same(next(batches), next(fresh)), "the control"


@every_task
def test_losses_train_all_that_is_to_be_trained(name: str, recipe: Path) -> None:
    torch.manual_seed(0)
    task = make(name, recipe)
    model = task.build().train()
    batch = next(task.batches("train", range(4), STEPS_DRAWN, model))
    found, state = task.losses(model, batch, None)
    found["loss"].backward()
    assert all(loss.dim() == 0 and loss.isfinite() for loss in found.values())
    assert sum(bool(p.grad is not None and p.grad.any()) for p in model.parameters()) > 3
    if state is not None:
        assert tt.state.rows(state) == 4


# --- what is trained does not notice who looks


class Noisy(LastDigits):
    """Draws random numbers and leaves the model in evaluation mode when it validates."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        torch.rand(3)
        return super().validate(model)


class Careless(Noisy):
    """Its model has dropout, so that what looking leaves behind shows."""

    def build(self) -> nn.Module:
        model = super().build()
        model.eye.insert(2, nn.Dropout(0.5))
        return model


def trained(tmp_path: Path, every: int, look: Callable[[Training], object]) -> list[Tensor]:
    recipe = parse_recipe({"task": "last_digits", "train": {"updates": 6, "rows": 4, "steps": 6, "warmup": 1}})
    run = Training(recipe, tmp_path, Careless())
    for update in range(1, 7):
        run.advance()
        if update % every == 0:
            look(run)
    return [parameter.detach().clone() for parameter in run.model.parameters()]


def test_looking_changes_nothing_that_is_trained(tmp_path: Path) -> None:
    never, often = (trained(tmp_path / str(every), every, Training.validate) for every in (7, 2))
    assert all(map(torch.equal, never, often))
    control = trained(tmp_path / "control", 2, lambda run: run.task.validate(run.model))
    assert not all(map(torch.equal, never, control)), "validating without care changes what comes after"


@every_task
def test_validating_twice_gives_one_result(name: str, recipe: Path) -> None:
    torch.manual_seed(0)
    task = make(name, recipe)
    model = task.build().train()
    modes = [module.training for module in model.modules()]
    with looking(model):
        first = task.validate(model)
    with looking(model):
        second = task.validate(model)
    assert first == second
    assert first
    assert modes == [module.training for module in model.modules()]


def test_a_frozen_perception_draws_no_dropout_in_training(recipe: Path) -> None:
    model = make("recall", recipe).build().train()
    assert isinstance(model, RecallModel)
    sound = torch.randn(64, 96)
    assert torch.equal(model.perception.sound(sound), model.perception.sound(sound))
    model.perception.train()
    assert not torch.equal(model.perception.sound(sound), model.perception.sound(sound)), "the control"


# --- evaluation: who knows the truth is right, who guesses is at chance


class Place(NamedTuple):
    """Where a row is in its stream."""

    row: Tensor
    step: Tensor


class RecallOracle(RecallModel):
    """Answers with the truth of the streams that it is tested on; a share of the answers is drawn at random."""

    def __init__(self, rows: int, guesses: bool):
        super().__init__("GRU", {"width": 16}, 1, len(ANSWERS), 0, perception=16)
        self.probe, self.guesses = Probe(tiny_bank(), rows), guesses

    def initial_state(self, rows: int) -> Place:
        return Place(torch.arange(rows), torch.zeros(rows, dtype=torch.int64))

    def forward(self, inputs: Any, state: Any = None, *_: Any, **__: Any) -> tuple[Tensor, Place]:
        state = state._replace(step=state.step + inputs.tokens.shape[1])
        return torch.stack([state.row, state.step - 1], dim=-1)[:, None], state

    def ask(self, y: Tensor, questions: Tensor) -> Tensor:
        if self.guesses:
            return torch.rand(*questions.shape, len(ANSWERS))
        truths = self.probe.truths(int(y[0, 1]))
        answers = [truths[row].answer(int(q)) for row, q in zip(y[:, 0].tolist(), questions, strict=True)]
        return torch.nn.functional.one_hot(torch.tensor(answers), len(ANSWERS)).float()[:, None]


def test_recall_of_an_oracle_and_of_a_guesser() -> None:
    torch.manual_seed(0)
    models = {"oracle": RecallOracle(40, False), "guesser": RecallOracle(40, True)}
    found = evaluate(models, tiny_bank(), (0.5, 2.0, 5.0), rows=40)
    assert {figure.value for figure in found["oracle"]} == {1.0}
    right = sum(figure.value * figure.count for figure in found["guesser"])
    count = sum(figure.count for figure in found["guesser"])
    assert right / count == pytest.approx(1 / len(ANSWERS), abs=0.03)


@register
class DigitOracle(nn.Module):
    """The same of the last digits: it knows every frame by sight."""

    growing: frozenset[str] = frozenset()

    def __init__(self, guesses: bool = False):
        super().__init__()
        self.config, self.guesses = {"guesses": guesses}, guesses
        self.frames, self.truth, _ = next(DigitStreams("test", range(ROWS), STEPS, 1))

    def initial_state(self, rows: int) -> Place:
        return Place(torch.arange(rows), torch.zeros(rows, dtype=torch.int64))

    def signature(self) -> dict[str, Input]:
        return {"frame": Input((8, 8), torch.float32)}

    def step(self, frame: Tensor, state: Place) -> tuple[Tensor, Place]:
        if self.guesses:
            return torch.rand(len(frame), DEPTH, 11), state
        where = torch.cdist(frame.flatten(1), self.frames.flatten(0, 1).flatten(1)).argmin(-1)
        return torch.nn.functional.one_hot(self.truth.flatten(0, 1)[where], 11).float(), state


def test_last_digits_of_an_oracle_and_of_a_guesser() -> None:
    torch.manual_seed(0)
    found = LastDigits().evaluate({"oracle": DigitOracle(), "guesser": DigitOracle(guesses=True)}, {})
    assert {figure.value for figure in found["oracle"]} == {1.0}
    assert np.mean([figure.value for figure in found["guesser"]]) == pytest.approx(1 / 11, abs=0.02)


# --- recipes


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.rows=0", "train.rows=0 is out of range: expected at least 1"),
        ("train.steps=0", "train.steps=0"),
        ("train.rate=-1", "above 0"),
        ("train.threads=0", "train.threads=0"),
        ("train.save_every=0", "train.save_every=0"),
        ("train.evaluate_every=0", "train.evaluate_every=0"),
        ("train.updates=-3", "train.updates=-3"),
        ("train.rate=nan", "finite|above 0"),
        ("data.longest=0", "data.longest=0"),
        ("data.shortest=100", "shortest <= longest"),
        ("data.gaps=[1]", "data.gaps=.* 2 numbers"),
        ("data.gaps=[9,2]", "smaller first"),
        ("data.noise=7", "at most 1"),
        ("model.options.foo=1", "model.options.foo is not known"),
        ("model.options.width=wide", "model.options.width='wide' is a str: expected an int"),
        ("model.memory=LSTN", "did you mean 'LSTM'"),
        ("train.rat=1", "did you mean 'rate'"),
        ("dat.longest=9", "did you mean 'data'"),
        ("train=3", "train"),
    ],
)
def test_a_wrong_value_is_said_before_anything_is_built(setting: str, said: str, recipe: Path) -> None:
    with pytest.raises(OptionError, match=said):
        load_recipe(recipe, [setting])


def test_a_recipe_inherits(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "base.toml").write_text(recipe.read_text())
    (tmp_path / "own.toml").write_text(
        'base = "base.toml"\n[model]\nmemory = "GRU"\noptions = {width = 8}\n[train]\nrows = 3\n[data]\nnoise = 0.5\n'
    )
    own, base = load_recipe(tmp_path / "own.toml"), load_recipe(tmp_path / "base.toml")
    assert (own.train.rows, own.train.steps) == (3, base.train.steps)
    assert own.options.model.options == {"width": 8}, "a memory's options are its own"
    assert (own.options.data.noise, own.options.data.longest) == (0.5, base.options.data.longest)
    (tmp_path / "circle.toml").write_text('base = "circle.toml"\n')
    with pytest.raises(OptionError, match="circle"):
        load_recipe(tmp_path / "circle.toml")


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*.toml")), ids=lambda path: path.stem)
def test_every_recipe_is_read_and_its_model_built(path: Path) -> None:
    loaded = load_recipe(path)
    assert parse_recipe(loaded.to_json()) == loaded
    if loaded.task == "recall":
        assert isinstance(loaded.build_task().build(), RecallModel)


def test_shipped_models_know_their_task() -> None:
    assert type(task_of(tt.load("recall-ttm"))) is find_task("recall")
    with pytest.raises(OptionError, match="does not say what task"):
        task_of(tt.baselines.LSTM(8))


def test_a_checkpoint_imports_nothing_that_nobody_made_known() -> None:
    model = tt.baselines.LSTM(8)
    model.notes = {"recipe": {"task": "antigravity:Task"}}
    with pytest.raises(OptionError, match="TOKENTURING_TASKS"):
        task_of(model)
    assert "antigravity" not in sys.modules


# --- a task of somebody else's


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's files in a folder of their own."""
    folder = tmp_path_factory.mktemp("package")
    page = (ROOT / "docs" / "add-a-task.md").read_text(encoding="utf-8")
    (folder / "bang.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    (folder / "bang.toml").write_text(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0])
    return folder


def run(package: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TOKENTURING_TASKS": "bang:Bang", "TOKENTURING_CACHE": str(package / "cache"), **variables}
    environment["PYTHONPATH"] = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "tokenturing", *arguments]
    return subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, timeout=300)


def done(package: Path, *arguments: str) -> str:
    found = run(package, *arguments)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def test_the_tutorial_trains_resumes_evaluates_exports_and_streams(package: Path) -> None:
    import soundfile

    out = done(package, "train", "bang.toml")
    assert "next: tokenturing evaluate" in out
    assert "going on" in done(package, "train", "bang.toml", "--set", "train.updates=210"), "a finished run is lengthened"
    log = [json.loads(line) for line in (package / "runs" / "bang" / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in log][-2:] == [200, 210]
    assert log[-1]["loss"] < log[0]["loss"]
    done(package, "evaluate", "runs/bang", "--rows", "32", "--json", "figures.json")
    (figure,) = json.loads((package / "figures.json").read_text())
    assert figure["accuracy"] > 0.9, "always no would be right in seven of ten steps"
    assert figure["count"] == 1600
    done(package, "export", "runs/bang", "--out", "bang-onnx")
    wave = 0.05 * np.random.default_rng(0).standard_normal(16_000 * 6)
    wave[32_000:33_000] = 0.9  # at two seconds
    soundfile.write(package / "door.wav", wave, 16_000)
    for model in ("bang-onnx", "runs/bang"):
        said = done(package, "stream", model, "door.wav", "--ask", "1.5 a bang lately", "--ask", "2.5 a bang lately")
        assert re.search(r"0:0[12]\.\d+  \(hears a bang\)", said)
        assert re.findall(r"a bang lately\? (\w+)", said) == ["no", "yes", "no"]


def test_an_unknown_option_of_a_task_names_the_nearest(package: Path) -> None:
    done(package, "train", "bang.toml", "--out", "runs/short", "--set", "train.updates=2")
    said = run(package, "evaluate", "runs/short", "--row", "3")
    assert said.returncode == 2
    assert "did you mean 'rows'" in said.stderr
    unknown = run(package, "evaluate", "runs/short", TOKENTURING_TASKS="")
    assert unknown.returncode == 2
    assert "TOKENTURING_TASKS" in unknown.stderr


def test_each_model_is_evaluated_by_its_own_options(package: Path) -> None:
    few = ("--set", "train.updates=2", "train.rows=2")
    for lately in (3, 40):
        done(package, "train", "bang.toml", "--out", f"runs/{lately}", *few, f"lately={lately}")
    single = []
    for name in ("3", "40"):
        done(package, "evaluate", f"runs/{name}", "--json", "one.json")
        single += json.loads((package / "one.json").read_text())
    done(package, "evaluate", "runs/3", "runs/40", "--json", "both.json")
    both = json.loads((package / "both.json").read_text())
    assert [row["accuracy"] for row in both] == [row["accuracy"] for row in single]
    assert single[0] != single[1], "the control"


BROKEN = {
    "raise": "import bang\nclass Bang(bang.Bang):\n    def losses(self, *_):\n        open('/nothere')\n",
    "attribute": "import numpy\nnumpy.nothing\n",
    "incomplete": "import bang\nfrom tokenturing.tasks.contract import Task\nclass Bang(Task):\n    Config = bang.Options\n",
}
REFUSED = {
    "own_name": "from dataclasses import dataclass\n@dataclass\nclass Own:\n    train: int = 1\nclass Bang:\n    Config = Own\n",
    "no_task": "Bang = 3\n",
}


@pytest.mark.parametrize("name", [*BROKEN, *REFUSED])
def test_bugs_of_a_task_have_tracebacks_and_what_we_refuse_is_one_line(name: str, package: Path, tmp_path: Path) -> None:
    (package / f"{name}.py").write_text((BROKEN | REFUSED)[name])
    recipe = tmp_path / "broken.toml"
    recipe.write_text(f'task = "{name}:Bang"\n[train]\nupdates = 1\nrows = 2\nsteps = 4\n')
    found = run(package, "train", str(recipe), "--out", str(tmp_path / "run"))
    assert ("Traceback" in found.stderr) == (name in BROKEN)
    assert found.returncode == (1 if name in BROKEN else 2)
    assert name in BROKEN or len(found.stderr.splitlines()) == 1


def test_an_entry_point_makes_a_task_known(package: Path, tmp_path: Path) -> None:
    info = package / "bang-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bang\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tokenturing.tasks]\nbang = bang:Bang\n")
    recipe = tmp_path / "by_name.toml"
    recipe.write_text('task = "bang"\n[train]\nupdates = 1\nrows = 2\nsteps = 4\n')
    found = run(package, "train", str(recipe), "--out", str(tmp_path / "run"), TOKENTURING_TASKS="")
    assert found.returncode == 0, found.stderr[-2000:]
    assert run(package, "evaluate", str(tmp_path / "run"), TOKENTURING_TASKS="").returncode == 0
