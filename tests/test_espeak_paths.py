"""The synthesiser's data behind long paths, which espeak itself would cut off."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tokenturing.errors import OptionError
from tokenturing.tasks.recall.voices import synthesis
from tokenturing.tasks.recall.voices.synthesis import LONGEST_PATH, synthesize

loader = pytest.importorskip("espeakng_loader")
pytest.importorskip("scipy")

LENGTHS = (LONGEST_PATH, LONGEST_PATH + 1, 159, 160, 200, 260, 400)


def behind(path: Path, length: int) -> Path:
    """A folder whose path has so many bytes, the data's own name included."""
    name = "espeak-ng-data"
    while (left := length - len(str(path)) - len(name) - 2) > 0:
        path = path / ("ü" + "d" * (min(left, 100) - 2) if left > 2 else "d" * left)
    path.mkdir(parents=True, exist_ok=True)
    return path / name


@pytest.mark.parametrize("length", LENGTHS)
def test_long_paths_give_the_same_sound(
    length: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = synthesize("seven")
    data = behind(tmp_path_factory.getbasetemp(), length)
    data.symlink_to(loader.get_data_path(), target_is_directory=True)
    monkeypatch.setattr(loader, "get_data_path", lambda: str(data))
    np.testing.assert_array_equal(synthesize("seven"), expected)
    data.unlink()


def test_where_links_are_not_allowed_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("privilege")

    data = behind(tmp_path, 300)
    data.mkdir()
    (data / "voices").write_text("of a kind")
    monkeypatch.setattr(Path, "symlink_to", refused)
    with synthesis._short_path(data) as short:
        assert (short / "voices").read_text() == "of a kind"
        assert not short.is_symlink()
    assert not short.exists()


def test_without_a_short_place_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = behind(tmp_path, 300)
    monkeypatch.setattr("tempfile.tempdir", str(data.parent))
    with pytest.raises(OptionError, match="set TMPDIR"), synthesis._short_path(data):
        pass
    shutil.rmtree(data.parent)
