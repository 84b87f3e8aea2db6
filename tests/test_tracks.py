"""Which picture and which sound of a file: turned as the file says, and of the track that it marks."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")

from media_files import default_track, film, turned

from tokenturing.media import opening, places
from tokenturing.media.orientation import UPRIGHT, of_matrix
from tokenturing.media.steps import MediaError, open_media

UPRIGHT_MATRIX = (1, 0, 0, 1)
MATRICES = [
    *((a, 0, 0, d) for a, d in product((1, -1), repeat=2)),
    *((0, b, c, 0) for b, c in product((1, -1), repeat=2)),
]
"""a b c d of the eight orientations"""


def corner(_: int) -> np.ndarray:
    """A picture without symmetries: a bright corner and a grey edge."""
    grey = np.zeros((64, 64), np.uint8)
    grey[:20, :40], grey[40:, :12] = 250, 120
    return grey


@pytest.fixture(scope="module")
def upright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("films") / "up.mp4", 0.4, frame=corner)


def first_frame(path: Path) -> Any:
    with open_media(path) as media:
        return next(iter(media)).frame


@pytest.mark.parametrize("matrix", MATRICES)
def test_pictures_are_turned_as_the_display_matrix_says(upright: Path, tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    a, b, c, d = matrix
    stored = first_frame(upright)
    shown = first_frame(turned(upright, matrix, tmp_path / "turned.mp4"))
    expected = np.zeros_like(stored)
    for row, column in product(range(32), repeat=2):  # by the definition: (p, q) is shown at (a p + c q, b p + d q)
        x, y = a * column + c * row, b * column + d * row
        expected[y % 32 if b + d > 0 else 31 + y, x % 32 if a + c > 0 else 31 + x] = stored[row, column]
    np.testing.assert_array_equal(shown, expected)
    assert (matrix == UPRIGHT_MATRIX) == np.array_equal(shown, stored), "the control: the picture has no symmetry"


def test_half_a_turn_as_ffmpeg_shows_it(tmp_path: Path) -> None:
    path = film(tmp_path / "up.mp4", 0.2, frame=lambda _: np.repeat([[255], [0]], 32, 0).repeat(64, 1).astype(np.uint8))
    frame = first_frame(turned(path, (-1, 0, 0, -1), tmp_path / "turned.mp4"))
    assert frame[:15].max() < 0.1
    assert frame[17:].min() > 0.9


def test_the_middle_of_a_turned_wide_picture(tmp_path: Path) -> None:
    def wide(_: int) -> np.ndarray:
        return np.repeat(np.repeat([[10, 200, 90, 10]], 32, 1), 64, 0).astype(np.uint8)  # 128 x 64, its middle is 200 and 90

    path = film(tmp_path / "wide.mp4", 0.2, frame=wide, size=(128, 64))
    frame = first_frame(turned(path, (0, 1, -1, 0), tmp_path / "turned.mp4"))  # a quarter turn clockwise
    np.testing.assert_allclose(frame[2:14] * 255, 200, atol=12)
    np.testing.assert_allclose(frame[18:30] * 255, 90, atol=12)


@pytest.mark.parametrize(
    "matrix", [np.zeros(9, np.int32), np.array([1, 0, 0, 0, 0, 0, 0, 0, 0], np.int32), np.zeros(4, np.int32)]
)
def test_a_matrix_that_maps_a_side_to_nothing_turns_nothing(matrix: np.ndarray) -> None:
    assert of_matrix(matrix) == UPRIGHT


def pitch(path: Path, **options: Any) -> float:
    """The loudest frequency of a file's sound, in Hz."""
    with open_media(path, **options) as media:
        heard = np.concatenate([step.sound for step in media if step.sound is not None])
    return float(np.abs(np.fft.rfft(heard)).argmax() * 16_000 / len(heard))


def test_the_default_sound_track_is_heard(tmp_path: Path) -> None:
    path = film(tmp_path / "two.mp4", tones=(300.0, 1200.0))
    for number, expected in ((1, 300), (2, 1200)):
        marked = default_track(path, number, tmp_path / f"{number}.mp4")
        assert pitch(marked) == pytest.approx(expected, abs=5)
        assert pitch(marked, audio_track=1) == pytest.approx(300, abs=5)
        assert pitch(marked, audio_track="2") == pytest.approx(1200, abs=5)


def test_a_sound_track_by_its_language(tmp_path: Path) -> None:
    import av

    plain, path = film(tmp_path / "plain.mkv", tones=(300.0, 1200.0)), tmp_path / "two.mkv"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for stream, language in zip(target.streams.audio, ("eng", "deu"), strict=True):
            stream.metadata["language"] = language
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    assert pitch(path, audio_track="deu") == pytest.approx(1200, abs=5)
    with pytest.raises(MediaError, match=r"no sound track 'fra'.*1 \(eng\), 2 \(deu\)"):
        open_media(path, audio_track="fra")


def test_a_sound_track_that_is_not_there(upright: Path) -> None:
    for wanted in (0, 2, "-1", "klingon"):
        with pytest.raises(MediaError, match=r"there is no sound track .*: 1 \(und"):
            open_media(upright, audio_track=wanted)


def test_a_camera_has_no_sound_track(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_camera", lambda number: ("testsrc", "lavfi"))
    with pytest.raises(MediaError, match="has pictures only"):
        open_media("camera", audio_track=1)


def test_a_picture_too_large_to_hold_is_refused(upright: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MOST_PIXELS", 64 * 64)
    open_media(upright).close()
    monkeypatch.setattr(opening, "MOST_PIXELS", 64 * 64 - 1)
    with pytest.raises(MediaError, match="64 x 64 pixels"):
        open_media(upright)
