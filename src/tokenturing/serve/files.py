"""A session as a file of its own, the same that `tokenturing stream --state` keeps."""

import torch

from tokenturing.checkpoint.format import FORMAT_VERSION, check_version
from tokenturing.checkpoint.tensors import TensorBytes, pack
from tokenturing.errors import CheckpointError
from tokenturing.serve.served import Served, Stream

KIND = "a session that was exported"


def to_file(stream: Stream, served: Served, steps: int) -> bytes:
    """The bytes of the file."""
    tensors = {name: torch.from_numpy(part.copy()) for name, part in stream.snapshot().items()}
    return pack(tensors, _metadata(stream, served) | {"steps": str(steps)}, checksum="crc32")


def from_file(data: bytes, served: Served) -> tuple[Stream, str, int]:
    """The session in the bytes of a file, its kind, and the steps that it has seen.

    Raises:
        CheckpointError: they are damaged or foreign, or the session is another model's.
    """
    source = TensorBytes(data, KIND, "the data")
    found = source.metadata
    if found.get("kind") != "session" or not found.get("steps", "").isdecimal() or len(found["steps"]) > 15:
        raise CheckpointError(f"the data is no session: expected {KIND}")
    check_version(found.get("format_version"), "the data")
    arrays = {name: tensor.numpy() for name, tensor in source.tensors("cpu").items()}
    for kind in served.kinds:
        stream = served.begin(kind)
        ours = _metadata(stream, served)
        if found.get("session") == ours["session"]:
            if found.get("fingerprint") != ours["fingerprint"]:
                raise CheckpointError(
                    f"the data is a session of another model: of the fingerprint {found.get('fingerprint')}, and "
                    f"{served.name} has {ours['fingerprint']}"
                )
            stream.restore(served.checked(kind, arrays))
            return stream, kind, int(found["steps"])
    raise CheckpointError(f"the data is {found.get('session')}: expected a session of {served.name}")


def _metadata(stream: Stream, served: Served) -> dict[str, str]:
    return {
        "format_version": str(FORMAT_VERSION),
        "kind": "session",
        "session": stream.file_kind,
        "class_name": str(served.runtime.description.get("class_name")),
        "fingerprint": served.fingerprint,
    }
