"""Tasks of online activity detection, end to end on small data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from activity_files import npz_folder, watch_file

import tokenturing as tt
from tokenturing.cli.main import main
from tokenturing.errors import OptionError
from tokenturing.models.eager import eager
from tokenturing.options import build
from tokenturing.registry import BASELINES, find_task
from tokenturing.tasks.activity.judge import Precisions, Watched, figures, measures, watch
from tokenturing.tasks.activity.metrics import (
    average_precisions,
    calibrated_average_precisions,
    detection_latency,
    segmental_f1,
)
from tokenturing.tasks.activity.model import ActivityModel
from tokenturing.tasks.activity.task import Activity
from tokenturing.tasks.contract import Batch
from tokenturing.train.recipe import load_recipe, task_of

ROOT = Path(__file__).parents[1]
TINY = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 16}


def salads(folder: Path, **tables: Any) -> Activity:
    task = find_task("activity_50salads")
    content = {"data": {"path": str(npz_folder(folder)), **tables.pop("data", {})}, "model": {"options": TINY}, **tables}
    return task(build(task.Config(), content))


@pytest.fixture
def task(tmp_path: Path) -> Activity:
    return salads(tmp_path / "salads")


# --- the model


@pytest.mark.parametrize("memory", ["TokenTuringMachine", *BASELINES])
@pytest.mark.parametrize("pool", ["mean", "flat"])
def test_every_memory_streams_as_it_sees_the_whole(memory: str, pool: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = TINY if memory == "TokenTuringMachine" else {"width": 16}
    model = ActivityModel(memory, options, ["a", "b", "c"], [2, 12], samples=2, sees="both", pool=pool, skip=pool == "flat")
    if model.skip is not None:
        torch.nn.init.normal_(model.skip.weight)
    model.eval()
    model.normalise_by(np.full(12, 0.3, np.float32), np.full(12, 2.0, np.float32))
    features = torch.randn(3, 7, 2, 12)
    whole, _ = model(features)
    assert whole.shape == (3, 7, 3)
    state, steps = model.initial_state(3), []
    for at in range(7):
        scores, state = model.step(features[:, at], state)
        steps.append(scores)
    assert torch.allclose(torch.stack(steps, 1), whole, atol=1e-5)
    tt.save(model, tmp_path / "m")
    again = tt.load(tmp_path / "m")
    assert torch.equal(again(features)[0], whole), "with mean and deviation"
    assert not torch.allclose(model(features + 1)[0], whole, atol=1e-3), "the control"


def test_mean_and_deviation_are_those_of_the_training_streams(task: Activity) -> None:
    model = task.build()
    trained = np.concatenate([one.features for one in task.parts.train])
    assert np.allclose(model.mean, trained.mean((0, 1)), atol=1e-5)
    assert np.allclose(model.deviation, trained.std((0, 1)), atol=1e-5)
    every = np.concatenate([one.features for one in task.streams.streams])
    assert not np.allclose(model.mean, every.mean((0, 1)), atol=1e-5), "the control"


def test_wrong_options_of_the_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"model.options.wdth is not known.*width"):
        salads(tmp_path / "s", model={"options": {"wdth": 3}})
    with pytest.raises(OptionError, match="expected one of 'linear'"):
        salads(tmp_path / "s", model={"embed": "conv"})


# --- losses


def logits_like(truth: torch.Tensor) -> Any:
    """A model that gives these logits."""

    class Knows(torch.nn.Module):
        def forward(self, inputs: Any, state: Any, reset: Any, terms: Any) -> Any:
            return truth, None

    return Knows()


@pytest.mark.parametrize("last", [0, 1, 3])
def test_only_steps_that_count_are_learned_from(last: int, tmp_path: Path) -> None:
    task = salads(tmp_path / "s", data={"last": last})
    batch = next(task.batches("train", range(3), 5, task.build()))
    known = batch.targets.known.clone()
    known[0, 4] = False
    batch = Batch(batch.inputs, batch.targets._replace(known=known), batch.reset)
    logits = torch.randn(3, 5, 3, requires_grad=True)
    found, _ = task.losses(logits_like(logits), batch, None)
    found["loss"].backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(-1) > 0
    expected = known.clone()
    if last:
        expected[:, :-last] = False
    assert torch.equal(moved, expected)
    by_hand = torch.nn.functional.cross_entropy(logits[expected], batch.targets.labels[expected])
    assert torch.allclose(found["loss"], by_hand)


def test_several_at_once_cost_each_by_itself_or_by_shares(tmp_path: Path) -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    labels = torch.tensor([[1.0, 0.0, 1.0]])
    task = salads(tmp_path / "s")
    by_hand = -(logits[0, 0].sigmoid().log() + (-logits[0, 1]).sigmoid().log() + logits[0, 2].sigmoid().log()) / 3
    assert torch.allclose(task._cost(logits, labels), by_hand)
    shares = salads(tmp_path / "s", loss={"several": "shares"})._cost(logits, labels)
    assert torch.allclose(shares, -(logits.log_softmax(-1)[0, [0, 2]].sum()) / 2)


# --- figures


def test_resampled_precisions_are_those_of_the_metrics() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.random((30, 4)).round(1) for _ in range(3)]
    truths = [rng.random((30, 4)) < 0.3 for _ in range(3)]
    truths = [part & np.array([True, True, True, False]) for part in truths]  # one class never goes on
    ours = Precisions(scores, truths, ignored=(1,))
    for times in ([1, 1, 1], [2, 0, 1], [0, 3, 0]):
        drawn = np.repeat(np.arange(3), times)
        joined, truth = np.concatenate([scores[i] for i in drawn]), np.concatenate([truths[i] for i in drawn])
        kept = [0, 2, 3]
        expected = np.nanmean(average_precisions(joined, truth)[kept])
        assert ours.mean(np.array(times)) == pytest.approx(expected)
        assert ours.calibrated(np.array(times)) == pytest.approx(np.nanmean(calibrated_average_precisions(joined, truth)[kept]))


def test_figures_of_one_who_knows_and_one_who_guesses() -> None:
    rng = np.random.default_rng(0)
    labels = [np.repeat(rng.permutation(4), 10) for _ in range(6)]
    knows = [Watched(np.eye(4)[one], one) for one in labels]
    guesses = [Watched(rng.random((40, 4)), one) for one in labels]
    of_knowing = {one.kind: one for one in figures(knows, 0.5, resamples=50)}
    assert {kind: one.value for kind, one in of_knowing.items()} == {
        **dict.fromkeys(["frame accuracy", "mAP", "calibrated mAP", "edit", "F1@10", "F1@25", "F1@50", "segments recognised"], 1),
        "median latency (s)": 0.0,
    }
    of_guessing = {one.kind: one for one in figures(guesses, 0.5, resamples=50)}
    assert of_guessing["frame accuracy"].low < of_guessing["frame accuracy"].value < of_guessing["frame accuracy"].high
    assert of_guessing["frame accuracy"].high < 0.4
    assert of_guessing["median latency (s)"].value > 0
    several = [Watched(one.scores, np.eye(4, dtype=bool)[one.labels]) for one in knows]
    assert [one.kind for one in figures(several, 0.5)] == ["mAP", "calibrated mAP", "mAP of 25 frames a stream"]


def test_resampled_segments_are_those_of_the_metrics() -> None:
    rng = np.random.default_rng(0)
    labels = [np.repeat(rng.integers(0, 4, 6), 8) for _ in range(3)]
    watched = [Watched(0.8 * np.eye(4)[one] + rng.random((48, 4)), one) for one in labels]
    ours = measures(watched, 0.5, background=(0,))
    for times in ([1, 1, 1], [2, 0, 1], [0, 3, 0]):
        drawn = np.repeat(np.arange(3), times).tolist()
        predicted, truth = [watched[i].scores.argmax(-1) for i in drawn], [labels[i] for i in drawn]
        found = detection_latency(predicted, truth, (0,))
        assert ours["F1@25"](np.array(times)) == pytest.approx(segmental_f1(predicted, truth, 0.25, (0,)))
        assert ours["segments recognised"](np.array(times)) == pytest.approx(found.recognised)
        assert ours["median latency (s)"](np.array(times)) == pytest.approx(found.median / 2)


def test_streams_are_watched_the_same_by_model_and_runtime_whatever_their_order(task: Activity) -> None:
    model = task.build().eval()
    streams = task.streams.streams
    watched, backwards = watch(model, streams, False), watch(model, streams[::-1], False)[::-1]
    by_runtime = watch(eager(model), streams, False)
    for one, other, third, stream in zip(watched, backwards, by_runtime, streams, strict=True):
        assert np.allclose(one.scores, other.scores, atol=1e-6)
        assert np.allclose(one.scores, third.scores, atol=1e-5)
        alone, _ = model(torch.from_numpy(stream.features)[None])
        assert np.allclose(one.scores, alone[0].softmax(-1).detach(), atol=1e-5)
    half = watch(model, [s.__class__(**{**vars(s), "known": np.arange(len(s.labels)) % 2 == 0}) for s in streams[:1]], False)[0]
    assert np.allclose(half.scores, watched[0].scores[::2], atol=1e-6), "unknown steps are watched and not judged"


# --- end to end


def write_recipe(folder: Path, data: str, task: str) -> Path:
    recipe = folder / "r.toml"
    options = "\n".join(f"{key} = {value}" for key, value in TINY.items())
    recipe.write_text(
        f'task = "{task}"\n[model.options]\n{options}\n[data]\npath = {json.dumps(data)}\nlast = 2\ndraw = "window"\n[train]\n'
        'updates = 30\nrows = 8\nsteps = 6\nrate = 1e-2\nwarmup = 2\nevaluate_every = 10\nkeep = "best"\n'
    )
    return recipe


@pytest.mark.parametrize("name", ["activity_50salads", "activity_watch"])
def test_training_and_evaluating_by_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = npz_folder(tmp_path / "d") if name == "activity_50salads" else watch_file(tmp_path / "d" / "w.npy")
    recipe, run = write_recipe(tmp_path, str(data), name), tmp_path / "run"
    main(["train", str(recipe), "--out", str(run)])
    main(["evaluate", str(run), "--json", str(tmp_path / "f.json"), "--resamples", "20"])
    found = {row["kind"]: row for row in json.loads((tmp_path / "f.json").read_text())}
    assert found["frame accuracy"]["value"] > 0.6, "chance is 0.33"
    model = tt.load(run / "model")
    streams = model.notes["streams"]
    assert streams["test"] == [one.name for one in task_of(model).parts.test]
    assert set(streams["test"]).isdisjoint(streams["train"] + streams["validation"])
    moved = data.rename(data.with_name("moved.npy"))
    main(["evaluate", str(run), "--path", str(moved), "--split", "validation", "--resamples", "0"])
    assert "frame accuracy" in capsys.readouterr().out


def test_data_of_another_kind_are_refused(tmp_path: Path) -> None:
    task = salads(tmp_path / "a")
    model, about = task.build(), task.notes()["activity"]
    model.notes = {"activity": about}
    other = npz_folder(tmp_path / "b", features=about["features"][1] + 2)
    expected = (
        rf"the data have features \[1, {about['features'][1] + 2}\] a step, and m was trained on \[1, {about['features'][1]}\]"
    )
    with pytest.raises(OptionError, match=expected):
        task.evaluate({"m": model}, {"path": str(other), "split": "validation"})
    about["classes"] = [*about["classes"][:-1], "dance"]
    with pytest.raises(OptionError, match=r"m was trained on \d+ others \(differing in .*dance"):
        task.evaluate({"m": model}, {"split": "validation"})


def test_a_model_of_no_fold_has_no_test(tmp_path: Path) -> None:
    task = salads(tmp_path / "s", data={"fold": -1, "validation": 0.0})
    model = task.build()
    assert "frame accuracy in training" in task.validate(model)
    with pytest.raises(OptionError, match=r"data.fold=-1 leaves no stream for split='test'"):
        task.evaluate({"m": model}, {})
    assert task.folds() == ["data.fold=0", "data.fold=1", "data.fold=2"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/activity-*.toml")), ids=lambda path: path.stem)
def test_recipes_build_their_models(path: Path) -> None:
    options = load_recipe(path).options
    model = ActivityModel(options.model.memory, options.model.options, ["a", "b"], [2, 60], embed=options.model.embed)
    assert model(torch.randn(1, 3, 2, 60))[0].shape == (1, 3, 2)


def test_an_export_names_what_the_model_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ActivityModel("MiniRoad", {"width": 16}, ["a", "b", "c"], [2, 12], samples=2, sees="both").eval()
    model.normalise_by(np.zeros(12, np.float32), np.full(12, 3.0, np.float32))
    tt.save(model, tmp_path / "m")
    main(["export", str(tmp_path / "m"), "--out", str(tmp_path / "e")])
    exported, features = tt.runtime.load(tmp_path / "e"), np.random.default_rng(0).normal(size=(3, 5, 2, 12)).astype(np.float32)
    state, found = exported.initial_state(3), []
    for at in range(5):
        scores, state = exported.step(features[:, at], state)
        found.append(scores)
    assert np.allclose(np.stack(found, 1), model(torch.from_numpy(features))[0].detach(), atol=1e-4)
