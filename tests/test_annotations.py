"""Annotations as they are found in the wild; what is odd about them is counted, never dropped in silence."""

import json
from pathlib import Path

import numpy as np
import pytest

from tokenturing.errors import OptionError
from tokenturing.tasks.activity.annotations import Span, read_activitynet, read_charades, read_folder, read_npz, to_frames

CHARADES = """id,subject,length,actions
AAAAA,X,30.0,c092 11.90 21.20;c147 0.00 12.60
BBBBB,X,10.0,c001 5.00 5.00;c001 8.00 12.50;c001 1.00 4.00;c001 3.00 6.00
CCCCC,X,10.0,
DDDDD,X,,c999 1.00 2.00;c003 x 2.00;c003 -1.00 2.00
AAAAA,X,30.0,c000 1.00 2.00
"""


def test_charades(tmp_path: Path) -> None:
    file = tmp_path / "charades.csv"
    file.write_text(CHARADES)
    found = read_charades(file)
    assert len(found.classes) == 157
    assert found.videos["AAAAA"] == [Span(11.9, 21.2, 92), Span(0.0, 12.6, 147), Span(1.0, 2.0, 0)]
    assert found.videos["BBBBB"] == [Span(8.0, 10.0, 1), Span(1.0, 4.0, 1), Span(3.0, 6.0, 1)]
    assert found.videos["CCCCC"] == []
    assert found.videos["DDDDD"] == [Span(0.0, 2.0, 3)]
    assert found.problems == {
        "empty or backward spans, left out": 1,
        "spans past the video, cut": 2,
        "spans that overlap another of the same class": 1,
        "actions that cannot be read, left out": 2,
        "videos that are there twice": 1,
    }
    assert found.match(["BBBBB", "EEEEE", "AAAAA"]) == ["BBBBB", "AAAAA"]
    assert found.problems["annotated videos that are missing"] == 2
    assert any("EEEEE" in line for line in found.report())


def test_activitynet(tmp_path: Path) -> None:
    file = tmp_path / "net.json"
    videos = {
        "one": {"duration": 20.0, "subset": "training", "annotations": [{"segment": [1, 5.5], "label": "Diving"}]},
        "two": {
            "subset": "validation",
            "annotations": [{"segment": [0, 2], "label": "Archery"}, {"segment": [3], "label": "Diving"}],
        },
    }
    file.write_text(json.dumps({"database": videos}))
    found = read_activitynet(file)
    assert found.classes == ["Archery", "Diving"]
    assert found.videos == {"one": [Span(1, 5.5, 1)], "two": [Span(0, 2, 0)]}
    assert found.problems == {"segments that cannot be read, left out": 1}
    assert read_activitynet(file, "validation").videos.keys() == {"two"}
    with pytest.raises(OptionError, match="did you mean 'training'"):
        read_activitynet(file, "trainin")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"database": []}', '{"database": {"a": 1}}', "[" * 9999])
def test_what_is_no_annotation(text: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(OptionError, match="not as ActivityNet's"):
        read_activitynet(file)
    with pytest.raises(OptionError, match="expected id and actions"):
        read_charades(file)


def test_spans_by_frame() -> None:
    found = to_frames([Span(0.5, 1.5, 0), Span(1.0, 9.0, 2)], np.array([0.0, 0.5, 1.0, 1.5]), 3)
    assert found.tolist() == [[False] * 3, [True, False, False], [True, False, True], [False, False, True]]


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.zeros((4, 3)), labels=np.array([0, 1, -1, 2]))
    np.savez(tmp_path / "b.npz", features=np.zeros((2, 3), np.float32), labels=np.array([0, 0]))
    found = read_folder(tmp_path)
    assert list(found) == ["a", "b"]
    assert found["a"].features.dtype == np.float32
    assert found["a"].labels.tolist() == [0, 1, -1, 2]


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"features": np.zeros((2, 3))}, "expected features and labels"),
        ({"features": np.zeros(2), "labels": np.zeros(2, int)}, r"expected finite floats \[T, F\]"),
        ({"features": np.full((2, 3), np.nan), "labels": np.zeros(2, int)}, "finite"),
        ({"features": np.zeros((2, 3)), "labels": np.zeros(3, int)}, "for 2 steps"),
        ({"features": np.zeros((2, 3)), "labels": np.full((2, 2), 0.5)}, "expected 0 and 1"),
        ({"features": np.zeros((2, 3)), "labels": np.array([-2, 0])}, "-1 for unknown"),
        ({"features": np.array([object()]), "labels": np.zeros(1, int)}, "cannot be read"),
    ],
)
def test_npz_that_do_not_fit(arrays: dict, match: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(OptionError, match=match):
        read_npz(tmp_path / "a.npz")


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no \.npz"):
        read_folder(tmp_path)
    np.savez(tmp_path / "a.npz", features=np.zeros((4, 3)), labels=np.zeros(4, int))
    np.savez(tmp_path / "b.npz", features=np.zeros((4, 5)), labels=np.zeros(4, int))
    with pytest.raises(OptionError, match="differ"):
        read_folder(tmp_path)


def test_a_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    for head, encoding in (("id,actions", "utf-8-sig"), ("ID,Actions", "utf-8"), ("id, actions", "utf-8")):
        file.write_text(f"{head}\nA,c001 1 2\n\n", encoding=encoding)
        assert read_charades(file).videos == {"A": [Span(1, 2, 1)]}
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"database": {"one": {"annotations": []}}}).encode())
    assert read_activitynet(file).videos == {"one": []}
    for content in ("id,actions\nKüche,c001 1 2\n".encode("latin-1"), "id,actions\n".encode("utf-16")):
        file.write_bytes(content)
        with pytest.raises(OptionError, match=r"a.csv cannot be read .*expected a CSV in UTF-8"):
            read_charades(file)
    file.write_text(f"id,actions\nA,{'c001 1 2;' * 20_000}\n")
    with pytest.raises(OptionError, match="field larger than field limit"):
        read_charades(file)
    file.write_text("id,actions,actions\nA,,c001 1 2\n")
    with pytest.raises(OptionError, match="each once"):
        read_charades(file)


def test_rows_that_are_odd_are_told(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(
        "id,actions,length\nshort\nlong,c001 1 2,5.0,c002 1 2\n,c001 1 2,5.0\nnothing,\nspare,c001 1 2,5.0,,\n"
        "back,c001 1 2,-7.6\nword,c001 1 2,long\nfar,c001 50 60;c001 5 9,7.6\n"
    )
    found = read_charades(file)
    assert found.videos == {
        "nothing": [],
        "spare": [Span(1, 2, 1)],
        "back": [Span(1, 2, 1)],
        "word": [Span(1, 2, 1)],
        "far": [Span(5, 7.6, 1)],
    }
    assert found.durations == {"spare": 5.0, "far": 7.6}
    assert found.problems == {
        "rows with too few columns or too many, left out": 3,
        "lengths that cannot be, not used": 2,
        "spans outside of the video, left out": 1,
        "spans past the video, cut": 1,
    }
