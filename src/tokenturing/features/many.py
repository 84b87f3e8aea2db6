"""The features of many videos, in several processes: what is done stays, and what cannot be read is told at the end."""

import multiprocessing
import os
import signal
import stat
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tokenturing.errors import CheckpointError, OptionError, in_words
from tokenturing.features.extract import extract, source_of
from tokenturing.features.file import ENDING, about_features, write_features
from tokenturing.features.frozen import Encoder, open_encoder
from tokenturing.media.source import MediaError
from tokenturing.media.steps import open_media

ENDINGS = tuple(
    f".{name}"
    for name in (
        *("3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "ogv", "ts", "vob"),
        *("webm", "wmv"),
    )
)
"""by which a file in a folder counts as a video"""
POLL_SECONDS = 0.2


class Settings(NamedTuple):
    """How features are made."""

    encoder: str
    rate: float = 4.0
    grid: int = 1
    sound: bool = False
    download: bool = False


@dataclass
class Made:
    """What became of the videos."""

    written: list[Path] = field(default_factory=list)
    left: list[Path] = field(default_factory=list)
    """files that were there already"""
    bad: dict[Path, str] = field(default_factory=dict)
    """videos that could not be read, and why"""
    odd: dict[Path, str] = field(default_factory=dict)
    """videos that could, but for something to know about them"""


def find_videos(places: Iterable[str | Path], made: Made) -> list[Path]:
    """The files that were named and the videos in the folders that were, each once.

    Args:
        places: files and folders.
        made: is told what in the folders cannot be read.

    Raises:
        OptionError: there is none at a place, or two have the same name, so that their features would.
    """
    found: dict[Path, Path] = {}
    for place in map(Path, places):
        if place.is_dir():
            inside = _inside(place, made)
            if not inside:
                why = "".join(f"; {one}: {reason}" for one, reason in list(made.bad.items())[:1])
                raise OptionError(f"there is no video in {place}{why}: expected files that end in {', '.join(ENDINGS)}")
        elif place.is_file():
            inside = [place]
        else:
            raise OptionError(f"there is no file {place}: expected videos, or folders of them")
        found |= {file.resolve(): file for file in inside if file.resolve() not in found}
    if not found:
        raise OptionError("no video was named: expected files, or folders of them")
    names: dict[str, Path] = {}
    for file in found.values():
        other = names.setdefault(file.stem.casefold(), file)
        if other is not file:
            raise OptionError(
                f"{other} and {file} have the same name, and so would their features: rename one, or use two folders"
            )
    return list(found.values())


def _inside(folder: Path, made: Made) -> list[Path]:
    """The videos in a folder and in those in it; what only looks like one, or cannot be looked into, is told."""

    def denied(error: OSError) -> None:
        made.bad[Path(error.filename)] = f"the folder cannot be read ({error.strerror})"

    found = []
    for place, folders, files in os.walk(folder, onerror=denied):
        for file in (Path(place) / name for name in files):
            if file.suffix.lower() not in ENDINGS:
                continue
            try:
                mode = file.stat().st_mode
            except (OSError, RuntimeError) as error:  # a link to nothing or to itself, and what may not be looked at
                made.bad[file] = f"it leads to no file ({getattr(error, 'strerror', error)})"
                continue
            if stat.S_ISREG(mode):
                found.append(file)
            else:
                made.odd[file] = "it is no file, and left out"
        for inner in (Path(place) / name for name in folders):
            if inner.is_symlink():
                made.odd[inner] = "a link to a folder is not followed: name it as well"
    return sorted(found)


def to_make(videos: Sequence[Path], folder: Path, encoder: Encoder, settings: Settings, again: bool) -> dict[Path, Path]:
    """Of the videos those whose features are not there yet, and the files for them.

    Raises:
        OptionError: a file is there that was made otherwise, and it is not to be made `again`.
    """
    wanted = {}
    for video in videos:
        file = folder / f"{video.stem}{ENDING}"
        if not file.exists() or (why := _unlike(file, video, encoder, settings)):
            if file.exists() and not again:
                raise OptionError(f"{file} is there and {why}: name another folder, or add --again to make it anew")
            wanted[video] = file
    return wanted


def _unlike(file: Path, video: Path, encoder: Encoder, settings: Settings) -> str:
    """How a file differs from what would be made; nothing where it does not."""
    try:
        source, about = about_features(file)
    except CheckpointError as error:
        return f"is damaged or foreign ({error})"
    ours = source_of(encoder, settings.rate, settings.grid)._asdict() | {
        "sound": settings.sound,
        "video_size": video.stat().st_size,
    }
    theirs = source._asdict() | {"sound": about.sound != "no", "video_size": about.size}
    differ = [f"{key} {theirs[key]} (and now {ours[key]})" for key in ours if ours[key] != theirs[key]]
    return f"was made otherwise: {', '.join(differ)}" if differ else ""


def length_of(video: Path) -> float:
    """Seconds as the file states them; 0 where it does not, or cannot be opened."""
    try:
        with open_media(video) as media:
            return media.duration or 0.0
    except MediaError:
        return 0.0


def make_all(
    wanted: Mapping[Path, Path], settings: Settings, jobs: int, report: Callable[[float, int], None], made: Made
) -> None:
    """Make the features of all these videos.

    Args:
        wanted: videos, and the file for each.
        settings: how.
        jobs: processes.
        report: called now and then with the seconds of video done and the number of videos.
        made: is told what becomes of each.
    """
    left = dict(wanted)
    if jobs > 1 and len(left) > 1:
        left = _in_processes(left, settings, min(jobs, len(left)), report, made)
        for video in list(left):  # a process died: which of them it died of is found out one by one
            if _in_processes({video: left[video]}, settings, 1, report, made):
                made.bad[video] = "the process that read it died: memory may have run out, or its codec is at fault"
        return
    encoder = open_encoder(settings.encoder, download=settings.download)
    before = 0.0
    for number, (video, file) in enumerate(left.items()):
        seconds = 0.0

        def advanced(at: float, before: float = before, number: int = number) -> None:
            nonlocal seconds
            seconds = at
            report(before + at, number)

        _note(made, video, file, _make(video, file, encoder, settings, advanced))
        before += seconds
        report(before, number + 1)


class Outcome(NamedTuple):
    """Of one video."""

    reason: str = ""
    """why there are no features"""
    odd: str = ""


def _make(video: Path, file: Path, encoder: Encoder, settings: Settings, advanced: Callable[[float], None]) -> Outcome:
    """Make one file; errors of the video's are its outcome, all others are raised."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = extract(video, encoder, rate=settings.rate, grid=settings.grid, sound=settings.sound, advanced=advanced)
        except MediaError as error:
            return Outcome(in_words(error))
        write_features(file, found)
    odd = [str(one.message) for one in warned if video.name in str(one.message)]
    if found.video.sound == "none":
        odd.append("it has no sound")
    return Outcome("", "; ".join(odd))


def _note(made: Made, video: Path, file: Path, outcome: Outcome) -> None:
    if outcome.reason:
        made.bad[video] = outcome.reason
        return
    made.written.append(file)
    if outcome.odd:
        made.odd[video] = outcome.odd


_worker: dict[str, Any] = {}
"""of a process that makes features: its encoder, the count of seconds and the sign to stop"""


class _StoppedError(Exception):
    """The parent was interrupted."""


def _begin(settings: Settings, seconds: Any, stop: Any) -> None:
    """What a process does first: Ctrl-C is the parent's to see."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if settings.encoder.partition(":")[0] in ("timm", "transformers"):
        import torch

        torch.set_num_threads(1)
    encoder = open_encoder(settings.encoder, download=settings.download)
    _worker.update(encoder=encoder, settings=settings, seconds=seconds, stop=stop)


def _make_in_process(video: Path, file: Path) -> Outcome:
    done, counter, stop = 0.0, _worker["seconds"], _worker["stop"]

    def advanced(at: float) -> None:
        nonlocal done
        if stop.is_set():
            raise _StoppedError
        with counter.get_lock():
            counter.value += at - done
        done = at

    return _make(video, file, _worker["encoder"], _worker["settings"], advanced)


def _in_processes(
    wanted: Mapping[Path, Path], settings: Settings, jobs: int, report: Callable[[float, int], None], made: Made
) -> dict[Path, Path]:
    """Make these -> those that were left when a process died."""
    context = multiprocessing.get_context("spawn")  # threads of FFmpeg's and ONNX Runtime's do not survive a fork
    seconds, stop = context.Value("d", 0.0), context.Event()
    left, done = dict(wanted), 0
    with ProcessPoolExecutor(jobs, context, _begin, (settings, seconds, stop)) as pool:
        running: dict[Future[Outcome], Path] = {pool.submit(_make_in_process, *pair): pair[0] for pair in wanted.items()}
        try:
            while running:
                ended, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                for one in ended:
                    video = running.pop(one)
                    _note(made, video, wanted[video], one.result())
                    left.pop(video)
                    done += 1
                report(seconds.value, done)
        except BrokenProcessPool:
            return left
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return left
