"""Arrays as clients send them: every type is taken where nothing is lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import TOKENS, inputs, small_machine

import tokenturing as tt
from tokenturing.errors import ShapeError
from tokenturing.export import eager
from tokenturing.serve.arrays import Array, array, to_numpy
from tokenturing.serve.served import Served


@pytest.mark.parametrize(
    ("sent", "dtype", "expected"),
    [
        (array(np.array([0.5, -2], np.float16)), "float32", [0.5, -2]),
        (array(np.array([0.1])), "float32", [np.float32(0.1)]),
        ([1, 0, True], "bool", [True, False, True]),
        (array(np.array([1, 0], np.int64)), "bool", [True, False]),
        (array(np.array([1, 0], np.uint8)), "bool", [True, False]),
        (array(np.array([1, 0], np.float32)), "bool", [True, False]),
        (array(np.array([True, False])), "bool", [True, False]),
        (array(np.array([True, False])), "float32", [1, 0]),
        (array(np.array([3, 255], np.uint8)), "int64", [3, 255]),
        (array(np.array([2**31 - 1], np.int64)), "int32", [2**31 - 1]),
        ([], "bool", []),
    ],
)
def test_what_loses_nothing_is_taken(sent: Any, dtype: str, expected: list[Any]) -> None:
    found = to_numpy("x", sent, np.dtype(dtype))
    assert found.dtype == dtype
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("sent", "dtype", "match"),
    [
        ([1, 2], "bool", "expected true and false, or 1 and 0"),
        ([0.5], "bool", "expected true and false"),
        ([-1], "bool", "expected true and false"),
        (array(np.array([np.nan])), "bool", "expected true and false"),
        (Array("bool", [1], b"\2"), "bool", "expected true and false"),
        (array(np.array([2**31])), "int32", "whole numbers that int32 can hold"),
        ([1.5], "int64", "whole numbers that int64 can hold"),
        ([2**70], "int64", "holds object"),
        (["a"], "bool", "holds"),
        (array(np.array([np.inf], np.float16)), "float32", "infinite"),
        (array(np.array([1j])), "float32", "complex128: expected float32"),
        (array(np.array([7e4])), "float16", "too large"),
    ],
)
def test_what_would_be_another_is_refused(sent: Any, dtype: str, match: str) -> None:
    with pytest.raises(ShapeError, match=match):
        to_numpy("x", sent, np.dtype(dtype))


def test_a_mask_of_ones_and_zeros_masks(tmp_path: Path) -> None:
    served = Served("m", eager(tt.load(small_machine(tmp_path / "machine"))))
    x = array(np.repeat(inputs(1)[0][:1], TOKENS, axis=0) * np.arange(1, TOKENS + 1, dtype=np.float32)[:, None])

    def y(mask: Any) -> bytes:
        (outcome,) = served.step([served.begin("inputs")], [{"x": x, "token_mask": mask}])
        assert outcome.error is None
        return outcome.outputs["y"].data

    expected = y([True, False, True])
    assert y([1, 0, 1]) == y(array(np.array([1, 0, 1], np.int64))) == expected
    assert y([1, 1, 1]) != expected, "the control"
