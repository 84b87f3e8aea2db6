"""Steps for one who is slower than they come: of a live source the late ones are left out, of all others none."""

import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("av")

from media_files import film, piped

from tokenturing.errors import OptionError
from tokenturing.media.feed import LATE_SECONDS, Feed
from tokenturing.media.steps import MediaError, open_media


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("films") / "a.ts", 3.0, tones=())


def test_of_a_live_source_late_steps_are_left_out(recording: Path, tmp_path: Path) -> None:
    with piped(tmp_path, recording.read_bytes()) as path, open_media(path) as media:
        feed, times, began = Feed(media, "oldest"), [], time.monotonic()
        for taken in feed:
            times.append(taken.step.time)
            assert taken.decoding >= 0
            time.sleep(0.25)
        lag = time.monotonic() - began - times[-1]
    with open_media(recording) as media:
        total = [step.time for step in media]
    assert feed.dropped >= 5
    assert len(times) + feed.dropped == len(total)
    assert times == sorted(times)
    assert times[-1] == total[-1], "the newest is never left out"
    assert times[:3] == total[:3], "none before it is late"
    assert lag < LATE_SECONDS + 3


@pytest.mark.parametrize(("drop", "slow"), [("never", 0.06), ("auto", 0.06), ("oldest", 0.0)])
def test_none_is_left_out_otherwise(drop: str, slow: float, recording: Path, tmp_path: Path) -> None:
    with open_media(recording) as media:
        total = [step.time for step in media]
    with piped(tmp_path, recording.read_bytes()) as path, open_media(path) as media:
        feed = Feed(media, drop)
        times = [time.sleep(slow) or taken.step.time for taken in feed]
    assert (times, feed.dropped) == (total, 0)


def test_of_files_none_ever_is(recording: Path) -> None:
    with open_media(recording) as media:
        feed = Feed(media)
        assert not feed.live
        assert len([taken for taken in feed if taken.decoding > 0 and taken.waiting == 0]) == len(list(media))
        with pytest.raises(OptionError, match="is a file, of which nothing is left out"):
            Feed(media, "oldest")
        with pytest.raises(OptionError, match="drop='newest'"):
            Feed(media, "newest")


def test_errors_of_the_thread_are_raised(tmp_path: Path) -> None:
    whole = film(tmp_path / "a.mkv", 5.0, tones=()).read_bytes()
    with (
        piped(tmp_path, whole[: len(whole) // 2]) as path,
        open_media(path) as media,
        pytest.raises(MediaError, match="breaks off at"),
    ):
        list(Feed(media, "oldest"))


def test_who_leaves_early_leaves_nothing_behind(recording: Path, tmp_path: Path) -> None:
    before = threading.active_count()
    with piped(tmp_path, recording.read_bytes()) as path, open_media(path) as media:
        for taken in Feed(media, "oldest"):
            if taken.step.time > 0.5:
                break
    assert threading.active_count() == before


def test_pictures_come_with_their_step(recording: Path, tmp_path: Path) -> None:
    with piped(tmp_path, recording.read_bytes()) as path, open_media(path, rate=4) as media:
        media.keep = True
        found = [(taken.step.time, [begins for begins, _ in taken.passed]) for taken in Feed(media, "oldest")]
    for start, times in found:
        assert all(start - 1e-3 <= begins <= start + 0.25 + 1e-3 for begins in times)
    assert sum(len(times) for _, times in found) == 75
