"""How tyro reads and shows the arguments of the commands."""

from typing import Any

import tyro


def argument(metavar: str, *, name: str | None = None, hint: str | None = "") -> Any:
    """An argument shown as `metavar`; `hint` replaces "(default: ...)" in the help, None keeps it."""
    options: dict[str, Any] = {"metavar": metavar, "help_behavior_hint": hint}
    if name is not None:
        options["name"] = name
    if hint is None:
        del options["help_behavior_hint"]
    return tyro.conf.arg(**options)
