"""Where sessions are when no process holds them: bytes by id, written together or not at all, by one worker at a time."""

import re
from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec
from msgspec import Struct

from tokenturing.errors import OptionError, TokenTuringError

Part = TypeVar("Part")

FIRST = 1
"""the fence of a new session"""
LONGEST_TICK = 5.0
"""seconds that the store's clock goes on by at most between two ticks, however the computer's jumps"""


class StoreError(TokenTuringError):
    """The store is full, locked or away; nothing of what was to be written was.

    Args:
        message: for people.
        lasting: whether it stays so until somebody mends the store.
    """

    def __init__(self, message: str, *, lasting: bool = False):
        super().__init__(message)
        self.lasting = lasting


class Record(Struct, frozen=True):
    """A session as it is kept."""

    session: str
    secret: bytes
    """SHA-256 of it"""
    model: str
    fingerprint: str
    kind: str
    seq: int
    """of the last input"""
    steps: int
    """that the state has seen"""
    state: bytes
    created: float
    """by the store's clock"""


class Change(Struct, frozen=True):
    """What an input did, kept together or not at all."""

    record: Record
    replies: tuple[tuple[int, bytes], ...] = ()
    """by sequence number"""
    marks: tuple[tuple[str, bytes], ...] = ()
    """`mark_bytes` by name"""
    fence: int = 0
    """as `claim` returned it"""


class Claim(Struct, frozen=True):
    """A session that a worker may write, until another one claims it."""

    record: Record
    fence: int


class Store(Protocol):
    """Every method may be called from any thread, and raises a StoreError where the store is full, locked or away."""

    def get(self, session: str) -> Record | None:
        """A session as it was last written."""
        ...

    def claim(self, session: str, worker: str) -> Claim | None:
        """The session, which from now on only this worker can write."""
        ...

    def put(self, changes: Sequence[Change], new: Sequence[Record] = (), worker: str = "") -> list[str]:
        """Write all in one transaction -> the sessions that were left out.

        Args:
            changes: are left out where another worker has claimed the session, or it is not there any more.
            new: sessions, held by `worker` with the fence `FIRST`; are left out where there is one of that id.
            worker: whose the new ones are.
        """
        ...

    def reply(self, session: str, seq: int) -> bytes | None:
        """What was replied to an input, if it is one of the last few."""
        ...

    def mark(self, session: str, name: str) -> bytes | None:
        """`mark_bytes` of a mark."""
        ...

    def marks(self, session: str) -> list[str]:
        """The names of a session's marks."""
        ...

    def delete(self, session: str) -> bool:
        """Forget a session, its replies and marks; whether it was there."""
        ...

    def expire(self, idle: float | None, total: float | None) -> list[str]:
        """Delete sessions unused, or there, for longer than so many seconds -> their ids. Also lets the store's clock go on."""
        ...

    def page(self, after: str, limit: int) -> list[Record]:
        """Sessions by id, those behind `after`; their states are left out."""
        ...

    def count(self) -> int:
        """How many sessions there are."""
        ...

    def now(self) -> float:
        """Seconds on the store's clock, which stands still while no server runs."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class MarkBytes(Struct, frozen=True):
    """A state that has a name."""

    steps: int
    state: bytes


_RECORD, _MARK = msgspec.msgpack.Decoder(Record), msgspec.msgpack.Decoder(MarkBytes)
pack = msgspec.msgpack.Encoder().encode


def unpack_record(data: bytes) -> Record:
    """A record out of the store."""
    return _unpack(_RECORD, data)


def unpack_mark(data: bytes) -> MarkBytes:
    """A mark out of the store."""
    return _unpack(_MARK, data)


def _unpack(decoder: "msgspec.msgpack.Decoder[Part]", data: bytes) -> Part:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise StoreError(f"a session in the store is damaged ({error}): restore a copy", lasting=True) from None


def open_store(url: str, window: int) -> Store:
    """The store that is named "sqlite:PATH" or "redis://...".

    Args:
        url: where.
        window: replies that are kept of each session.

    Raises:
        OptionError: there is no such kind.
        StoreError: it cannot be opened.
    """
    scheme, _, rest = url.partition(":")
    named = f"--store {without_password(url)}"
    try:
        if scheme == "sqlite" and rest:
            from tokenturing.serve.sqlite import SqliteStore

            return SqliteStore(rest, window)
        if scheme in ("redis", "rediss", "unix"):
            from tokenturing.serve.redis import RedisStore

            return RedisStore(url, window)
    except StoreError as error:
        raise StoreError(f"{named}: {error}", lasting=error.lasting) from error
    raise OptionError(f"{named}: expected sqlite:PATH or redis://HOST:PORT/NUMBER")


def without_password(url: str) -> str:
    """The name of a store as others may see it."""
    return re.sub(r"//[^@/]*@", "//", url)
