"""A progress bar for work that turns out to be long."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], total: int, label: str, show: bool) -> Iterator[Item]:
    """Pass items on; a progress bar appears if that takes more than 2 seconds and `rich` is installed."""
    started, bar, task = time.monotonic(), None, None
    try:
        for done, item in enumerate(items):
            if show and bar is None and time.monotonic() - started > 2:
                show = (bar := _progress_bar()) is not None
                task = bar.add_task(label, total=total) if bar else None
            if bar:
                bar.update(task, completed=done)
            yield item
        if bar:
            bar.update(task, completed=total)
    finally:
        if bar:
            bar.stop()


def _progress_bar() -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    bar.start()
    return bar
