"""`tokenturing`: the entry point. What is slow to import is imported by the command that needs it."""

import importlib
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tokenturing
from tokenturing.errors import MissingExtraError, TokenTuringError, in_words
from tokenturing.extras import require

COMMANDS = (
    *("demo", "train", "evaluate", "crossvalidate", "ablate"),
    *("stream", "serve", "export", "bench", "inspect", "features"),
)
DESCRIPTION = """Token Turing Machines: models that watch an endless stream of pictures and sound, keep what
matters in a fixed set of memory tokens, and answer questions about it at any time.

Begin with `tokenturing demo`. `tokenturing COMMAND --help` explains a command, `tokenturing --version` says which one this is.
"""
FAILED, INTERRUPTED = 2, 130
EVALUATE_FLAGS = ("--help", "--set", "--json", "--threads", "--device")
""" `evaluate`'s own; all others are options of the task"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; what goes wrong for the caller's reasons is one line and exit code 2."""
    warnings.showwarning = _show_warning
    # Threads that wait for one another without sleeping take the core from whoever they wait for, on a machine with other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded, which it is not yet
    try:
        _parse_and_run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # of `tokenturing stream ... | head`, which has read all that it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except SystemExit as stopped:  # rich makes one of the other
        if not isinstance(stopped.__context__, BrokenPipeError):
            raise
    except (TokenTuringError, MissingExtraError, OSError) as error:
        if os.environ.get("TOKENTURING_TRACEBACK") or (isinstance(error, OSError) and not _is_ours(error)):
            raise
        print(f"tokenturing: {in_words(error)}", file=sys.stderr)
        sys.exit(FAILED)


def commands() -> dict[str, Callable[..., None]]:
    """The commands by name."""
    return {name: getattr(importlib.import_module(f"tokenturing.cli.{name}"), name) for name in COMMANDS}


def _parse_and_run(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        print(f"tokenturing {tokenturing.__version__}")
        return
    require("cli")
    import tyro

    if arguments[:2] == ["bench", "serve"]:  # it has options of its own
        from tokenturing.cli.bench_serve import bench_serve

        tyro.cli(bench_serve, prog="tokenturing bench serve", args=arguments[2:])
        return
    tyro.extras.subcommand_cli_from_dict(
        commands(), prog="tokenturing", description=DESCRIPTION, args=_as_settings(arguments) or ["--help"]
    )


def _as_settings(arguments: list[str]) -> list[str]:
    """For `evaluate`: flags that are not its own are the task's, "--rows 80" -> "--set rows=80", "--loud" -> "... loud=true"."""
    if arguments[:1] != ["evaluate"]:
        return arguments
    found, rest = arguments[:1], arguments[1:]
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--") or flag in EVALUATE_FLAGS:
            found.append(flag + equals + value)
            found += rest[:1] if flag in EVALUATE_FLAGS and not equals else []
            rest = rest[1:] if flag in EVALUATE_FLAGS and not equals else rest
        else:
            given = value if equals else rest.pop(0) if rest and not rest[0].startswith("--") else "true"
            found += ["--set", f"{flag[2:].replace('-', '_')}={given}"]
    return found


def _is_ours(error: BaseException) -> bool:
    """Whether the innermost code that is of no library is this package's: another's bug keeps its traceback."""
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), "<")
    package = str(Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(package):
            return True
        if not frame.filename.startswith(libraries):
            return False
    return True


def _show_warning(message: Any, category: Any, filename: str, *_: Any, **__: Any) -> None:
    """Warnings of ours as one line, others' not at all: people can do nothing about them."""
    if f"{os.sep}tokenturing{os.sep}" in filename:
        print(f"warning: {in_words(message)}", file=sys.stderr)
