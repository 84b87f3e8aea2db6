"""`tokenturing serve`"""

import ipaddress
import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError

if TYPE_CHECKING:
    from tokenturing.serve.served import Served

SHORTEST_TOKEN = 16


def serve(
    checkpoints: Annotated[Positional[tuple[str, ...]], argument("CHECKPOINT")],
    host: Annotated[str, argument("HOST", hint=None)] = "127.0.0.1",
    port: Annotated[int, argument("PORT", hint=None)] = 8080,
    store: Annotated[str, argument("STORE", hint=None)] = "sqlite:sessions.db",
    token_file: Annotated[str, argument("FILE")] = "",
    origin: Annotated[UseAppendAction[tuple[str, ...]], argument("ORIGIN")] = (),
    allow_host: Annotated[UseAppendAction[tuple[str, ...]], argument("NAME")] = (),
    durability: Annotated[str, argument("step|interval=MS", hint=None)] = "step",
    max_sessions: Annotated[int, argument("N", hint=None)] = 100_000,
    resident: Annotated[int, argument("N", hint=None)] = 4096,
    batch: Annotated[int, argument("N", hint=None)] = 64,
    window: Annotated[int, argument("N", hint=None)] = 16,
    max_message: Annotated[int, argument("BYTES", hint=None)] = 2**20,
    idle: Annotated[float | None, argument("SECONDS", hint="(default: never)")] = None,
    total: Annotated[float | None, argument("SECONDS", hint="(default: never)")] = None,
    exact: Annotated[bool, argument("")] = False,
    threads: Annotated[int, argument("N", hint=None)] = 1,
) -> None:
    """Keep sessions of models alive for whoever connects: they outlive connections and the server itself.

    Clients speak over a WebSocket (ws://HOST:PORT/v1/connect); `tokenturing.client` is one in Python. Every step that is
    acknowledged is on the disk, unless --durability says otherwise. SIGTERM and Ctrl-C finish what waits first.

    Args:
        checkpoints: models: folders, exports, or names of shipped ones; NAME=FOLDER gives one a name of your own.
        host: the address to listen at; 127.0.0.1 is this machine alone, 0.0.0.0 all networks.
        port: 0: any that is free.
        store: sqlite:PATH, or redis://HOST:PORT/NUMBER, which servers on several machines can share.
        token_file: clients must send one of the tokens in this file: one a line, each of 16 characters or more. Others than its
            owner must not be able to read it (mode 600).
        origin: a page of this origin may connect too: scheme, host and perhaps a port, such as https://example.org.
        allow_host: a name under which this server is called, such as the one of a proxy, without scheme and port; default:
            localhost where it listens on this machine alone, and else any.
        durability: "step": what is acknowledged is on the disk; "interval=200ms": up to so much of it may be lost in a crash, or
            when another server on this store takes a session over.
        max_sessions: in the store.
        resident: sessions whose state is in memory; others wait in the store.
        batch: sessions in one step of the model.
        window: inputs of one session that may wait at once.
        max_message: of a client.
        idle: delete sessions without an input for so long; time in which no server runs does not count.
        total: delete sessions older than this.
        exact: compute with PyTorch, one session at a time: slower, but equal to the bit whatever else goes on.
        threads: cores for the model.
    """
    from tokenturing.extras import require

    require("serve")
    from tokenturing.serve.access import Access
    from tokenturing.serve.engine import Engine
    from tokenturing.serve.limits import Limits, parse_durability
    from tokenturing.serve.run import bind, run
    from tokenturing.serve.store import open_store, without_password

    if not checkpoints:
        raise OptionError("serve needs a model: tokenturing serve recall-ttm")
    limits = Limits(
        batch=batch,
        window=window,
        resident=resident,
        sessions=max_sessions,
        message_bytes=max_message,
        idle_seconds=idle,
        total_seconds=total,
        interval=parse_durability(durability),
    )
    tokens = read_tokens(Path(token_file)) if token_file else []
    hosts = list(allow_host) or (["localhost", "127.0.0.1", "::1"] if _is_local(host) else None)
    access = Access(tokens, origin, hosts)
    if threads < 1:
        raise OptionError(f"--threads {threads}: expected a number above 0")
    models = {}
    for text in checkpoints:
        name, place = named(text)
        if name in models:
            raise OptionError(f"two models are called {name!r}: write one as NAME={place}")
        models[name] = load_served(name, place, exact=exact, threads=threads)
    listening = bind(host, port)
    sessions = open_store(store, window)
    if getattr(sessions, "on_disk", lambda: True)() is False:
        more = "" if limits.interval is None else ", more than --durability says"
        print(f"warning: this Redis may lose what it has taken{more}: set appendonly yes, appendfsync always", file=sys.stderr)
    engine = Engine(models, sessions, limits)
    address = f"{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"

    def say_ready() -> None:
        if not tokens and not _is_local(host):
            print("warning: whoever reaches this port is let in: consider --token-file", file=sys.stderr)
        print(f"serving {', '.join(models)} at http://{address}/, sessions in {without_password(store)}", flush=True)
        if page:
            print(f"a page to talk to it: http://{address}/", flush=True)

    page = page_of(models)
    run(engine, listening, access, page, say_ready)


def named(text: str) -> tuple[str, str]:
    """ "NAME=FOLDER" -> both; of a folder or name alone, a name made of it."""
    name, equals, place = text.partition("=")
    if not equals or os.sep in name:
        path = Path(text)
        name, place = path.parent.name if path.name == "model" and path.parent.name else path.name, text
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise OptionError(f"{text}: expected NAME=FOLDER, with a name of letters, figures and -_.")
    return name, place


def load_served(name: str, place: str, *, exact: bool = False, threads: int = 1) -> "Served":
    """A model, and the sessions of its task where that has some that a server can keep."""
    from tokenturing.checkpoint import load
    from tokenturing.cli.common import load_runtime, model_folder
    from tokenturing.export import eager
    from tokenturing.runtime import is_export
    from tokenturing.serve.served import Served
    from tokenturing.serve.watched import media_of
    from tokenturing.train.recipe import task_of

    if exact:
        if is_export(place):
            raise OptionError(f"--exact: {place} is an export: expected the model that it was made of")
        runtime = eager(load(model_folder(place)))
    else:
        runtime = load_runtime(place, threads=threads)
    try:
        task = task_of(runtime)
    except OptionError:  # a model of no task takes its inputs as they are
        return Served(name, runtime)
    return Served(name, runtime, media_of(runtime, task))


def page_of(models: Mapping[str, "Served"]) -> Path | None:
    """The page that a browser gets at /: that of the first model whose task has one."""
    from tokenturing.train.recipe import task_of

    for served in models.values():
        try:
            task = task_of(served.runtime)
        except OptionError:
            continue
        if served.media and (page := getattr(task, "page", None)):
            return page
    return None


def read_tokens(file: Path) -> list[str]:
    """The tokens in a file, one a line; empty lines and those that begin with # are none.

    Raises:
        OptionError: there are none, one is too short or cannot be sent, or others than its owner may read the file.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeError) as error:
        raise OptionError(f"--token-file {file} cannot be read ({error})") from error
    if os.name != "nt" and file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise OptionError(f"--token-file {file} may be read by others: chmod 600 {file}")
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens or min(map(len, tokens)) < SHORTEST_TOKEN:
        raise OptionError(f"--token-file {file}: expected tokens of {SHORTEST_TOKEN} characters or more, one a line")
    if not all(token.isascii() and token.isprintable() for token in tokens):
        raise OptionError(f"--token-file {file}: expected printable ASCII alone, which is all that a client can send")
    return tokens


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
