"""What strangers can use up, and how much of it."""

from dataclasses import dataclass

from tokenturing.errors import OptionError

FLAGS = {
    "batch": "--batch",
    "window": "--window",
    "resident": "--resident",
    "sessions": "--max-sessions",
    "message_bytes": "--max-message",
    "idle_seconds": "--idle",
    "total_seconds": "--total",
    "interval": "--durability",
}
"""of `tokenturing serve`"""


@dataclass(frozen=True)
class Limits:
    """Bounds of one server process."""

    batch: int = 64
    """sessions in one step"""
    window: int = 16
    """inputs of a session that wait at once, and replies that are kept of each"""
    resident: int = 4096
    """sessions whose state is in memory"""
    sessions: int = 100_000
    """in the store"""
    connections: int = 2048
    marks: int = 16
    """of one session"""
    message_bytes: int = 2**20
    messages_per_second: float = 2000.0
    """of one connection, on average over a second"""
    waiting: int = 1024
    """messages of one connection that are not answered yet; then no more are read from it"""
    stalled_seconds: float = 10.0
    """for which a client may leave its replies unread"""
    idle_seconds: float | None = None
    """without an input, after which a session is deleted"""
    total_seconds: float | None = None
    """after which a session is deleted"""
    interval: float | None = None
    """seconds between two commits; None: what is acknowledged is on the disk"""
    drain_seconds: float = 10.0
    """to finish what waits before the server ends"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise OptionError(f"{FLAGS.get(name, name)} {value}: expected a number above 0")

    @property
    def durability(self) -> str:
        """As `--durability` has it."""
        return "step" if self.interval is None else f"interval={1000 * self.interval:g}ms"


def parse_durability(text: str) -> float | None:
    """ "step" -> None, "interval=200ms" -> 0.2.

    Raises:
        OptionError: it is neither.
    """
    if text == "step":
        return None
    name, _, value = text.partition("=")
    scale = 0.001 if value.endswith("ms") else 1.0
    try:
        seconds = float(value.removesuffix("ms").removesuffix("s")) * scale
    except ValueError:
        seconds = 0.0
    if name != "interval" or not 0.001 <= seconds <= 60:
        raise OptionError(f"--durability {text}: expected step, or interval=200ms (1 ms to 60 s)")
    return seconds
