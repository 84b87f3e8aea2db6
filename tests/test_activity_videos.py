"""Features with annotations, and arrays by frame, as people have them: what is missing or odd is counted, and said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from activity_files import framewise_folder
from safetensors.numpy import save_file

from tokenturing.errors import CheckpointError, OptionError
from tokenturing.options import build
from tokenturing.registry import find_task
from tokenturing.tasks.activity.folders import Framewise, framewise_streams
from tokenturing.tasks.activity.judge import figures, watch
from tokenturing.tasks.activity.task import Activity
from tokenturing.tasks.activity.videos import Annotated, annotated_streams, read_features

ABOUT = {"encoder": "tiny", "hash": "abc", "rate": "2.0", "grid": "1"}
TINY = {"width": 8, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 8}


def features(folder: Path, name: str, steps: int = 20, about: dict[str, str] = ABOUT) -> None:
    """As `tokenturing features` writes them, two steps a second."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(len(name)).normal(size=(steps, 1, 6)).astype(np.float32)
    save_file({"features": drawn, "times": (1 + np.arange(steps)) / 2}, folder / f"{name}.safetensors", about)


def charades(file: Path, videos: dict[str, str]) -> str:
    rows = [f'{name},10.0,"{actions}"' for name, actions in videos.items()]
    file.write_text("\n".join(["id,length,actions", *rows]) + "\n")
    return str(file)


# --- features with times


def test_steps_have_the_activities_of_their_times(tmp_path: Path) -> None:
    features(tmp_path / "f", "A")
    train = charades(tmp_path / "train.csv", {"A": "c002 1.0 3.0;c005 2.5 4.0"})
    streams = annotated_streams(Annotated(str(tmp_path / "f"), train, charades(tmp_path / "t.csv", {"B": ""})))
    (one,) = streams.streams
    assert one.labels.shape == (20, 157)
    assert (one.times[one.labels[:, 2]] == [1.0, 1.5, 2.0, 2.5]).all()
    assert (one.times[one.labels[:, 5]] == [2.5, 3.0, 3.5]).all()
    assert one.labels.sum() == 7
    assert streams.source == {"encoder": "tiny", "hash": "abc", "rate": 2.0, "grid": 1}
    assert streams.multi_label
    assert one.group == "train"


def test_a_number_that_is_none_is_told_with_its_step(tmp_path: Path) -> None:
    drawn = np.zeros((6, 1, 3), np.float32)
    drawn[2, 0, 1] = drawn[4, 0, 0] = np.nan
    save_file({"features": drawn, "times": (1 + np.arange(6)) / 2}, tmp_path / "a.safetensors", ABOUT)
    with pytest.raises(
        CheckpointError, match=r"a.safetensors holds features that are not finite in 2 of 6 steps \(first in step 2\)"
    ):
        read_features(tmp_path / "a.safetensors")


def test_the_ending_of_a_json_may_be_in_capitals(tmp_path: Path) -> None:
    content = {"database": {}}
    for name, subset in {"A": "training", "B": "validation"}.items():
        features(tmp_path / "f", name)
        content["database"][name] = {"subset": subset, "annotations": [{"label": "run", "segment": [0, 2]}]}
    (tmp_path / "A.JSON").write_text(json.dumps(content))
    streams = annotated_streams(Annotated(str(tmp_path / "f"), str(tmp_path / "A.JSON"), ""))
    assert streams.classes == ["run"]


def test_what_is_missing_or_odd_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    for name in ("A", "B", "T", "left"):
        features(folder, name)
    (folder / "bad.safetensors").write_bytes(b"nothing")
    features(folder, "none", steps=0)
    train = charades(
        tmp_path / "train.csv", {"A": "c001 0 5;c001 9 30;c002 4 4", "B": "", "bad": "c001 1 2", "none": "", "gone": ""}
    )
    test = charades(tmp_path / "test.csv", {"T": "c003 1 x"})
    streams = annotated_streams(Annotated(str(folder), train, test))
    assert [(one.name, one.group) for one in streams.streams] == [("A", "train"), ("B", "train"), ("T", "test")]
    said = "\n".join(streams.problems)
    for expected in (
        "train: 1 spans past the video, cut (such as A: c001 from 9 to 30 s, of 10 s)",
        "train: 1 empty or backward spans, left out",
        "train: 1 annotated videos that are missing (such as gone)",
        "train: 1 files that cannot be read, left out",
        "train: 1 videos without a step, left out (such as none)",
        "test: 1 actions that cannot be read, left out",
        "1 videos without annotations, left out (such as left)",
    ):
        assert expected in said
    assert len(streams.problems) == 7


def test_features_of_two_encoders_do_not_mix(tmp_path: Path) -> None:
    features(tmp_path / "f", "A")
    features(tmp_path / "f", "B", about=ABOUT | {"hash": "other"})
    with pytest.raises(OptionError, match="expected one way for all"):
        annotated_streams(Annotated(str(tmp_path / "f"), charades(tmp_path / "a.csv", {"A": "", "B": ""}), ""))


def test_one_file_of_annotations_is_cut_into_parts(tmp_path: Path) -> None:
    names = [f"v{number}" for number in range(11)]
    for name in names:
        features(tmp_path / "f", name)
    given = Annotated(str(tmp_path / "f"), charades(tmp_path / "a.csv", dict.fromkeys(names, "c001 1 4")), "")
    streams = annotated_streams(given)
    assert streams.groups == [f"part{number}" for number in range(1, 6)]
    sizes = [sum(one.group == group for one in streams.streams) for group in streams.groups]
    assert sizes == [3, 2, 3, 1, 2]
    again = annotated_streams(given)
    assert [(one.name, one.group) for one in again.streams] == [(one.name, one.group) for one in streams.streams]


