"""What clients are told, of sessions and of what could not be done."""

import hashlib
from typing import Any

from tokenturing.serve import messages as say
from tokenturing.serve.messages import ProtocolError
from tokenturing.serve.store import Record, StoreError

LONGEST_NAME = 64


def opened(request: int, record: Record, secret: str = "") -> say.Opened:
    """The answer to whoever begins or goes on with a session."""
    return say.Opened(request, record.session, record.model, record.fingerprint, record.kind, record.seq, record.steps, secret)


def about(record: Record, now: float) -> dict[str, Any]:
    """What there is to say of a session, without its secret."""
    return {
        "session": record.session,
        "model": record.model,
        "fingerprint": record.fingerprint,
        "kind": record.kind,
        "seq": record.seq,
        "steps": record.steps,
        "age": round(max(now - record.created, 0.0), 1),
    }


def error_message(error: Exception, message: Any = None) -> say.Error:
    """What a client is told of an error, which a message of its caused."""
    known = error.about if isinstance(error, ProtocolError) and message is None else {}
    where: dict[str, Any] = {name: getattr(message, name, known.get(name)) for name in ("request", "session", "seq")}
    if isinstance(error, ProtocolError):
        return say.Error(error.code, str(error), expected=error.expected, retry=error.retry, **where)
    if isinstance(error, StoreError):
        return say.Error("store", str(error), retry=not error.lasting, **where)
    return say.Error("bad_input", str(error), **where)


def bug() -> ProtocolError:
    """For what only our log can explain."""
    return ProtocolError("internal", "the server failed at this, and its log says why; nothing was changed")


def unknown(session: str) -> ProtocolError:
    """There is no such session."""
    return ProtocolError(
        "unknown_session", f"there is no session {session[:LONGEST_NAME]!r}: it was closed, has expired, or never was"
    )


def moved(why: str) -> ProtocolError:
    """The connection holds the session no more."""
    text = f"this connection holds the session no more, {why}: attach to it again, and send what comes after its seq"
    return ProtocolError("moved", text, retry=True)


def hashed(secret: str) -> bytes:
    """A secret as it is kept."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
