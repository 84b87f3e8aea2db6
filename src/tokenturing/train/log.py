"""What a training run leaves behind while it runs: JSON lines, TensorBoard events, a bar with an estimate."""

import json
from pathlib import Path
from typing import Any

from tokenturing.train.plain import plain


class RunLog:
    """Metrics of a run in `metrics.jsonl` and, where TensorBoard is installed, as its events.

    Args:
        folder: of the run.
        resumed_at: updates done before; lines of later updates (written after the last checkpoint and before a kill)
            are dropped, since they will be written again.
    """

    def __init__(self, folder: Path, resumed_at: int = 0):
        self.path = folder / "metrics.jsonl"
        kept = [line for line in self._lines() if line["update"] <= resumed_at]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.file = self.path.open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.events = None
        else:
            self.events = SummaryWriter(str(folder / "events"), purge_step=resumed_at + 1)

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break  # a line cut short by a kill
        return found

    def write(self, update: int, **metrics: Any) -> None:
        """One line for an update; a dict of metrics has names of its own, "validation/right" among the events."""
        metrics = plain(metrics)
        self.file.write(json.dumps({"update": update, **metrics}) + "\n")
        self.file.flush()
        if self.events is not None:
            for name, value in metrics.items():
                parts = {f"{name}/{part}": number for part, number in value.items()} if isinstance(value, dict) else {name: value}
                for path, number in parts.items():
                    self.events.add_scalar(path, number, update)

    def close(self) -> None:
        """Flush and close."""
        self.file.close()
        if self.events is not None:
            self.events.close()
