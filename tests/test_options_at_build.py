"""Options that fit no model are refused when it is built, under the names their callers gave."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tokenturing as tt
from tokenturing import baselines
from tokenturing.errors import CheckpointError, OptionError

NAN, INF = float("nan"), float("inf")


def machine(**options: Any) -> tt.TokenTuringMachine:
    return tt.TokenTuringMachine(**({"width": 16, "memory_tokens": 4, "read_tokens": 1, "layers": 1, "heads": 2} | options))


WRONG: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("width", "memory_tokens", "read_tokens", "layers", "heads"), (0, -1, 2.5, 8.0, True, "8", None, NAN)),
    **dict.fromkeys(("input_tokens", "hidden"), (0, -1, 2.5, True, "8")),
    "look_back": (-1, 1.5, True, None),
    "horizon": (0, -5, INF, NAN, None, "8", True),
    "dropout": (NAN, 1.0, -0.1, INF, None, "x", False),
    "write_cost": (-1, NAN, INF, None, "x"),
    "positions": ("x", 1, None),
    "read": ("foo", None, ["mlp"]),
    "write": ("foo", None),
    "processor": ("foo", None),
    "initial_memory": ("foo", None),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_machine_refuses(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(OptionError, match=rf"^{name}={re.escape(repr(value))}"):
            machine(**{name: value}, **({"input_tokens": 1} if name == "look_back" else {}))


SHARED: dict[str, tuple[Any, ...]] = {
    "width": (0, 2.5, True, "8", None),
    "layers": (0, 1.5, True, None),
    "hidden": (0, 2.5, True),
    "input_tokens": (0, True, 1.5),
    "read_tokens": (0, True, None),
    "dropout": (NAN, 1.0, -0.1, None, "x"),
}
OWN: dict[str, dict[str, tuple[Any, ...]]] = {
    **{kind: {"horizon": (0, 2, -5, INF, NAN, "8", True)} for kind in ("LSTM", "GRU", "MinGRU")},
    "WindowTransformer": {"window": (0, 2.5, True, None), "heads": (0, True)},
    "FullTransformer": {"heads": (0, True)},
    "RecurrentTransformer": {"state_tokens": (0, 1.5, True), "heads": (0, True)},
    "TemporalMixer": {"window": (0, 2.5, True)},
    "Retrieval": {"nearest": (0, 2.5, True), "heads": (0, True)},
}


@pytest.mark.parametrize("kind", baselines.__all__)
def test_the_baselines_refuse(kind: str) -> None:
    make: Callable[..., Any] = getattr(importlib.import_module("tokenturing.baselines"), kind)
    for name, values in (SHARED | OWN.get(kind, {})).items():
        for value in values:
            with pytest.raises(OptionError, match=rf"^{name}={re.escape(repr(value))}"):
                make(**({"width": 16} | {name: value}))


def test_heads_that_do_not_divide_the_width() -> None:
    for options in ({}, {"processor": "mlp"}, {"processor": "mlp", "read": "query", "write": "none"}):
        with pytest.raises(OptionError, match="width=16 cannot be split into heads=3"):
            machine(heads=3, **options)
    machine(heads=3, processor="mlp", write="none").step(torch.zeros(1, 1, 16))  # where there is nothing to split


def test_what_fits_is_taken() -> None:
    machine(dropout=0, horizon=1, write_cost=0, hidden=8, input_tokens=2, look_back=1)
    machine(horizon=0.5, dropout=0.999, hidden=None, input_tokens=None)
    tt.baselines.GRU(16, horizon=3)


def test_a_checkpoint_with_such_options_is_refused(tmp_path: Path) -> None:
    tt.save(machine(), tmp_path / "a")
    config = tmp_path / "a" / "config.json"
    text = config.read_text()
    for old, new in (
        ('"horizon": 1024.0', '"horizon": 0'),
        ('"heads": 2', '"heads": true'),
        ('"positions": true', '"positions": "x"'),
    ):
        assert old in text
        config.write_text(text.replace(old, new))
        with pytest.raises(CheckpointError, match=r"config\.json does not fit TokenTuringMachine \((horizon|heads|positions)="):
            tt.load(tmp_path / "a")
