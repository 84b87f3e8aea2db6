"""Recordings in files become the steps that a model takes, whatever their rate, names and holes; and are labelled."""

import itertools
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from activity_files import npz_folder, small, watch_content

import tokenturing as tt
from tokenturing.cli.main import main
from tokenturing.errors import OptionError
from tokenturing.options import build
from tokenturing.registry import find_task
from tokenturing.tasks.activity.annotations import read_npz
from tokenturing.tasks.activity.recording import segments_of, steps_of
from tokenturing.tasks.activity.sensors import CHANNELS, as_steps
from tokenturing.tasks.contract import Segment
from tokenturing.train.loop import train
from tokenturing.train.recipe import parse_recipe

SOURCE = {"rate": 50.0, "channels": list(CHANNELS)}
ABOUT: dict[str, Any] = {"features": [1, 150], "samples": 25, "seconds": 0.5, "source": SOURCE}


def movement(times: np.ndarray) -> np.ndarray:
    return np.sin(times[:, None] * np.arange(1, 7))


def write_csv(file: Path, samples: np.ndarray, head: str, columns: list[np.ndarray] | None = None) -> Path:
    rows = np.column_stack([*(columns or []), samples])
    np.savetxt(file, rows, delimiter=",", header=head, comments="")
    return file


TIMES = np.arange(200) / 50
WHOLE = as_steps(movement(TIMES), 0.5, 1)


def test_a_csv_with_names_without_and_with_times(tmp_path: Path) -> None:
    head = ",".join(CHANNELS)
    for file in (
        write_csv(tmp_path / "a.csv", movement(TIMES), head),
        write_csv(tmp_path / "b.csv", movement(TIMES)[:, ::-1], ",".join(CHANNELS[::-1])),
        write_csv(tmp_path / "c.csv", movement(TIMES), f"time,{head}", [TIMES + 1000]),
        write_csv(tmp_path / "d.csv", movement(TIMES), ",".join(f" {name.upper()}" for name in ("note", *CHANNELS)), [TIMES]),
    ):
        steps, seconds = steps_of(file, ABOUT)
        assert np.allclose(steps, WHOLE, atol=1e-5)
        assert seconds == 0.5
    plain = tmp_path / "e.csv"
    np.savetxt(plain, movement(TIMES), delimiter=",")
    assert np.allclose(steps_of(plain, ABOUT)[0], WHOLE, atol=1e-5)
    wrong = write_csv(tmp_path / "f.csv", movement(TIMES), ",".join(CHANNELS[::-1]))
    assert not np.allclose(steps_of(wrong, ABOUT)[0], WHOLE, atol=0.1), "the control: by their names"


def test_other_rates_are_brought_to_the_models(tmp_path: Path) -> None:
    fast, uneven = np.arange(797) / 200, np.sort(np.random.default_rng(0).uniform(0, 3.98, 900))
    uneven[0], uneven[-1] = 0, 3.98
    np.savez(tmp_path / "a.npz", samples=movement(fast), rate=200)
    np.savez(tmp_path / "b.npz", samples=movement(uneven), times=uneven)
    np.savez(tmp_path / "c.npz", samples=movement(TIMES))
    for name, nearness in (("a", 1e-3), ("b", 0.02), ("c", 1e-5)):
        assert np.allclose(steps_of(tmp_path / f"{name}.npz", ABOUT)[0], WHOLE, atol=nearness)
    np.savez(tmp_path / "d.npz", samples=movement(fast))
    assert len(steps_of(tmp_path / "d.npz", ABOUT)[0]) == 31, "the control: taken for 50 a second"


