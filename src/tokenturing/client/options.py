"""What a caller says of a connection, checked before anything is sent."""

import math
from numbers import Real
from urllib.parse import urlsplit

from tokenturing.errors import OptionError, a

SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def address(url: str) -> str:
    """The address of a server -> that of its WebSocket.

    Raises:
        OptionError: it is none.
    """
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts and parts.scheme in SCHEMES and parts.hostname and parts.port != 0:
            parts.hostname.encode("idna")  # as the resolver does, whose complaint tells nobody what is wrong
            return f"{SCHEMES[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/')}/v1/connect"
    except ValueError:
        pass  # a port that is none, half an IPv6 address, a name with an empty part
    raise OptionError(f"{url!r} is no address of a server: expected one such as http://127.0.0.1:8080")


def headers(token: str | None) -> dict[str, str]:
    """What a connection says of its caller. Errors never quote the token.

    Raises:
        OptionError: it cannot be sent.
    """
    if token is not None and not isinstance(token, str):
        raise OptionError(f"token is {a(type(token))}: expected a line of the server's --token-file, as a str")
    if token and not (token.isascii() and token.isprintable()):
        raise OptionError("token has a line break or another character that no header can have: expected printable ASCII alone")
    return {"Authorization": f"Bearer {token}"} if token else {}


def seconds(option: str, value: float) -> float:
    """A number of seconds, 0 or more; infinity is one.

    Raises:
        OptionError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value) or value < 0:
        raise OptionError(f"{option}={value!r} is no number of seconds: expected one of 0 or more, such as 60.0")
    return float(value)
