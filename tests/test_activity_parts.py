"""Which videos are tested: that depends on the name of each alone, is kept with a run, and nobody is tested who was seen."""

import json
from pathlib import Path

import numpy as np
import pytest
from activity_files import annotated_folder, framewise_folder, npz_folder, watch_file
from safetensors.numpy import load_file, save_file

from tokenturing.cli.main import main
from tokenturing.errors import CheckpointError, OptionError, ShapeError
from tokenturing.tasks.activity.folders import Framewise, framewise_streams, npz_streams
from tokenturing.tasks.activity.judge import figures
from tokenturing.tasks.activity.metrics import charades_map
from tokenturing.tasks.activity.sensors import watch_streams
from tokenturing.tasks.activity.streams import Stream, Streams, filled_folds, split
from tokenturing.tasks.activity.videos import PART_NAMES, Annotated, annotated_streams, parts_of, read_features

ABOUT = {"encoder": "tiny", "hash": "abc", "rate": "2.0", "grid": "1"}
MODEL = "[model.options]\nwidth = 8\nmemory_tokens = 4\nread_tokens = 2\nlayers = 1\nheads = 2\nhidden = 8\n"
TRAIN = "[train]\nupdates = 4\nrows = 2\nsteps = 4\nwarmup = 1\nsave_every = 2\nevaluate_every = 4\n"


def named(count: int, **options: object) -> Streams:
    """Streams of the names v0, v1, ... in the parts of annotated videos."""
    one = np.ones((2, 1, 3), np.float32), np.zeros((2, 1), bool), np.arange(1.0, 3.0), np.ones(2, bool)
    parts, _ = parts_of([f"v{number}" for number in range(count)])
    streams = [Stream(name, part, *one) for name, part in parts.items()]
    return Streams(streams, ["a"], True, parts=PART_NAMES, **{"by_name": True, **options})


def roles(streams: Streams, fold: int = 0) -> dict[str, str]:
    """Name -> what it is for."""
    parts = split(streams, fold, 1, 0.2)
    return {one.name: role for role in parts._fields for one in getattr(parts, role)}


def test_a_video_more_or_less_moves_no_other() -> None:
    whole = roles(named(200))
    counts = {role: list(whole.values()).count(role) for role in ("train", "validation", "test")}
    assert 25 < counts["test"] < 55
    assert 18 < counts["validation"] < 46
    fewer = named(200)
    del fewer.streams[7], fewer.streams[90:93]
    assert roles(fewer).items() <= whole.items()
    assert roles(named(100)).items() <= whole.items()
    by_place = roles(named(200, by_name=False)), roles(named(199, by_name=False))
    assert not by_place[1].items() <= by_place[0].items(), "the control: drawn by their places, they move"


def test_a_part_without_videos_is_no_fold() -> None:
    few = named(3)
    assert filled_folds(few, 1) == [0, 1, 2], "few are dealt out in turn, so that the first fold has one"
    with pytest.raises(OptionError, match=r"data.fold=3 tests nothing.*expected one of 0, 1, 2"):
        split(few, 3, 1, 0.0)
    assert filled_folds(named(5), 1) == filled_folds(named(200), 1) == [0, 1, 2, 3, 4]


def test_the_subjects_of_the_watch_are_where_they_were(tmp_path: Path) -> None:
    parts = split(watch_streams(0.4, 2, 0, watch_file(tmp_path / "w.npy", subjects=10)), 0, 2, 0.15)
    assert [[one.name.removeprefix("subject") for one in part] for part in parts] == [
        ["3", "4", "5", "6", "7", "8", "9"],
        ["10"],
        ["1", "2"],
    ]


# --- a run and its data


def recipe(folder: Path, task: str, **data: str) -> Path:
    file = folder / "small.toml"
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in data.items())
    file.write_text(f'task = "{task}"\n{MODEL}[data]\n{lines}{TRAIN}')
    return file


def add_video(data: dict[str, str]) -> None:
    """v6 more, with its annotation."""
    arrays = {"features": np.ones((30, 1, 5), np.float32), "times": (1 + np.arange(30)) / 2}
    save_file(arrays, Path(data["path"]) / "v6.safetensors", ABOUT)
    with Path(data["annotations"]).open("a") as file:
        file.write("v6,c001 1.0 4.0\n")


def test_a_run_goes_on_with_its_data_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = annotated_folder(tmp_path / "d")
    command = ["train", str(recipe(tmp_path, "activity_charades", **data)), "--out", str(tmp_path / "run")]
    main(command)
    main([*command, "--set", "train.updates=6"])  # the control: more updates of the same
    csv = Path(data["annotations"])
    before = csv.read_text()
    csv.write_text(before.replace("v2,c001 1.0", "v2,c001 2.0"))
    with pytest.raises(SystemExit):
        main([*command, "--set", "train.updates=8"])
    assert "other data: 1 changed (such as v2: part" in " ".join(capsys.readouterr().err.split())
    csv.write_text(before)
    add_video(data)
    with pytest.raises(SystemExit):
        main([*command, "--set", "train.updates=8"])
    assert "other data: 1 new (v6)" in " ".join(capsys.readouterr().err.split())
    main(["evaluate", str(tmp_path / "run"), "--resamples", "0"])  # one more video makes no trained one a test


def test_folds_of_other_data_make_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = annotated_folder(tmp_path / "d")
    command = ["crossvalidate", str(recipe(tmp_path, "activity_charades", **data)), "--out", str(tmp_path / "out")]
    main([*command, "--folds", "1"])
    main([*command, "--folds", "1"])
    add_video(data)
    with pytest.raises(SystemExit):
        main([*command, "--folds", "1,2"])
    assert "other data: 1 new (v6)" in " ".join(capsys.readouterr().err.split())


