"""What a client gets back."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tokenturing.errors import TokenTuringError
from tokenturing.serve.messages import Array, Error, Event, Stepped, Value, array


class ServerError(TokenTuringError):
    """The server could not do what was asked, and changed nothing.

    Attributes:
        code: for programs, such as "bad_input"; see /schema.json.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class SessionLostError(ServerError):
    """This connection holds the session no more: another one attached to it, or it expired."""


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
    """Inputs as they are sent: arrays, or whatever numpy makes one of; None is left out."""
    return {name: array(np.asarray(part)) for name, part in inputs.items() if part is not None}


def server_error(reply: Error) -> ServerError:
    """What the server said, as an exception."""
    return (SessionLostError if reply.code == "moved" else ServerError)(reply.code, reply.message)
