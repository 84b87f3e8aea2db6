"""`tokenturing features`"""

import os
import sys
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError

if TYPE_CHECKING:
    from tokenturing.features.many import Made

BAD = 1
"""exit code where videos could not be read"""


def features(
    videos: Annotated[Positional[tuple[str, ...]], argument("VIDEO")],
    out: Annotated[str, argument("FOLDER")],
    encoder: Annotated[str, argument("NAME", hint=None)] = "efficientnet-lite0",
    rate: Annotated[float, argument("STEPS", hint=None)] = 4.0,
    grid: Annotated[int, argument("N", hint=None)] = 1,
    sound: bool = False,
    jobs: Annotated[int, argument("N", hint="(default: one a core)")] = 0,
    again: bool = False,
    download: bool = False,
) -> None:
    """Make features of videos: what a frozen encoder of pictures makes of each step, to train on and to stream with.

    Of each VIDEO, and of each video in the folders that are named, FOLDER/NAME.safetensors is written, with `features`
    [T, N, F], `times` [T] in seconds and, with --sound, `sound` [T, F2]. What is there already is left, so that the command
    can be interrupted and given again. Videos that cannot be read are left out and listed at the end; the exit code is then 1.

    Encoders: efficientnet-lite0 (ImageNet, 1280 features); timm:NAME and transformers:NAME, any vision model of these
    libraries, or timm:FOLDER and transformers:FOLDER for one that is on this machine.

    Args:
        videos: files, or folders of them.
        out: the folder to write to.
        encoder: what encodes pictures, see above.
        rate: steps a second; each sees the newest picture of its time.
        grid: tokens of a step: 1 for one token, the vector of the whole picture; n for n x n of its parts.
        sound: add the speech embedding of the sound.
        jobs: processes, of one core each.
        again: make files anew that are there and were made otherwise.
        download: fetch weights that are not on this machine.
    """
    from tokenturing.cli.common import Progress
    from tokenturing.extras import require
    from tokenturing.features.extract import view_of
    from tokenturing.features.frozen import Tokens, open_encoder
    from tokenturing.features.many import Made, Settings, find_videos, length_of, make_all, to_make
    from tokenturing.files.places import check_place

    require("media", *(["speech"] if sound else []))
    if jobs < 0:
        raise OptionError(f"--jobs {jobs}: expected 1 or more processes, or 0 for one a core")
    folder = check_place("--out", out, folder=True, filled=True)
    made = Made()
    found = find_videos(videos, made)
    settings = Settings(encoder, rate, grid, sound, download)
    frozen = open_encoder(encoder, download=download)
    view_of(frozen, rate, sound).check()
    tokens, width = Tokens(frozen, grid).shape
    wanted = to_make(found, folder, frozen, settings, again)
    files = {video: folder / f"{video.stem}.safetensors" for video in found}
    made.left += [file for video, file in files.items() if video not in wanted]
    folder.mkdir(parents=True, exist_ok=True)
    if wanted:
        print(f"{len(wanted)} of {len(found)} videos: {tokens} x {width} features, {rate:g} times a second", file=sys.stderr)
        seconds = sum(map(length_of, wanted))
        with Progress("encoding") as progress:

            def report(done: float, count: int) -> None:
                total = max(round(seconds), 1)
                progress.update(min(round(done), total), total, f"{count}/{len(wanted)} videos")

            make_all(wanted, settings._replace(download=False), jobs or _cores(), report, made)
    _tell(made, out)
    if made.bad:
        sys.exit(BAD)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tell(made: "Made", out: str) -> None:
    for video, what in made.odd.items():
        print(f"note: {video}: {what}", file=sys.stderr)
    there = f", {len(made.left)} were there" if made.left else ""
    print(f"{out}: {len(made.written)} written{there}")
    if made.bad:
        print(f"{len(made.bad)} videos could not be read:", file=sys.stderr)
        for video, reason in made.bad.items():
            print(f"  {video}: {reason}", file=sys.stderr)
