"""What a client gets back."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tokenturing.errors import TokenTuringError
from tokenturing.serve.arrays import Array, Value, array
from tokenturing.serve.messages import Error, Event, Message, Stepped, decode, encode


class ServerError(TokenTuringError):
    """The server could not do what was asked, and changed nothing.

    Attributes:
        code: for programs, such as "bad_input". Those of the server are at `Error` in its /schema.json; of the client are
            "refused": the server wants a token, or this host or path is not served there;
            "version": it speaks another version of the protocol;
            "foreign": what answers at this address is no server of sessions;
            "away": the connection was lost, and could not be made again for `reconnect` seconds;
            "closed": this client was closed;
            "too_large": a message has more bytes than the server takes. It was not sent.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class SessionLostError(ServerError):
    """This connection holds the session no more: another one attached to it, or it expired."""


def closed() -> ServerError:
    """What is said of all that is asked of a client that was closed."""
    return ServerError("closed", "this client was closed: connect again, and attach to the session")


class StepResult(NamedTuple):
    """What a step brought."""

    seq: int
    """number of the input in its session"""
    steps: int
    """that the state has seen"""
    events: list[Event]
    outputs: dict[str, np.ndarray]


def step_result(reply: Stepped) -> StepResult:
    """The reply to a step."""
    return StepResult(reply.seq, reply.steps, reply.events, {name: to_array(part) for name, part in reply.outputs.items()})


def to_array(part: Array) -> np.ndarray:
    """An array that was sent."""
    return np.frombuffer(part.data, np.dtype(part.dtype).newbyteorder("<")).reshape(part.shape)


def to_values(inputs: Mapping[str, object]) -> dict[str, Value]:
    """Inputs as they are sent: arrays, or whatever numpy makes one of; None is left out.

    Raises:
        ServerError: one is no array.
    """
    found: dict[str, Value] = {}
    for name, part in inputs.items():
        if part is not None:
            try:
                found[name] = array(np.asarray(part))
            except (TypeError, ValueError, RuntimeError) as error:
                raise ServerError("bad_input", f"{name} is no array ({error}): expected one, or lists of equal lengths") from None
    return found


def frame(message: Message, largest: int) -> bytes:
    """A message as the content of a frame.

    Raises:
        ServerError: the server would take it for none, or for too large a one.
    """
    kind = type(message).__name__.lower()
    try:
        data = encode(message)
        decode(data)
    except (TypeError, ValueError, OverflowError) as error:
        raise ServerError("bad_message", f"{kind} cannot be sent ({error})") from None
    if len(data) > largest:
        raise ServerError("too_large", f"{kind} has {len(data)} bytes: this server takes {largest}, see its --max-message")
    return data


def server_error(reply: Error) -> ServerError:
    """What the server said, as an exception."""
    return (SessionLostError if reply.code == "moved" else ServerError)(reply.code, reply.message)