def test_holes_are_bridged_and_counted(tmp_path: Path) -> None:
    lines = write_csv(tmp_path / "a.csv", movement(TIMES), f"t,{','.join(CHANNELS)}", [TIMES]).read_text().splitlines()
    lines[20] = ",".join([*lines[20].split(",")[:3], "", *lines[20].split(",")[4:]])
    (tmp_path / "b.csv").write_text("\n".join(lines[:100] + lines[175:]) + "\n")
    with pytest.warns(UserWarning, match="bridged") as said:
        steps, _ = steps_of(tmp_path / "b.csv", ABOUT)
    assert [str(one.message).split(": ", 1)[1] for one in said] == [
        "1 of 125 samples lack a number and are bridged",
        "1 gaps of more than 1 s, the longest 1.5 s, are bridged",
    ]
    assert steps.shape == WHOLE.shape
    assert np.allclose(steps[0], WHOLE[0], atol=1e-2)
    assert not np.allclose(steps[5], WHOLE[5], atol=0.1)


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("ax,ay,az\n1,2,3\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bytes.csv").write_bytes(bytes(range(256)))
    write_csv(tmp_path / "back.csv", movement(TIMES), f"t,{','.join(CHANNELS)}", [TIMES[::-1]])
    write_csv(tmp_path / "short.csv", movement(TIMES[:10]), ",".join(CHANNELS))
    np.savez(tmp_path / "shape.npz", samples=np.ones((50, 5)))
    np.savez(tmp_path / "names.npz", x=np.ones((50, 6)))
    np.savez(tmp_path / "pickled.npz", samples=np.array([{}], object))
    (tmp_path / "bytes.npz").write_bytes(b"nothing")
    for name, said in (
        ("names.csv", "no column wx, wy, wz"),
        ("empty.csv", "expected ax, ay"),
        ("bytes.csv", "expected"),
        ("back.csv", "times ascend"),
        ("short.csv", "a step of 0.5 s at least"),
        ("shape.npz", r"expected \[n, 6\]"),
        ("names.npz", "expected samples"),
        ("pickled.npz", "cannot be read"),
        ("bytes.npz", "cannot be read"),
        ("nothing.csv", "there is no file"),
    ):
        with pytest.raises(OptionError, match=said):
            steps_of(tmp_path / name, ABOUT)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (TIMES * 1000, r"100% of its 3980 s would be made up.*\(20 s as a rule\): expected times in seconds"),
        (np.arange(200.0), r"made up.*\(1 s as a rule\)"),
        (np.append(TIMES[:-1], 1e12), "made up"),
        (np.append(TIMES[:-1], np.nan), "1 of 200 times are no numbers"),
    ],
)
def test_times_that_are_no_seconds_are_refused(times: np.ndarray, said: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", movement(TIMES), f"time,{','.join(CHANNELS)}", [times])
    np.savez(tmp_path / "a.npz", samples=movement(TIMES), times=times)
    for name in ("a.csv", "a.npz"):
        with pytest.raises(OptionError, match=said):
            steps_of(tmp_path / name, ABOUT)
    slow = np.arange(0, 4, 0.1)
    np.savez(tmp_path / "slow.npz", samples=movement(slow), times=slow + 7)
    assert len(steps_of(tmp_path / "slow.npz", ABOUT)[0]) == 7, "the control: a fifth of the samples is few, and enough"


def test_columns_that_could_be_any_are_refused(tmp_path: Path) -> None:
    number, samples, head = np.arange(200.0), movement(TIMES), ",".join(CHANNELS)
    write_csv(tmp_path / "numbered.csv", samples, "", [number, TIMES])
    write_csv(tmp_path / "few.csv", samples[:, :5], "")
    write_csv(tmp_path / "twice.csv", samples, f"AX,{head}", [number])
    write_csv(tmp_path / "beside.csv", samples, head, [number])
    for name, said in (
        ("numbered.csv", "8 columns without names: expected ax, .*named in the first row"),
        ("few.csv", "5 columns without names"),
        ("twice.csv", "more than one column ax"),
        ("beside.csv", "row 1 has 7 values for 6 columns"),
    ):
        file = tmp_path / name
        file.write_text(file.read_text().lstrip("\n"))
        with pytest.raises(OptionError, match=said):
            steps_of(file, ABOUT)
    good = write_csv(tmp_path / "GOOD.CSV", samples, "", [TIMES])
    good.write_text(good.read_text().lstrip("\n"))
    assert np.allclose(steps_of(good, ABOUT)[0], WHOLE, atol=1e-5), "the control: times and channels, in that order"


def test_numbers_and_files_that_are_damaged_are_refused(tmp_path: Path) -> None:
    broken = movement(TIMES)
    broken[120, 2] = 1e300
    write_csv(tmp_path / "large.csv", broken, ",".join(CHANNELS))
    np.savez(tmp_path / "rate.npz", samples=movement(TIMES), rate="fifty")
    np.savez(tmp_path / "zero.npz", samples=movement(TIMES), rate=0)
    np.savez(tmp_path / "nan.npz", samples=movement(TIMES), rate=np.nan)
    np.savez(tmp_path / "many.npz", samples=movement(TIMES), rate=np.full(200, 50))
    np.savez(tmp_path / "text.npz", samples=movement(TIMES), times=TIMES.astype(str))
    np.savez(tmp_path / "whole.npz", samples=movement(TIMES), rate=50)
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "bent.npz").write_bytes(content[:400] + b"\xff" * 8 + content[408:])
    np.save(tmp_path / "array.npy", movement(TIMES))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name, said in (
        ("large.csv", r"large\.csv: step 4 of 8 has 1e\+300: expected finite numbers"),
        ("rate.npz", "rate is 'fifty': expected samples a second"),
        ("zero.npz", "rate is 0"),
        ("nan.npz", "rate is nan"),
        ("many.npz", r"rate is \[200\]"),
        ("text.npz", "times are <U.*expected seconds"),
        ("cut.npz", "cannot be read"),
        ("bent.npz", "cannot be read"),
        ("array.npz", "cannot be read"),
    ):
        with pytest.raises(OptionError, match=said):
            steps_of(tmp_path / name, ABOUT)
    for name in ("cut.npz", "array.npz"):
        with pytest.raises(OptionError, match="cannot be read"):
            read_npz(tmp_path / name)
    assert len(steps_of((tmp_path / "whole.npz").rename(tmp_path / "WHOLE.NPZ"), ABOUT)[0]) == 8, "the control"


