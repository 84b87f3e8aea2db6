"""The tasks, by where their streams come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tokenturing.extras import require
from tokenturing.options import number
from tokenturing.tasks.activity.folders import npz_streams
from tokenturing.tasks.activity.sensors import watch_streams
from tokenturing.tasks.activity.streams import Streams
from tokenturing.tasks.activity.task import Activity, ActivityOptions, DataOptions


@dataclass(frozen=True)
class WatchData(DataOptions):
    """Smartwatch recordings of ten subjects."""

    leave_out: int = number(2, 1)
    step: float = number(0.4, above=0)
    """seconds"""
    tokens: int = number(2, 1, 1000)
    """N, into which the samples of a step are split"""
    order: int = number(0, 0)
    """seed of the order in which a subject's recordings follow each other"""
    path: str = ""
    """a file like that of the package seglearn, in place of it"""


@dataclass(frozen=True)
class WatchOptions(ActivityOptions):
    """The recipe of a model for the watch."""

    data: WatchData = WatchData()


class ActivityWatch(Activity):
    """Which of seven exercises does somebody do who wears a smartwatch? Subjects are left out two by two."""

    Config: ClassVar[type] = WatchOptions

    def load(self, data: WatchData) -> Streams:
        """The recordings inside the package seglearn, or in a file like its own."""
        if not data.path:
            require("activity")
        return watch_streams(data.step, data.tokens, data.order, Path(data.path) if data.path else None)


@dataclass(frozen=True)
class SaladsData(DataOptions):
    """A folder of npz files with features [T, F] and labels [T]."""

    path: str = ""
    """the folder"""
    groups: str = "^(split[0-9]+)_"
    """a pattern whose bracket matches a name's group"""
    rate: float = number(1.0, above=0)
    """steps a second"""


@dataclass(frozen=True)
class SaladsOptions(ActivityOptions):
    """The recipe of a model for a folder of npz files."""

    data: SaladsData = SaladsData()


class Activity50Salads(Activity):
    """Which step of making a salad goes on? Five splits of ten videos."""

    Config: ClassVar[type] = SaladsOptions

    def load(self, data: SaladsData) -> Streams:
        """All npz files of the folder."""
        return npz_streams(data.path, data.groups, data.rate)
