"""What a client and the server say to each other: msgpack in binary frames, or the same as JSON in text frames.

Each message is an object whose "type" is the name of its class in small letters. `schema()` is the published description.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from tokenturing.errors import TokenTuringError
from tokenturing.serve.arrays import Array, Value

VERSION = 1
"""of the protocol; more by one when a client of before would misunderstand"""
Code = Literal[
    "bad_message",
    "bad_input",
    "unknown_model",
    "unknown_session",
    "wrong_secret",
    "other_model",
    "not_attached",
    "gap",
    "too_old",
    "too_fast",
    "too_large",
    "full",
    "unknown_mark",
    "too_many_marks",
    "exists",
    "moved",
    "store",
    "draining",
    "internal",
]


Number = Annotated[int, Meta(ge=0, le=2**53)]
"""what JSON, msgpack and every language can write"""
NUMBERS = range(2**53 + 1)


class ProtocolError(TokenTuringError):
    """What is said to a client that something cannot be done.

    Args:
        code: for programs.
        message: for people.
        expected: the sequence number that would have been right.
        retry: whether the same message may succeed later.
        about: "request", "session" and "seq" of a message that could not be read, as far as they could.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        expected: int | None = None,
        retry: bool = False,
        about: Mapping[str, Any] | None = None,
    ):
        super().__init__(message)
        self.code, self.expected, self.retry, self.about = code, expected, retry, about or {}


class Message(Struct, frozen=True, tag_field="type", tag=str.lower, omit_defaults=True):
    """The base of all messages."""


class Open(Message, frozen=True):
    """Begin a session. With an id and a secret of the client's own it can be said again: then it means the one that is there."""

    request: Number
    model: str = ""
    """"": the only one"""
    kind: str = "inputs"
    """what a step brings: "inputs" by the model's signature, or "media" """
    session: str | None = None
    secret: str | None = None


class Attach(Message, frozen=True):
    """Go on with a session; whoever was attached before is told that it moved."""

    request: Number
    session: str
    secret: str


class Step(Message, frozen=True):
    """One step: the inputs by name without the axis of rows; of a "media" session a frame and a sound, each of which may lack."""

    session: str
    seq: Number
    inputs: dict[str, Value] = {}


class Mark(Message, frozen=True):
    """Give the state as it is now a name to come back to."""

    session: str
    seq: Number
    name: str


class Rewind(Message, frozen=True):
    """Go back to the state that a mark names. Sequence numbers go on."""

    session: str
    seq: Number
    name: str


class Ask(Message, frozen=True):
    """Queries about the last step, any number: of "media" sessions their names, of others their numbers. Nothing changes."""

    request: Number
    session: str
    queries: list[str | int]


class Fork(Message, frozen=True):
    """Begin another session with this one's state."""

    request: Number
    session: str
    fork: str | None = None
    """the id of the new one"""
    secret: str | None = None


class Export(Message, frozen=True):
    """The session as the bytes of a file."""

    request: Number
    session: str


class Import(Message, frozen=True):
    """Begin a session with what was exported."""

    request: Number
    data: bytes
    model: str = ""
    session: str | None = None
    secret: str | None = None


class Detach(Message, frozen=True):
    """Hear no more of a session, which stays."""

    request: Number
    session: str


class Close(Message, frozen=True):
    """End a session for good and delete it."""

    request: Number
    session: str


class Input(Struct, frozen=True):
    """One input of a step."""

    shape: list[int | str]
    """without the axis of rows; letters stand for any number"""
    dtype: str


class Model(Struct, frozen=True):
    """A model that is served."""

    name: str
    fingerprint: str
    kinds: list[str]
    inputs: dict[str, Input]
    media: dict[str, Input] = {}
    queries: list[str] | int = 0
    """the names of those that a "media" session can be asked, or how many there are"""


class Welcome(Message, frozen=True):
    """The first message of every connection."""

    version: int
    models: list[Model]
    window: int
    """inputs of a session that may be on their way at once, and replies that are kept"""
    durability: str
    largest: int
    """bytes of a message"""
    worker: str = ""
    """the name of the server process"""