def test_features_are_taken_as_they_are(tmp_path: Path) -> None:
    about = {"features": [1, 4], "samples": 0, "seconds": 1.0, "source": {}}
    (one, *_) = sorted(npz_folder(tmp_path / "d").glob("*.npz"))
    steps, seconds = steps_of(one, about)
    assert steps.shape == (33, 1, 4)
    assert seconds == 1.0
    with pytest.raises(OptionError, match=r"features \[33, 4\].*expected an .npz with features \[T, 1, 5\]"):
        steps_of(one, about | {"features": [1, 5]})
    features = np.ones((7, 4))
    features[5, 1] = -1e300
    np.savez(tmp_path / "large.npz", features=features)
    with pytest.raises(OptionError, match=r"large\.npz: step 5 of 7 has -1e\+300"):
        steps_of(tmp_path / "large.npz", about)
    np.savez(tmp_path / "large.npz", features=features, labels=np.zeros(7, int))
    with pytest.raises(OptionError, match=r"large\.npz: step 5 of 7 has -1e\+300"):
        read_npz(tmp_path / "large.npz")


def test_segments_of_one_and_of_several() -> None:
    shares = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert list(segments_of(shares, 0.5, ["a", "b"], False)) == [
        Segment(0.0, 1.0, "a", pytest.approx(0.85)),
        Segment(1.0, 1.5, "b", pytest.approx(0.7)),
    ]
    several = np.array([[0.9, 0.6], [0.8, 0.2], [0.3, 0.7]])
    assert [one[:3] for one in segments_of(several, 1.0, ["a", "b"], True)] == [(0, 1, "b"), (0, 2, "a"), (2, 3, "b")]


def test_the_command_line_labels_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = small("activity_watch", tmp_path / "d")
    content["model"] = {"memory": "GRU", "options": {"width": 16}, "sees": "statistics"}
    settings = {"updates": 40, "rows": 8, "steps": 8, "rate": 1e-2, "warmup": 2}
    train(parse_recipe({"task": "activity_watch", "train": settings, **content}), tmp_path / "run")
    watch = watch_content()
    rows = [index for index, who in enumerate(watch["subject"]) if who == 1 and watch["side"][index] == 0]
    np.savez(tmp_path / "r.npz", samples=np.concatenate([watch["X"][index][:120] for index in rows]))
    main(["stream", str(tmp_path / "run"), str(tmp_path / "r.npz"), "--json", str(tmp_path / "s.json")])
    found = json.loads((tmp_path / "s.json").read_text())["segments"]
    assert (found[0]["start"], found[-1]["end"]) == (0, 7.2)
    assert all(one["end"] == other["start"] for one, other in itertools.pairwise(found))
    truth = ["push"] * 6 + ["lift"] * 6 + ["row"] * 6
    said = [one["label"] for one in found for _ in range(round((one["end"] - one["start"]) / 0.4))]
    assert np.mean([one == other for one, other in zip(said, truth, strict=True)]) > 0.6
    assert capsys.readouterr().out.count(" - ") == len(found)
    model = tt.load(tmp_path / "run" / "model")
    task = find_task("activity_watch")
    by_hand = task(build(task.Config(), content)).label(model, tmp_path / "r.npz")
    assert [one.label for one in by_hand] == [one["label"] for one in found]
    jsonl, both = ["--jsonl", str(tmp_path / "x.jsonl")], ["--ask", "1.0 now", "--state", str(tmp_path / "s")]
    for wrong in (jsonl, both, ["--every", "2"], ["--all"], ["--out", "x.mp4"], ["--truth", "t.csv"], ["--drop", "oldest"]):
        with pytest.raises(SystemExit):
            main(["stream", str(tmp_path / "run"), str(tmp_path / "r.npz"), *wrong])
        assert f"{wrong[0]}{', --state' if wrong is both else ''}: {tmp_path}/r.npz is a recording" in capsys.readouterr().err
    (tmp_path / "r.npz").rename(tmp_path / "R.NPZ")
    main(["stream", str(tmp_path / "run"), str(tmp_path / "R.NPZ")])
    assert capsys.readouterr().out.count(" - ") == len(found), "endings are taken in any case"
    for wrong in (["r.mp4", "--json", "x"], ["r.csv"]):
        with pytest.raises(SystemExit):
            main(["stream", str(tmp_path / "run"), str(tmp_path / wrong[0]), *wrong[1:]])


def test_the_shipped_weights_do_what_they_say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On people that they were not trained on."""
    if find_spec("seglearn") is None:
        pytest.skip("seglearn is not installed")
    main(["evaluate", "activity-watch", "--resamples", "0", "--json", str(tmp_path / "found.json")])
    found = {row["kind"]: row["value"] for row in json.loads((tmp_path / "found.json").read_text())}
    noted = {row["kind"]: row["value"] for row in tt.load("activity-watch").notes["figures"]}
    assert found["frame accuracy"] == pytest.approx(noted["frame accuracy"], abs=0.005)
    assert noted["frame accuracy"] > 0.75
