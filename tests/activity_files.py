"""Small data sets of activities, drawn anew, as people have them in folders."""

from pathlib import Path
from typing import Any

import numpy as np

from tokenturing.tasks.activity.sensors import CHANNELS

CLASSES = 3


def npz_folder(folder: Path, splits: int = 3, videos: int = 3, steps: int = 30, features: int = 4) -> Path:
    """split{1..}_video{01..}.npz whose features tell the label, with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    means = rng.normal(size=(CLASSES, features))
    for split in range(1, splits + 1):
        for video in range(1, videos + 1):
            length = steps + 3 * video
            labels = np.repeat(rng.permutation(CLASSES), length // CLASSES + 1)[:length]
            drawn = (means[labels] + 0.3 * rng.normal(size=(length, features))).astype(np.float32)
            np.savez(folder / f"split{split}_video{video:02}.npz", features=drawn, labels=labels)
    return folder


def watch_content(subjects: int = 5, samples: int = 130) -> dict[str, Any]:
    """What the watch data hold: each subject does each exercise with either arm, at a pace of its own."""
    rng = np.random.default_rng(0)
    rows = [(subject, label, side) for subject in range(1, subjects + 1) for label in range(CLASSES) for side in (0.0, 1.0)]
    times = np.arange(samples)[:, None] / 50
    return {
        "X": [np.sin(times * (2 + label) * np.arange(1, 7)) + 0.1 * rng.normal(size=(samples, 6)) for _, label, _ in rows],
        "y": np.array([label for _, label, _ in rows]),
        "side": np.array([side for *_, side in rows]),
        "subject": np.array([subject for subject, *_ in rows]),
        "X_labels": list(CHANNELS),
        "y_labels": ["push", "lift", "row"],
    }


def watch_file(file: Path, **options: int) -> Path:
    """The same as the package has it, a pickled npy."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content: Any = watch_content(**options)
    np.save(file, content, allow_pickle=True)
    return file


def small(name: str, folder: Path) -> dict[str, Any]:
    """The recipe of a task on small data, without [train]."""
    data = watch_file(folder / "watch.npy") if name == "activity_watch" else npz_folder(folder)
    model = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 16}
    return {"data": {"path": str(data)}, "model": {"options": model}}