class Opened(Message, frozen=True):
    """The answer to Open, Attach, Fork and Import."""

    request: Number
    session: str
    model: str
    fingerprint: str
    kind: str
    seq: Number
    """of the last input that is kept; the next one is more by one"""
    steps: int
    """that its state has seen"""
    secret: str = ""
    """of a new session: all that ever opens it again, said only once"""


class Event(Struct, frozen=True):
    """Something that was noticed in a step."""

    sense: str
    what: str
    confidence: float


class Stepped(Message, frozen=True):
    """The answer to Step."""

    session: str
    seq: Number
    steps: int
    events: list[Event] = []
    outputs: dict[str, Array] = {}
    """y and what else the model finds, without the axis of rows; of "media" sessions what it perceives
    and what the step did to its memory"""


class Done(Message, frozen=True):
    """The answer to Mark and Rewind."""

    session: str
    seq: Number
    steps: int


class Kept(Message, frozen=True):
    """With --durability interval: everything up to `seq` is on the disk."""

    session: str
    seq: Number


class Reply(Struct, frozen=True):
    """What is said to a query."""

    query: str | int
    answer: str | int
    confidence: float


class Answered(Message, frozen=True):
    """The answer to Ask."""

    request: Number
    session: str
    seq: Number
    """of the last input before"""
    answers: list[Reply]


class Exported(Message, frozen=True):
    """The answer to Export."""

    request: Number
    session: str
    seq: Number
    data: bytes


class Gone(Message, frozen=True):
    """The answer to Detach and Close, and said unasked (without a request) of a session that moved elsewhere or expired."""

    session: str
    reason: str
    request: Number | None = None


class Error(Message, frozen=True):
    """What could not be done; nothing was changed."""

    code: Code
    message: str
    request: Number | None = None
    session: str | None = None
    seq: Number | None = None
    expected: int | None = None
    retry: bool = False


FromClient = Open | Attach | Step | Mark | Rewind | Ask | Fork | Export | Import | Detach | Close
FromServer = Welcome | Opened | Stepped | Done | Kept | Answered | Exported | Gone | Error
Sequenced = Step | Mark | Rewind

_BINARY, _TEXT = msgspec.msgpack.Encoder(), msgspec.json.Encoder()
_CLIENT = msgspec.msgpack.Decoder(FromClient), msgspec.json.Decoder(FromClient)
_SERVER = msgspec.msgpack.Decoder(FromServer), msgspec.json.Decoder(FromServer)


def encode(message: Message, *, text: bool = False) -> bytes:
    """A message as one frame's content."""
    return _TEXT.encode(message) if text else _BINARY.encode(message)


def decode(data: bytes | str) -> FromClient:
    """A client's message.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return _CLIENT[isinstance(data, str)].decode(data)  # type: ignore[arg-type]
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        text = f"this is no message ({error}): see /schema.json"
        raise ProtocolError("bad_message", text, about=_about(data)) from None


def _about(data: bytes | str) -> dict[str, Any]:
    """What says whom an error is for, of a message that is none."""
    try:
        found = msgspec.json.decode(data) if isinstance(data, str) else msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError, TypeError):
        return {}
    if not isinstance(found, dict):
        return {}
    about = {name: found[name] for name in ("request", "seq") if type(found.get(name)) is int and found[name] in NUMBERS}
    return about | ({"session": found["session"]} if isinstance(found.get("session"), str) else {})


def decode_reply(data: bytes | str) -> FromServer:
    """A server's message."""
    return _SERVER[isinstance(data, str)].decode(data)  # type: ignore[arg-type]


def schema() -> dict[str, Any]:
    """JSON schema of all messages."""
    (client, server), parts = msgspec.json.schema_components([FromClient, FromServer], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"tokenturing sessions, version {VERSION}",
        "description": "Text frames hold JSON, binary frames the same as msgpack. Bytes are base64 in JSON.",
        "fromClient": client,
        "fromServer": server,
        "$defs": parts,
    }
