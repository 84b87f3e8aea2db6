"""`tokenturing stream` of a model that says what goes on: labels along time, as a video and as segments."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av")

import av
from command_line import fails
from media_files import film, turned
from PIL import Image, ImageDraw, ImageFont
from video_clips import Means, clips, silent

import tokenturing as tt
from tokenturing.cli import main as cli
from tokenturing.cli.segments import Segments, agreement, read_segments
from tokenturing.errors import OptionError, ShapeError
from tokenturing.features.extract import extract
from tokenturing.features.file import Source
from tokenturing.media.steps import open_media
from tokenturing.models.eager import eager
from tokenturing.tasks.activity import watching
from tokenturing.tasks.activity.annotations import Span, to_frames
from tokenturing.tasks.activity.model import ActivityModel
from tokenturing.tasks.activity.watching import VideoSession
from tokenturing.tasks.contract import Segment
from tokenturing.train.recipe import task_of
from tokenturing.viz.strip import COLOURS, Block, Strip, lanes_of, listed

CLASSES = ["dark", "bright", "other"]
OPTIONS = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 16}


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> Means:
    """Every encoder is this one."""
    encoder = Means()
    monkeypatch.setattr(watching, "open_encoder", lambda *_, **__: encoder)
    monkeypatch.setattr("tokenturing.cli.common.load_runtime", lambda name, _: eager(tt.load(name)))  # an export takes seconds
    watching._opened.cache_clear()
    yield encoder
    watching._opened.cache_clear()


def saved(folder: Path, several: bool = False, **source: Any) -> Path:
    """A model that says "dark" or "bright" by the mean of the features, whatever is in its memory."""
    torch.manual_seed(0)
    made_by = Source("means", Means.hash, 4.0, 2)._asdict() | source
    model = ActivityModel("GRU", {"width": 16}, CLASSES, [4, 3], several, made_by if source != {"rate": 0} else {})
    with torch.no_grad():
        model.mean.fill_(0.35)
        for parameter in model.parameters():
            parameter.mul_(2)
    about = {"classes": CLASSES, "sigmoid": several, "source": model.config["source"]}
    model.notes = {"recipe": {"task": "activity_50salads"}, "activity": about}
    tt.save(model, folder)
    return folder


def switching(path: Path) -> Path:
    """4 s: dark, then bright."""
    return film(path, 4.0, frame=lambda index: np.full((96, 128), 30 if index < 50 else 220, np.uint8), tones=(), size=(128, 96))


def test_a_session_says_what_the_model_says_of_the_features(means: Means, tmp_path: Path) -> None:
    video = clips(tmp_path / "own")["phone"]
    model = tt.load(saved(tmp_path / "model"))
    runtime = eager(model)
    task = task_of(runtime)
    with open_media(video, **task.view(runtime)._asdict()) as media:
        session = task.session(runtime, media)
        shares = []
        for step in media:
            session.take(step)
            shares.append(session.shares)
    features = torch.from_numpy(extract(video, means, rate=4, grid=2).features)
    with torch.no_grad():
        logits, _ = model.eval()(features[None])
        backwards, _ = model(features.flip(0)[None])
    np.testing.assert_allclose(shares, logits[0].softmax(-1).numpy(), atol=1e-5)
    assert np.abs(shares - backwards[0].softmax(-1).numpy()).max() > 1e-4, "the control"
    (answer,) = session.ask("now")
    assert answer.answer == CLASSES[int(shares[-1].argmax())]


def test_a_session_goes_on_where_it_was(means: Means, tmp_path: Path) -> None:
    runtime = eager(tt.load(saved(tmp_path / "model")))
    task = task_of(runtime)
    with open_media(switching(tmp_path / "a.mp4"), **task.view(runtime)._asdict()) as media:
        steps = list(media)
        one, other = task.session(runtime, media), task.session(runtime, media)
        assert one.ask("now") == []
        for step in steps[:6]:
            one.take(step)
        other.restore(one.snapshot())
        fresh = task.session(runtime, media)
        for step in steps[6:9]:
            assert one.take(step) == other.take(step)
            fresh.take(step)
    np.testing.assert_array_equal(one.shares, other.shares)
    assert not np.array_equal(one.shares, fresh.shares), "the control"


def test_a_step_without_finite_scores_is_not_taken(means: Means, tmp_path: Path) -> None:
    runtime = eager(tt.load(saved(tmp_path / "model")))
    with open_media(silent(tmp_path / "a.mp4", 0.4), **watching.view_for(runtime)._asdict()) as media:
        session = task_of(runtime).session(runtime, media)
    features = np.full((4, 3), 0.5, np.float32)
    session.take_features(features)
    before = session.snapshot()
    with pytest.raises(ShapeError, match="not finite"):
        session.take_features(features * np.nan)
    assert all(np.array_equal(part, before[name]) for name, part in session.snapshot().items())
    session.take_features(features)
    assert not all(np.array_equal(part, before[name]) for name, part in session.snapshot().items()), "the control"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"hash": "another"}, "with the hash another, and here that has 0123456789abcdef"),
        ({"grid": 1}, r"the model takes features \[4, 3\]: means makes \[1, 3\]"),
        ({"rate": 0}, "was not trained on (features of )?videos"),
    ],
)
def test_other_encoders_are_refused(source: dict, said: str, means: Means, tmp_path: Path) -> None:
    runtime = eager(tt.load(saved(tmp_path / "model", **source)))
    with (
        pytest.raises(OptionError, match=said),
        open_media(silent(tmp_path / "a.mp4", 0.4), **watching.view_for(runtime)._asdict()) as media,
    ):
        VideoSession(runtime, media)


def test_a_model_that_says_nothing_of_itself_is_refused(means: Means, tmp_path: Path) -> None:
    model = tt.load(saved(tmp_path / "model"))
    del model.notes["activity"]
    with pytest.raises(OptionError, match="does not say what it was trained on"):
        task_of(eager(model)).view(eager(model))


def test_media_that_show_something_else_are_refused(means: Means, tmp_path: Path) -> None:
    runtime = eager(tt.load(saved(tmp_path / "model")))
    with open_media(silent(tmp_path / "a.mp4", 0.4)) as media, pytest.raises(OptionError, match="with the view of the task"):
        VideoSession(runtime, media)


def test_truth_with_labels_of_its_own_is_told(means: Means, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model, truth = saved(tmp_path / "watcher"), tmp_path / "truth.csv"
    truth.write_text("start,end,label\n0,1,dark\n1,2,Bright\n2,3,dim\n")
    cli.main(["stream", str(model), str(switching(tmp_path / "a.mp4")), "--truth", str(truth)])
    assert f"watcher does not know what {truth} calls Bright, dim, and never says it" in capsys.readouterr().err


def test_the_command(means: Means, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model, video = saved(tmp_path / "watcher"), switching(tmp_path / "a.mp4")
    truth = tmp_path / "truth.csv"
    truth.write_text("start,end,label\n0,2,dark\n2,4,bright\n")
    out, report = tmp_path / "new" / "labelled.mp4", tmp_path / "new" / "seg.json"
    cli.main(["stream", str(model), str(video), "--out", str(out), "--truth", str(truth), "--json", str(report)])
    said, told = capsys.readouterr()
    assert "does not know what" not in told
    assert "watcher knows 3 activities: dark, bright, other" in said
    assert "now? " in said
    assert "ms (median) and " in said
    assert "of the 250 ms there are (decode " in said
    assert "what it said was true at " in said
    content = json.loads(report.read_text())
    segments = content["segments"]
    assert segments[0]["start"] == 0
    assert segments[-1]["end"] == 4
    assert all(one["end"] == other["start"] for one, other in pairwise(segments))
    assert {one["label"] for one in segments} <= set(CLASSES)
    assert (content["step_seconds"], content["left_out"]) == (0.25, 0)
    assert {"decode", "encode", "model", "write", "all"} == set(content["milliseconds"])
    assert all(0 < one["median"] <= one["p99"] for one in content["milliseconds"].values())
    assert read_segments(report) == [Segment(one["start"], one["end"], one["label"]) for one in segments]
    with av.open(str(out)) as container:
        pictures = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert [time for time, _ in pictures] == pytest.approx([index / 25 for index in range(100)], abs=1e-3)
    last = pictures[-1][1]
    assert last.shape[1] == 640
    assert last.shape[0] > 480
    rows = 480 + 8 + 26 + 4 + 20, 480 + 8 + 26 + 4 + 30 + 20
    for row, label, seconds in ((rows[1], "dark", 1.5), (rows[1], "bright", 3.5), (rows[0], segments[0]["label"], 0.2)):
        pixel = last[row, 78 + round((640 - 86) * seconds / 4)].astype(int)
        colour = [int(COLOURS[CLASSES.index(label)][index : index + 2], 16) for index in (1, 3, 5)]
        assert np.abs(pixel - colour).max() < 40, (label, pixel, colour)
    first = pictures[10][1]
    assert np.abs(first[rows[0], 500].astype(int) - (0x22, 0x27, 0x2F)).max() < 20, "the control: nothing is known of the future"
    assert first[100:300].mean() < 90 < last[100:300].mean()


def test_the_video_is_upright_and_only_there_when_it_is_whole(
    means: Means, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model, flat = saved(tmp_path / "model"), film(tmp_path / "a.mp4", 0.4, tones=(), size=(64, 32))
    quarter, out = turned(flat, (0, 1, -1, 0), tmp_path / "b.mp4"), tmp_path / "out.mkv"
    cli.main(["stream", str(model), str(quarter), "--out", str(out)])
    with av.open(str(out)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape[0] > 720
    assert picture[300, 40].max() < 60, "beside it there is nothing"
    assert picture[300, 320].min() > 30
    out.unlink()
    broken = tmp_path / "c.mkv"
    content = film(tmp_path / "whole.mkv", 4.0, tones=()).read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    with pytest.raises(SystemExit):
        cli.main(["stream", str(model), str(broken), "--out", str(out)])
    assert "c.mkv breaks off" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir() if "out" in file.name) == []


def test_several_at_once(means: Means, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model, video, report = saved(tmp_path / "model", several=True), switching(tmp_path / "a.mp4"), tmp_path / "seg.json"
    cli.main(["stream", str(model), str(video), "--json", str(report), "--out", str(tmp_path / "a.mov")])
    for one in json.loads(report.read_text())["segments"]:
        assert one["confidence"] > 0.5
    assert (tmp_path / "a.mov").stat().st_size > 1000


def test_what_cannot_be_asked_for(means: Means, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model, video = saved(tmp_path / "model"), silent(tmp_path / "a.mp4", 0.4)
    for arguments, said in (
        (["--out", "a.txt"], "expected a name that ends in .mp4"),
        (["--truth", "nowhere.csv"], "there is no file nowhere.csv"),
        (["--drop", "oldest"], "is a file, of which nothing is left out"),
        (["--out", str(video)], "is the source too"),
        (["--ask", "1 what"], "question='what' is not known: expected one of 'now'"),
    ):
        assert said in fails(capsys, "stream", model, video, *arguments)
    assert "does not label what it watches" in fails(capsys, "stream", "recall-ttm", video, "--json", tmp_path / "a.json")


def test_segments_are_steps_that_follow_each_other() -> None:
    found = Segments(["a", "b"], False, 0.5)
    for start, share in ((0.0, 0.9), (0.5, 0.7), (1.0, 0.2), (1.5, 0.9), (3.0, 0.8)):
        found.add(start, np.array([share, 1 - share]))
    assert found.since(0) == [
        Segment(0.0, 1.0, "a", pytest.approx(0.8)),
        Segment(1.0, 1.5, "b", pytest.approx(0.8)),
        Segment(1.5, 2.0, "a", pytest.approx(0.9)),
        Segment(3.0, 3.5, "a", pytest.approx(0.8)),
    ]
    assert [one.start for one in found.since(1.7)] == [1.5, 3.0]
    several = Segments(["a", "b"], True, 0.5)
    for start, shares in ((0.0, (0.9, 0.6)), (0.5, (0.2, 0.6)), (1.0, (0.2, 0.2))):
        several.add(start, np.array(shares))
    assert several.since(0) == [Segment(0.0, 0.5, "a", 0.9), Segment(0.0, 1.0, "b", 0.6)]


def test_agreement_counts_steps() -> None:
    said = [Segment(0, 2, "a"), Segment(2, 4, "b")]
    assert agreement(said, [Segment(0, 3, "a"), Segment(3, 3.5, "b")], 0.5) == pytest.approx(5 / 6)
    assert agreement(said, [Segment(9, 10, "a")], 0.5) == 0
    assert agreement(said, [Segment(9, 10, "a")], 0.5, until=4) is None


def test_a_step_of_which_nothing_was_said_is_not_true() -> None:
    truth = [Segment(0, 10, "a")]
    assert agreement([Segment(0, 0.25, "a")], truth, 0.25) == pytest.approx(1 / 39)
    assert agreement([Segment(0, 0.25, "a")], truth, 0.25, until=1) == pytest.approx(1 / 4)
    assert agreement([], truth, 0.25) == 0
    both = [Segment(0, 10, "a"), Segment(0, 5, "b")]
    assert agreement(both, truth, 0.25) == pytest.approx((20 / 2 + 19) / 39)
    assert agreement(both, both, 0.25) == pytest.approx((19 + 1 / 2 + 19) / 39), "the step that ends where b does is not b's"


@pytest.mark.parametrize("border", [2.4, 2.25, 2.5, 1.2])
def test_a_model_that_is_right_by_its_training_is_right(border: float) -> None:
    truth, seconds = [Segment(0, border, "a"), Segment(border, 4, "b")], 0.25 if border != 1.2 else 0.4
    ends = (1 + np.arange(round(4 / seconds))) * seconds
    trained = to_frames([Span(one.start, one.end, "ab".index(one.label)) for one in truth], ends, 2)
    found = Segments(["a", "b"], False, seconds)
    for end, shares in zip(ends, trained.astype(float), strict=True):
        found.add(end - seconds, shares)
    assert agreement(found.since(0), truth, seconds, until=4) == 1
    assert agreement(found.since(0), [Segment(0, border + seconds, "a"), Segment(border + seconds, 4, "b")], seconds) < 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "{}",
        '[{"start": 0, "end": 1}]',
        '[{"start": 2, "end": 1, "label": "a"}]',
        '[{"start": 0, "end": "x", "label": "a"}]',
        '[{"start": 0, "end": 1, "label": null}]',
        '{"segments": []}',
    ],
)
def test_wrong_segments_are_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(OptionError, match=r"a\.json.*expected "):
        read_segments(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no segments"),
        (b"start,end,label\n", "holds no segments"),
        (b"start,end,label\n0,1,a\n0\n", "line 3 has no label"),
        (b"start,end,label\n0,1\n", "line 2 has no label"),
        (b"start,end,label\n0,,a\n", "line 2 has end ''"),
        (b"from,to,label\n0,1,a\n", "line 2 has no start"),
        ("start,end,label\n0,1,é\n".encode("latin-1"), "cannot be read .*in UTF-8"),
        ("start,end,label\n0,1,a\n".encode("utf-16"), "cannot be read .*in UTF-8"),
        (b"start,end,label\n0,1," + b"a" * 200_000, "cannot be read .*field larger than"),
    ],
)
def test_wrong_rows_are_told(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(OptionError, match=rf"a\.csv.*{said}"):
        read_segments(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes('\ufeffStart, End,label\n0,1.5,"a\nb"\n'.encode())
    assert read_segments(tmp_path / "a.csv") == [Segment(0, 1.5, "a\nb")], "the control: as a spreadsheet writes it"


def test_a_strip_without_an_end_rolls() -> None:
    strip, picture = Strip(["model"], ["a", "b"], None), np.zeros((90, 640, 3), np.uint8)
    blocks = {"model": [Block(0.0, 40.0, "a"), Block(40.0, 100.0, "b")]}
    early, late = strip.below(picture, 30.0, "a", blocks), strip.below(picture, 100.0, "b", blocks)
    assert early.shape == late.shape
    row, left = 90 + 8 + 26 + 4 + 20, 200
    red, blue = ([int(COLOURS[index][part : part + 2], 16) for part in (1, 3, 5)] for index in (0, 1))
    assert early[row, left].tolist() == red
    assert late[row, left].tolist() == blue


def test_of_more_labels_than_a_row_has_room_for_the_surest_are_shown() -> None:
    blocks = [Block(0, 2, "a", 0.6), Block(1, 3, "b", 0.7), Block(2, 4, "c", 0.9), Block(2, 4, "d", 0.8)]
    assert lanes_of(blocks[:3], 2) == [0, 1, 0]
    assert lanes_of(blocks, 3) == [0, 1, 0, 2]
    assert lanes_of(blocks, 2) == [0, -1, 0, 1]
    names = [f"label {number}" for number in range(30)]
    strip, picture = Strip(["model"], names, 10.0), np.zeros((64, 64, 3), np.uint8)
    many = {"model": [Block(0, 5, name, 0.5 + number / 60) for number, name in enumerate(names)]}
    shown = strip.below(picture, 1.0, names, many)[64 + 8 + 26 + 4 : 64 + 8 + 26 + 30]
    colours = {tuple(pixel) for pixel in shown[:, 200].tolist()}
    surest = [tuple(int(COLOURS[number % 10][part : part + 2], 16) for part in (1, 3, 5)) for number in range(24, 30)]
    assert set(surest) <= colours
    assert len(colours & {tuple(int(one[part : part + 2], 16) for part in (1, 3, 5)) for one in COLOURS}) == 6, "the control"
    beside = strip.below(picture, 1.0, names, {"model": many["model"][:6]})[64 + 8 + 26 + 4 : 64 + 8 + 26 + 30]
    assert not np.array_equal(shown[:, 8:78], beside[:, 8:78]), "it says how many more there are"
    draw, font = ImageDraw.Draw(Image.new("RGB", (640, 30))), ImageFont.load_default(15)
    assert listed(draw, names[:3], font, 600) == "label 0, label 1, label 2"
    line = listed(draw, names, font, 300)
    assert line.startswith("label 0, label 1")
    assert line.endswith(f"and {30 - line.count('label')} more")
    assert draw.textlength(line, font) <= 300
