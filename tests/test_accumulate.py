"""An update out of parts of the rows is that of all rows, holds the graph of one part, and a run goes on with other parts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from activity_files import small
from recall_files import tiny_recipe
from torch import Tensor

from tokenturing import state as states
from tokenturing.errors import OptionError
from tokenturing.tasks.contract import Batch
from tokenturing.train import loop
from tokenturing.train.loop import Training
from tokenturing.train.recipe import Recipe, check_parts, parse_recipe, read_recipe

TRAIN = {"updates": 6, "rows": 4, "steps": 6, "warmup": 1, "rate": 1e-3}
MACHINE = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 16}
WITHOUT_EFFECT = ("read.mlp.2.bias", "key_value.bias")
"""what these add to all keys a softmax takes no notice of: gradients of rounding error, which AdamW makes as large as others"""


def last_digits(folder: Path) -> dict[str, Any]:
    return {"task": "last_digits", "options": MACHINE}


def recall(folder: Path) -> dict[str, Any]:
    content = read_recipe(tiny_recipe(folder))
    content["model"]["options"] |= {"look_back": 2, "write_cost": 0.01}
    return content


def activity(folder: Path) -> dict[str, Any]:
    """Videos of whose last steps nothing is known."""
    content: dict[str, Any] = {"task": "activity_thumos", **small("activity_thumos", folder / "videos")}
    content["model"]["dropout"] = 0.0  # its random numbers are others in parts
    return content


TASKS = {"last_digits": last_digits, "recall": recall, "activity": activity}
EVERY_TASK = pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)


def recipe(content: dict[str, Any], parts: int, **train: Any) -> Recipe:
    return parse_recipe(content | {"train": TRAIN | {"accumulate": parts} | train})


def go(run: Training, updates: int) -> list[float]:
    return [run.advance()["loss"] for _ in range(updates)]


def apart(one: Training, other: Training) -> float:
    """The largest difference of their weights and carried states."""
    weights, others = one.model.state_dict(), other.model.state_dict()
    pairs = [(weights[name], others[name]) for name in weights if not name.endswith(WITHOUT_EFFECT)]
    pairs += [(leaf, same) for (_, leaf), (_, same) in zip(states.leaves(one.state), states.leaves(other.state), strict=True)]
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


@EVERY_TASK
def test_parts_train_as_all_rows_at_once(make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = make(tmp_path)

    def trained(name: str, parts: int) -> tuple[Training, list[float]]:
        run = Training(recipe(content, parts), tmp_path / name)
        return run, go(run, 6)

    whole, losses = trained("whole", 1)
    for parts in (2, 4):
        run, came = trained(str(parts), parts)
        assert came == pytest.approx(losses, abs=1e-5)
        assert apart(run, whole) < 1e-5
    # the controls: the rows of one part only, and the state of other rows
    for name, wrong in (("batch_parts", lambda made: [made[0]] * len(made)), ("state_parts", lambda made: made[::-1])):
        right = getattr(loop, name)
        monkeypatch.setattr(loop, name, lambda *args, right=right, wrong=wrong: wrong(list(right(*args))))
        moved = apart(trained(name, 2)[0], whole)
        monkeypatch.setattr(loop, name, right)
        assert moved > 1e-3 or (make is last_digits and name == "state_parts"), "whose streams all begin anew"


@pytest.mark.parametrize("make", [recall, activity])
def test_rows_that_do_not_count_the_same(make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = make(tmp_path)
    whole = go(Training(recipe(content, 1), tmp_path / "whole"), 4)
    right = loop.batch_parts
    monkeypatch.setattr(loop, "batch_parts", lambda *args: (Batch(*part) for part in right(*args)))
    means = go(Training(recipe(content, 2), tmp_path / "means"), 4)
    assert max(abs(a - b) for a, b in zip(means, whole, strict=True)) > 1e-4, "the mean of the parts' own means is another"


@EVERY_TASK
def test_a_run_goes_on_with_other_parts(make: Callable, tmp_path: Path) -> None:
    content = make(tmp_path)
    whole = Training(recipe(content, 1), tmp_path / "whole")
    losses = go(whole, 6)
    came = []
    for parts in (2, 4):
        run = Training(recipe(content, parts), tmp_path / "run")
        assert run.update == len(came)
        came += go(run, 3)
        if parts == 2:
            run.save()
    assert came == pytest.approx(losses, abs=1e-5)
    assert apart(run, whole) < 1e-5
    run = Training(recipe(content, 4), tmp_path / "run")
    run.state = states.map_state(lambda leaf: leaf.flip(0), run.state)
    go(run, 3)
    assert apart(run, whole) > 1e-4 or make is last_digits, "the control: rows in another order"


class Held:
    """A tensor that the graph holds for the way back."""

    now = most = 0

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        Held.now += tensor.nbytes
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        Held.now -= self.tensor.nbytes


@pytest.fixture
def held() -> Iterator[type[Held]]:
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        yield Held


def test_the_graph_of_one_part_is_held(tmp_path: Path, held: type[Held]) -> None:
    most = {}
    for parts in (1, 4):
        run = Training(recipe({"task": "last_digits", "options": MACHINE}, parts, rows=64), tmp_path / str(parts))
        held.most = 0
        go(run, 2)
        most[parts] = held.most
    assert most[4] < most[1] / 3


def test_parts_that_are_not_equal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"train.accumulate=3: the 4 rows .* a divisor of 4, or train.rows as a multiple of 3"):
        Training(recipe(last_digits(tmp_path), 3), tmp_path / "run")
    with pytest.raises(OptionError, match=r"train.accumulate=4: the 6 rows of each of 2 processes .* a multiple of 8"):
        check_parts(4, 6, processes=2)
    check_parts(3, 6, processes=2)