def test_activitynet_says_what_is_for_the_test(tmp_path: Path) -> None:
    for name in ("A", "B"):
        features(tmp_path / "f", name)
    database = {
        "A": {"duration": 10, "subset": "training", "annotations": [{"segment": [1, 2], "label": "run"}]},
        "B": {"duration": 10, "subset": "validation", "annotations": [{"segment": [3, 4], "label": "jump"}]},
    }
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    streams = annotated_streams(Annotated(str(tmp_path / "f"), str(tmp_path / "a.json"), ""))
    assert streams.classes == ["jump", "run"]
    assert [(one.group, one.labels.sum(0).tolist()) for one in streams.streams] == [("train", [0, 2]), ("test", [2, 0])]


# --- arrays by frame


def given(folder: Path, **changes: object) -> Framewise:
    every = Framewise(str(folder), ("flow_x", "rgb_x"), "target_perframe", True, 4.0, "^video_(validation|test)", "")
    return every._replace(**changes)


def test_arrays_by_frame_side_by_side(tmp_path: Path) -> None:
    folder = framewise_folder(tmp_path / "d", 4)
    (folder / "flow_x" / "video_validation_0000001.npy").unlink()
    streams = framewise_streams(given(folder))
    assert streams.groups == ["test", "validation"]
    one = streams.streams[0]
    assert one.features.shape == (23, 1, 7)
    assert one.labels.shape == (23, 21), "the ambiguous class is none"
    assert one.known.tolist() == [True] * 22 + [False]
    assert streams.background == (0,)
    assert sorted(streams.problems) == [
        "1 videos without features, left out",
        "3 videos whose arrays differ in length, cut to the shortest",
    ]
    every = framewise_streams(given(folder, ambiguous=False)).streams[0]
    assert every.labels.shape == (23, 22)
    assert every.known.all()


def test_lists_in_place_of_a_pattern(tmp_path: Path) -> None:
    folder, lists = framewise_folder(tmp_path / "d", 4), tmp_path / "list.json"
    content = {"train_session_set": ["video_validation_0000000", "gone"], "test_session_set": ["video_validation_0000002"]}
    lists.write_text(json.dumps({"THUMOS": {**content, "class_index": [f"class{number}" for number in range(22)]}}))
    streams = framewise_streams(given(folder, lists=str(lists)))
    assert [one.group for one in streams.streams] == ["train", "test"]
    assert streams.classes == [f"class{number}" for number in range(21)]
    assert sum("listed videos that are missing" in line for line in streams.problems) == 1
    assert any("2 videos in no list" in line for line in streams.problems)
    lists.write_text('{"THUMOS": {"train": []}}')
    with pytest.raises(OptionError, match="train_session_set"):
        framewise_streams(given(folder, lists=str(lists)))


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = framewise_folder(tmp_path / "d", 4)
    file = folder / "rgb_x" / "video_validation_0000000.npy"
    for content, said in ((np.ones((24, 5)), "differ"), (np.ones(24), r"expected \[T, F\]"), (np.array([{}]), "cannot be read")):
        np.save(file, content)
        with pytest.raises(OptionError, match=said):
            framewise_streams(given(folder))


# --- the tasks


def make(name: str, content: dict[str, object]) -> Activity:
    task = find_task(name)
    return task(build(task.Config(), {"data": content, "model": {"options": TINY}, "loss": {"several": "shares"}}))


def test_online_detection_learns_and_leaves_the_background_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = make("activity_thumos", {"path": str(framewise_folder(tmp_path / "d")), "draw": "window", "last": 4})
    assert [one.group for one in task.parts.test] == ["test", "test"]
    model = task.build()
    batches = task.batches("train", range(8), 12, model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    untrained = task.validate(model)
    for _ in range(40):
        found, _ = task.losses(model, next(batches), None)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert task.validate(model.eval())["mAP"] > max(0.8, untrained["mAP"])
    scores = watch(model, task.parts.test, task.sigmoid)
    assert np.allclose(scores[0].scores.sum(-1), 1, atol=1e-5), "shares of one"
    found = task.evaluate({"m": model}, {"resamples": "10"})["m"]
    kinds = [one.kind for one in found]
    assert kinds[:3] == ["mAP", "calibrated mAP", "mAP of 25 frames a stream"]
    assert "median latency (s)" in kinds
    ahead = [one._replace(scores=one.scores + 9 * np.eye(21)[0]) for one in scores]
    assert figures(ahead, 0.25, (0,))[0].value == pytest.approx(found[0].value), "whatever the background's scores"


def test_charades_is_scored_by_its_own_frames_too(tmp_path: Path) -> None:
    names = [f"v{number}" for number in range(6)]
    for name in names:
        features(tmp_path / "f", name, steps=30)
    csv = charades(tmp_path / "a.csv", dict.fromkeys(names, "c001 1 4;c004 3 8"))
    task = make("activity_charades", {"path": str(tmp_path / "f"), "annotations": csv})
    assert task.folds() == [f"data.fold={fold}" for fold in range(5)]
    model = task.build()
    assert model.config["source"]["encoder"] == "tiny"
    found = task.evaluate({"m": model}, {"resamples": "5"})["m"]
    assert [one.kind for one in found] == ["mAP", "calibrated mAP", "mAP of 25 frames a stream"]
    batch = next(task.batches("train", range(2), 8, model))
    assert batch.targets.labels.shape == (2, 8, 157)
    assert batch.targets.labels.dtype == torch.float32
    for missing in ({"annotations": csv}, {"path": str(tmp_path / "f")}, {"path": str(tmp_path), "annotations": csv}):
        with pytest.raises(OptionError, match="expected"):
            make("activity_charades", missing).build()
