"""Small data sets of activities, drawn anew, as people have them in folders."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

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


def annotated_folder(folder: Path, videos: int = 6, steps: int = 30) -> dict[str, str]:
    """Features as `tokenturing features` writes them, and a CSV: where both are."""
    (folder / "features").mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(0), ["id,actions"]
    for number in range(videos):
        arrays = {"features": rng.normal(size=(steps, 1, 5)).astype(np.float32), "times": (1 + np.arange(steps)) / 2}
        about = {"encoder": "tiny", "hash": "abc", "rate": "2.0", "grid": "1"}
        save_file(arrays, folder / "features" / f"v{number}.safetensors", about)
        lines.append(f"v{number},c001 1.0 {4 + number}.0;c003 3.0 9.0")
    (folder / "actions.csv").write_text("\n".join(lines) + "\n")
    return {"path": str(folder / "features"), "annotations": str(folder / "actions.csv")}


def framewise_folder(folder: Path, videos: int = 8, steps: int = 24) -> Path:
    """As MiniROAD has them: 22 columns, the background first and the ambiguous last; flow is a frame shorter."""
    rng = np.random.default_rng(0)
    for part in ("rgb_x", "flow_x", "target_perframe"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(videos):
        name = f"video_{('validation', 'test')[number % 4 == 3]}_{number:07}.npy"
        label = np.where(np.arange(steps) // 6 % 2 == 0, 0, 1 + number % 3)
        target = np.eye(22)[label]
        target[-2:] = np.eye(22)[21]
        np.save(folder / "target_perframe" / name, target)
        seen = np.eye(4)[np.minimum(label, 3)] + 0.1 * rng.normal(size=(steps, 4))
        np.save(folder / "rgb_x" / name, seen.astype(np.float32))
        np.save(folder / "flow_x" / name, rng.normal(size=(steps - 1, 3)).astype(np.float32))
    return folder


def small(name: str, folder: Path) -> dict[str, Any]:
    """The recipe of a task on small data, without [train]."""
    makers: dict[str, Any] = {
        "activity_watch": lambda: {"path": str(watch_file(folder / "watch.npy"))},
        "activity_50salads": lambda: {"path": str(npz_folder(folder))},
        "activity_charades": lambda: annotated_folder(folder),
        "activity_thumos": lambda: {"path": str(framewise_folder(folder))},
    }
    model = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "hidden": 16}
    return {"data": makers[name](), "model": {"options": model}}
