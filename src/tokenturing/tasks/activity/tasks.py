"""The tasks, by where their streams come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tokenturing.errors import OptionError
from tokenturing.options import number
from tokenturing.tasks.activity.folders import Framewise, framewise_streams, npz_streams
from tokenturing.tasks.activity.sensors import watch_streams
from tokenturing.tasks.activity.streams import Streams
from tokenturing.tasks.activity.task import Activity, ActivityOptions, DataOptions
from tokenturing.tasks.activity.videos import Annotated, annotated_streams


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


@dataclass(frozen=True)
class CharadesData(DataOptions):
    """Features of videos, and a CSV or JSON that says what goes on when."""

    path: str = ""
    """the folder of features that `tokenturing features` made"""
    annotations: str = ""
    """a Charades CSV, or a JSON like ActivityNet's"""
    test_annotations: str = ""
    """the same of the test videos; empty: those that the JSON calls "validation", or in turn each part of a CSV's videos, about a
    fifth by the hash of each name"""


@dataclass(frozen=True)
class CharadesOptions(ActivityOptions):
    """The recipe of a model for annotated videos."""

    data: CharadesData = CharadesData()


class ActivityCharades(Activity):
    """Which of the activities go on, several at once, in videos annotated like those of Charades or ActivityNet?"""

    Config: ClassVar[type] = CharadesOptions

    def load(self, data: CharadesData) -> Streams:
        """The videos that have features and annotations."""
        return annotated_streams(Annotated(data.path, data.annotations, data.test_annotations))


@dataclass(frozen=True)
class ThumosData(DataOptions):
    """Features and targets by frame, as MiniROAD, OadTR and LSTR have them of THUMOS-14 and TVSeries."""

    test: str = "test"
    path: str = ""
    """the folder of the folders below"""
    features: tuple[str, ...] = ()
    """folders of NAME.npy [T, F], put side by side; empty: all whose names begin with rgb or flow"""
    targets: str = "target_perframe"
    """the folder of NAME.npy [T, C]: the background first"""
    ambiguous: bool = True
    """whether the last class stands for frames that are not scored, as in THUMOS-14"""
    rate: float = number(4.0, above=0)
    """steps a second"""
    groups: str = "^video_(validation|test)"
    """a pattern whose bracket matches a name's group"""
    lists: str = ""
    """a JSON with train_session_set and test_session_set, in place of the pattern"""


@dataclass(frozen=True)
class ThumosOptions(ActivityOptions):
    """The recipe of a model for online action detection."""

    data: ThumosData = ThumosData()


class ActivityThumos(Activity):
    """Online action detection: which of the actions goes on, or none of them?"""

    Config: ClassVar[type] = ThumosOptions

    def load(self, data: ThumosData) -> Streams:
        """The videos that have features and targets."""
        features = data.features
        if not features and data.path:
            features = tuple(sorted(one.name for one in Path(data.path).glob("*") if one.name.startswith(("rgb", "flow"))))
            if not features:
                raise OptionError(f"data.path={data.path!r} has no folder rgb... or flow...: say which with data.features")
        given = Framewise(data.path, features, data.targets, data.ambiguous, data.rate, data.groups, data.lists)
        return framewise_streams(given)
