"""Who may come in: the names of this server, the origins of pages, and tokens."""

import hmac
import ipaddress
import re
from collections.abc import Iterator, Sequence
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers

from tokenturing.errors import OptionError

SUBPROTOCOL = "tokenturing"
BEARER = "bearer."
"""begins the subprotocol in which a browser, which can set no headers, sends its token"""
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
NO_ORIGIN = "null"
"""what a browser says of a page that is a file"""
NAME = re.compile(r"[a-z0-9_.-]+")

Refusal = tuple[int, str]
"""an HTTP status, and why"""


class Access:
    """Who may come in.

    Args:
        tokens: one of them has to be sent; none: everyone who can reach the server is let in.
        origins: of pages that may connect, besides those that the server itself serves.
        hosts: names under which the server is called; None: any. On a computer of one's own that keeps pages elsewhere, whose
            name was made to point here, from reading what it says.

    Raises:
        OptionError: an origin or a name is of a form that nobody ever sends.
    """

    def __init__(self, tokens: Sequence[str] = (), origins: Sequence[str] = (), hosts: Sequence[str] | None = None):
        self.tokens = [token.encode() for token in tokens]
        self.origins = {_wanted_origin(text) for text in origins}
        self.hosts = None if hosts is None else [_wanted_host(text) for text in hosts]

    def refusal(self, headers: Headers, *, token: bool = True) -> Refusal | None:
        """Why a request is refused; None: it is not."""
        host = headers.get("host", "")
        name = _name(_split(f"//{host}"))
        if self.hosts is not None and name not in self.hosts:
            return 421, f"this server is not called {host[:100]!r}: expected {', '.join(self.hosts)}; see --allow-host"
        origin = headers.get("origin")
        if origin is not None and not self._may_connect(origin, host):
            return 403, f"pages of {origin[:100]} may not connect: see --origin"
        if token and self.tokens:
            sent = list(_tokens(headers))
            if not sent:
                return 401, "a token is needed: send it as 'Authorization: Bearer TOKEN'"
            if not any([hmac.compare_digest(one, ours) for one in sent for ours in self.tokens]):
                return 401, "the token that came is none of this server's: expected a whole line of its --token-file"
        return None

    def _may_connect(self, origin: str, host: str) -> bool:
        """A page that came from here may, and one of those that are named."""
        scheme = origin.partition(":")[0].lower()
        place = _place(_split(origin), scheme)
        return (place != "" and place == _place(_split(f"//{host}"), scheme)) or _origin(origin) in self.origins


def wrong_protocols(offered: Sequence[str]) -> Refusal | None:
    """Why a connection with these subprotocols is refused; None: it is not.

    A browser takes no answer without one of those that it offered, and a token is nothing to answer with.
    """
    if not offered or SUBPROTOCOL in offered:
        return None
    right = f'offer "{SUBPROTOCOL}" as well: new WebSocket(url, ["{SUBPROTOCOL}", "{BEARER}" + token]), or none at all'
    return 400, f"none of the subprotocols that were offered is spoken here: {right}"


def _tokens(headers: Headers) -> Iterator[bytes]:
    scheme, _, word = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and word.strip():
        yield word.strip().encode()
    for line in headers.getlist("sec-websocket-protocol"):
        for part in line.split(","):
            if part.strip().startswith(BEARER):
                yield part.strip().removeprefix(BEARER).encode()


def _split(url: str) -> SplitResult | None:
    """None where it is no address at all, which strangers may send, too."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _name(parts: SplitResult | None) -> str:
    """The host in one of the ways to write it."""
    name = (parts and parts.hostname) or ""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def _place(parts: SplitResult | None, scheme: str) -> str:
    """Host and port, where that of the scheme need not be written; "": there is no host."""
    name = _name(parts)
    port = PORTS.get(scheme) if parts is None or parts.port is None else parts.port
    return f"{name} {port}" if name else ""


def _origin(text: str) -> str:
    """An origin as all write it; "": it is none."""
    if text.lower() == NO_ORIGIN:
        return NO_ORIGIN
    parts = _split(text)
    if parts is None or not parts.scheme or not parts.hostname:
        return ""
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc or "*" in parts.netloc:
        return ""
    return f"{parts.scheme}://{_place(parts, parts.scheme)}"


def _wanted_origin(text: str) -> str:
    if found := _origin(text):
        return found
    example = f"https://{text}" if _origin(f"https://{text}") else "https://example.org"
    raise OptionError(f"--origin {text}: expected a scheme and a host, a port if it has one, and no more, such as {example}")


def _wanted_host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        name = text.lower()
    if not NAME.fullmatch(name):
        parts = _split(text if "//" in text else f"//{text}")
        example = _name(parts) if NAME.fullmatch(_name(parts)) else "example.org"
        raise OptionError(f"--allow-host {text}: expected a name alone, without scheme, port and path, such as {example}")
    return name
