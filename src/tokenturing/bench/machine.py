"""The machine that is measured on: what it is, and how fast it multiplies and copies."""

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "tokenturing",
    "torch",
    "numpy",
    "onnxruntime",
    "openvino",
    "recurrent-memory-transformer-pytorch",
    "block-recurrent-transformer-pytorch",
    "titans-pytorch",
    "x-transformers",
    "xlstm",
    "transformers",
)
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "neon", "sve", "bf16")
SIDE = 2048
"""of the square matrices whose product is timed"""
COPIED = 2**26
"""numbers that are copied"""
SECONDS = 0.5


def describe() -> dict[str, Any]:
    """Processor, cores and versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "flags": _flags(),
        "system": platform.system(),
        "python": platform.python_version(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def limits(device: str = "cpu") -> dict[str, float]:
    """What the threads in use reach: products of matrices in 10^9 operations a second, copies in 10^9 bytes a second."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.randn(SIDE, SIDE, device=device).to(dtype)
        found[f"{name}_gflops"] = 2 * SIDE**3 / _seconds(partial(torch.matmul, a, a)) / 1e9
    source, target = torch.zeros(COPIED, device=device), torch.zeros(COPIED, device=device)
    found["copy_gbytes"] = 2 * source.nbytes / _seconds(lambda: target.copy_(source)) / 1e9
    return found


def synchronize(device: str) -> None:
    """Wait until the device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _seconds(run: Callable[[], Any]) -> float:
    """Of the fastest run in half a second: a limit is what a machine does when nothing disturbs it."""
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS or best == float("inf"):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", _cpuinfo())
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _flags() -> list[str]:
    there = set(re.findall(r"\w+", (re.search(r"(?:flags|Features)\s*:\s*(.+)", _cpuinfo()) or [""])[0]))
    return [flag for flag in FLAGS if flag in there]


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
