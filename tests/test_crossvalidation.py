"""Every fold with every seed, one table; stopped and gone on with; and what an interval over folds and seeds says."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from activity_files import npz_folder

import tokenturing as tt
from tokenturing.cli.main import main
from tokenturing.evaluate.spread import spread, student
from tokenturing.train import crossvalidation
from tokenturing.train.loop import Training, train
from tokenturing.train.recipe import load_recipe, parse_recipe

TINY = {"width": 8, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 8}


def test_an_interval_over_folds_counts_each_fold_once() -> None:
    one = spread({"0": [0.5, 0.6], "1": [0.8, 0.9, 1.0]})
    assert one.mean == pytest.approx((0.55 + 0.9) / 2)
    half = 12.706 * np.std([0.55, 0.9], ddof=1) / math.sqrt(2)
    assert (one.low, one.high) == pytest.approx((one.mean - half, one.mean + half))
    assert one.by_seed == pytest.approx(math.sqrt((0.005 + 0.01) / 2))
    assert (one.folds, one.seeds) == (2, 3)
    seeds_alone = spread({"0": [0.5, 0.6, 0.7]})
    assert seeds_alone.high - seeds_alone.mean == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    assert math.isnan(spread({"0": [0.5]}).low)
    assert spread({"0": [0.5, math.nan], "1": [math.nan]})[:1] == (0.5,)
    assert spread({}).folds == 0


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = [{str(f): rng.normal(rng.normal(0, 1), 0.3, 3).tolist() for f in range(5)} for _ in range(1500)]
    share = np.mean([one.low < 0 < one.high for one in map(spread, drawn)])
    assert 0.93 < share < 0.97
    narrower = 1.96 / student(4)
    normal = np.mean([abs(one.mean) < (one.high - one.mean) * narrower for one in map(spread, drawn)])
    assert normal < 0.92, "the control: with 1.96 it would not"
    assert student(4) == 2.776
    assert student(25) == 2.042
    assert student(10_000) == 1.96


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    options = "\n".join(f"{key} = {value}" for key, value in TINY.items())
    data = json.dumps(str(npz_folder(tmp_path / "d", steps=12)))
    (tmp_path / "small.toml").write_text(
        f'task = "activity_50salads"\n[model.options]\n{options}\n[data]\npath = {data}\n'
        '[train]\nupdates = 4\nrows = 4\nsteps = 6\nrate = 1e-2\nwarmup = 1\nevaluate_every = 2\nkeep = "best"\n'
    )
    (tmp_path / "other.toml").write_text('base = "small.toml"\n[model]\nmemory = "GRU"\n[model.options]\nwidth = 8\n')
    return tmp_path / "small.toml"


def test_all_folds_and_seeds_in_one_table(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    both = [str(recipe), str(recipe.with_name("other.toml"))]
    trained: list[Path] = []

    def counted(recipe: object, folder: Path, **options: object) -> object:
        trained.append(folder)
        return train(recipe, folder, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(crossvalidation, "train", counted)
    main(["crossvalidate", both[0], "--folds", "0,2", "--out", str(out)])
    assert [folder.name for folder in trained] == ["fold0-seed0", "fold2-seed0"]
    main(["crossvalidate", *both, "--seeds", "0,1", "--out", str(out)])
    assert len(trained) == len(set(trained)) == 12, "what was there is not trained again"
    table = json.loads((out / "table.json").read_text())
    assert set(table) == {"small", "other"}
    of_small = table["small"]["frame accuracy"]
    assert (of_small["folds"], of_small["seeds"]) == (3, 2)
    folders = [out / "small" / f"fold{fold}-seed{seed}" for fold in range(3) for seed in (0, 1)]
    runs = [json.loads((folder / "figures.json").read_text()) for folder in folders]
    values = [row["value"] for run in runs for row in run["figures"] if row["kind"] == "frame accuracy"]
    assert of_small["mean"] == pytest.approx(np.mean(values))
    notes = [json.loads((folder / "model" / "config.json").read_text())["notes"] for folder in folders]
    tested = [one["streams"]["test"] for one in notes]
    assert len({name for part in tested for name in part}) == 9, "together the folds test everything"
    assert "3 folds, 2 seeds" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["crossvalidate", both[0], "--out", str(out), "--set", "train.rate=2e-2"])
    assert "figures of another recipe (train.rate=0.01, and now 0.02)" in capsys.readouterr().err
    for wrong in (["--folds", "7"], ["--seeds", "a"], ["--seeds", "1,1"]):
        with pytest.raises(SystemExit):
            main(["crossvalidate", both[0], "--out", str(out), *wrong])
        assert "expected" in capsys.readouterr().err


def test_a_task_without_folds_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.toml").write_text('task = "last_digits"\n')
    with pytest.raises(SystemExit):
        main(["crossvalidate", str(tmp_path / "r.toml"), "--out", str(tmp_path / "out")])
    assert "has no folds" in capsys.readouterr().err


# --- the best weights


def test_the_best_weights_are_those_of_the_best_validation(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_recipe(recipe, ["train.updates=8"])
    values, seen = iter([0.2, 0.9, 0.5, 0.9]), []

    def look(self: Training) -> None:
        seen.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})

    task = loaded.build_task()
    monkeypatch.setattr(task, "validate", lambda model: {"figure": next(values)})
    validate = Training.validate
    monkeypatch.setattr(Training, "validate", lambda self: (look(self), validate(self))[1])
    train(loaded, tmp_path / "run", task=task)
    saved = tt.load(tmp_path / "run" / "model")
    weights = saved.state_dict()
    assert all((weights[name] == tensor).all() for name, tensor in seen[1].items())
    assert not all((weights[name] == tensor).all() for name, tensor in seen[3].items()), "the control: not the last"
    assert saved.notes["best_update"] == 4
    assert saved.notes["validation"] == {"figure": 0.9}
    assert saved.notes["updates"] == 8


def test_an_average_of_the_weights_is_validated_and_given(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, ["train.updates=6", "train.average=0.5", 'train.keep="last"'])
    run = Training(loaded, tmp_path / "by hand")
    average = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    for update in range(1, 7):
        run.advance()
        decay = min(0.5, update / (update + 9))
        average = {name: decay * average[name] + (1 - decay) * tensor for name, tensor in run.model.state_dict().items()}
    trained = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    seen = run.validate()
    assert all((run.model.state_dict()[name] == tensor).all() for name, tensor in trained.items()), (
        "training goes on from its own"
    )
    given = train(loaded, tmp_path / "run")
    weights = given.state_dict()
    assert all(np.allclose(weights[name], tensor, atol=1e-6) for name, tensor in average.items())
    assert not all(np.allclose(weights[name], tensor, atol=1e-6) for name, tensor in trained.items()), "the control"
    assert loaded.build_task().validate(given) == seen


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_killed_run_keeps_its_weights(average: float, recipe: Path, tmp_path: Path) -> None:
    settings = ["train.updates=8", "train.save_every=2", f"train.average={average}"]
    whole = train(load_recipe(recipe, settings), tmp_path / "whole")

    def kill(done: int, *_: object) -> None:
        if done == 5:
            raise KeyboardInterrupt

    loaded = load_recipe(recipe, settings)
    with pytest.raises(KeyboardInterrupt):
        train(loaded, tmp_path / "killed", report=kill)
    resumed = train(loaded, tmp_path / "killed")
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all((one == other).all() for one, other in pairs)
    notes = [json.loads((tmp_path / name / "model" / "config.json").read_text())["notes"] for name in ("whole", "killed")]
    assert notes[0]["best_update"] == notes[1]["best_update"]


def test_a_figure_that_is_not_there_is_named(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, ['train.best_by="frame acuracy"'])
    with pytest.raises(ValueError, match=r"train.best_by='frame acuracy' is not known.*did you mean 'frame accuracy'"):
        train(loaded, tmp_path / "run")
    plain = parse_recipe({"task": "last_digits"})
    assert plain.train.keep == "last"
