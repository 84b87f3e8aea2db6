"""Files that are whole or not there: written aside and renamed, checked when read. No torch is needed for these."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from tokenturing.errors import CheckpointError

LARGEST_JSON = 16 * 2**20
"""bytes; a config.json is a few hundred"""


def write_file(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one move: a crash leaves what was there before."""
    partial = beside(path)
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where what can be made again is kept: $TOKENTURING_CACHE, or else ~/.cache/tokenturing."""
    return Path(os.environ.get("TOKENTURING_CACHE") or Path.home() / ".cache" / "tokenturing")


def beside(path: Path) -> Path:
    """A name in the same folder, so that a rename is one move, that nothing else uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def read_json(path: Path, writer: str = "tokenturing.save") -> dict[str, Any]:
    """A JSON object in a folder that `writer` wrote, or a CheckpointError that says what is wrong with the file."""
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise CheckpointError(f"{path} has {size} bytes: expected a JSON of at most {LARGEST_JSON}")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: expected a folder that {writer} wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not JSON ({error}): fetch or save it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: expected a JSON object")
    return content