def test_nobody_is_tested_who_was_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = npz_folder(tmp_path / "d", splits=2)
    main(["train", str(recipe(tmp_path, "activity_50salads", path=str(folder), groups="")), "--out", str(tmp_path / "run")])
    main(["evaluate", str(tmp_path / "run"), "--resamples", "0"])
    (folder / "split1_video01.npz").unlink()  # a group a file: what was the second fold is the first now
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "run"), "--resamples", "0"])
    said = " ".join(capsys.readouterr().err.split())
    assert "trained on 1 of the 1 streams of split='test' (split1_video02)" in said
    main(["evaluate", str(tmp_path / "run"), "--resamples", "0", "--split", "train"])


def test_a_failed_training_leaves_no_folder(tmp_path: Path) -> None:
    path = recipe(tmp_path, "activity_50salads", path=str(tmp_path / "nothing"))
    with pytest.raises(SystemExit):
        main(["train", str(path), "--out", str(tmp_path / "runs" / "mine")])
    assert not (tmp_path / "runs" / "mine").exists()
    (tmp_path / "kept").mkdir()
    with pytest.raises(SystemExit):
        main(["train", str(path), "--out", str(tmp_path / "kept")])
    assert (tmp_path / "kept").is_dir(), "it was there before"


# --- what is refused or left out


def test_no_video_is_to_train_on_and_to_test_on(tmp_path: Path) -> None:
    data = annotated_folder(tmp_path / "d")
    other = tmp_path / "other.csv"
    other.write_text("id,actions\nv5,c001 1 2\nv4,c001 1 2\nv9,\n")
    with pytest.raises(OptionError, match=r"2 videos are in .*\(v4, v5\)"):
        annotated_streams(Annotated(**data, test_annotations=str(other)))
    other.write_text("id,actions\nv9,\n")
    assert len(annotated_streams(Annotated(**data, test_annotations=str(other))).streams) == 6
    lists, folder = tmp_path / "lists.json", framewise_folder(tmp_path / "f", 2)
    lists.write_text(json.dumps({"train_session_set": ["a", "b"], "test_session_set": ["b"]}))
    with pytest.raises(OptionError, match=r"1 videos to train on and to test on \(b\)"):
        framewise_streams(Framewise(str(folder), ("rgb_x",), "target_perframe", True, 4.0, "", str(lists)))


def test_times_that_do_not_ascend_are_refused(tmp_path: Path) -> None:
    data = annotated_folder(tmp_path / "d")
    file = Path(data["path"]) / "v0.safetensors"
    arrays = load_file(file)
    read_features(file)
    for times in (arrays["times"][::-1], np.full(30, np.nan), np.ones(30)):
        save_file(arrays | {"times": np.ascontiguousarray(times)}, file, ABOUT)
        with pytest.raises(CheckpointError, match=r"v0.safetensors holds times that do not ascend"):
            read_features(file)
    assert "files that cannot be read" in "".join(annotated_streams(Annotated(**data, test_annotations="")).problems)


def test_features_of_another_width_are_named(tmp_path: Path) -> None:
    data = annotated_folder(tmp_path / "d")
    file = Path(data["path"]) / "v3.safetensors"
    arrays = load_file(file)
    save_file(arrays | {"features": np.ones((30, 1, 4), np.float32)}, file, ABOUT)
    with pytest.raises(OptionError, match=r"v3.safetensors has features \[30, 1, 4\], and .*v0.safetensors \[30, 1, 5\]"):
        annotated_streams(Annotated(**data, test_annotations=""))


def test_a_video_of_which_nothing_is_known_is_left_out(tmp_path: Path) -> None:
    folder = npz_folder(tmp_path / "d", splits=2, videos=2)
    content = dict(np.load(folder / "split1_video01.npz"))
    np.savez(folder / "split1_video01.npz", features=content["features"], labels=np.full(len(content["labels"]), -1))
    streams = npz_streams(str(folder), "^(split[0-9]+)_", 1.0)
    assert [one.name for one in streams.streams] == ["split1_video02", "split2_video01", "split2_video02"]
    assert streams.problems == ["split1_video01: none of 33 steps has a label, left out"]
    arrays = framewise_folder(tmp_path / "f", 3)
    target = np.load(arrays / "target_perframe" / "video_validation_0000000.npy")
    np.save(arrays / "target_perframe" / "video_validation_0000000.npy", np.eye(22)[np.full(len(target), 21)])
    given = Framewise(str(arrays), ("rgb_x",), "target_perframe", True, 4.0, "^video_(validation|test)", "")
    assert len(framewise_streams(given).streams) == 2


def test_spans_past_the_features_are_told(tmp_path: Path) -> None:
    data = annotated_folder(tmp_path / "d")
    Path(data["annotations"]).write_text("id,actions\nv0,c001 1.0 15.4;c002 14.0 16.0\nv1,c001 50 60\n")
    said = "\n".join(annotated_streams(Annotated(**data, test_annotations="")).problems)
    assert "1 spans past the video, cut (such as v0: c002 from 14 to 16 s, of 15.5 s by its features)" in said
    assert "1 spans outside of the video, left out (such as v1: c001 from 50 to 60 s" in said


def test_nothing_has_no_figures() -> None:
    some = np.ones((3, 2)), np.ones((3, 2), bool)
    assert charades_map(*([part] for part in some)) == 1
    for scores, truth in (([], []), ([some[0][:0]], [some[1][:0]]), ([some[0]], [])):
        with pytest.raises(ShapeError, match="expected"):
            charades_map(scores, truth)
    with pytest.raises(ShapeError, match="one stream or more"):
        figures([], 0.25)
