"""Multiply-adds: of single operators, of every model, and of the paper's tables."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import GROWING, ZOO, build

from tokenturing.evaluate.cost import CostRow, count, format_table, multiply_adds, paper_table

B, N, D, H = 2, 5, 16, 32
x, heads = torch.zeros(B, N, D), torch.zeros(B, 4, N, D)
mask = torch.ones(N, N, dtype=torch.bool)
LSTM = N * B * 4 * H * (D + H)
MULTIHEAD = 4 * B * N * D * D + 2 * B * N * N * D
OPERATORS: dict[str, tuple[Callable[[], Any], int]] = {
    "linear": (lambda: nn.Linear(D, H)(x), B * N * D * H),
    "bmm": (lambda: x @ x.transpose(1, 2), B * N * N * D),
    "einsum": (lambda: torch.einsum("bnd,bmd->bnm", x, x), B * N * N * D),
    "matrix by vector": (lambda: x[0] @ x[0, 0], N * D),
    "vector by vector": (lambda: x[0, 0] @ x[0, 0], D),
    "linear of a vector": (lambda: nn.Linear(D, H)(x[0, 0]), D * H),
    "convolution": (lambda: nn.Conv1d(D, H, 3)(x.transpose(1, 2)), B * (N - 2) * 3 * D * H),
    "attention": (lambda: F.scaled_dot_product_attention(heads, heads, heads), B * 4 * 2 * N * N * D),
    "masked attention": (
        lambda: F.scaled_dot_product_attention(heads, heads, heads, mask),
        B * 4 * 2 * N * N * D,
    ),
    "LSTM": (lambda: nn.LSTM(D, H, batch_first=True)(x), LSTM),
    "GRU": (lambda: nn.GRU(D, H, batch_first=True)(x), LSTM * 3 // 4),
    "multi-head attention": (
        lambda: nn.MultiheadAttention(D, 4, batch_first=True).eval()(x, x, x),
        MULTIHEAD,
    ),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(D, 4, H, batch_first=True).eval()(x),
        MULTIHEAD + 2 * B * N * D * H,
    ),
    "elementwise": (lambda: x.softmax(-1) * x + x.sigmoid(), 0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str) -> None:
    function, expected = OPERATORS[name]
    assert count(function) == expected
    with torch.inference_mode():
        assert count(function) == expected


@pytest.mark.parametrize("name", ZOO)
def test_every_model(name: str) -> None:
    model = build(name).train()
    generator = torch.get_rng_state()
    cost = multiply_adds(model, 3)
    assert cost > 0
    assert all(module.training for module in model.modules())
    assert torch.equal(generator, torch.get_rng_state())
    if model.input_tokens is None and name not in GROWING:
        assert multiply_adds(model, 6) >= cost


@pytest.fixture(scope="module")
def table() -> dict[str, CostRow]:
    return {row.name: row for row in paper_table()}


REPRODUCED = (
    "TTM-Transformer, N = 16",
    "TTM-Transformer, N = 3136",
    "TTM-Mixer, N = 16",
    "TTM-Mixer, N = 3136",
    "TTM-MLP, N = 3136",
    "pooling summariser, N = 3136",
    "latent-query summariser, N = 3136",
    "erase-and-add write, N = 3136",
    "concatenating write, N = 3136",
    "temporal Mixer, 96 tokens",
    "temporal Mixer, 3360 tokens",
    "temporal Transformer, 96 tokens",
    "temporal Transformer, 3360 tokens",
    "recurrent Transformer, 16 + 16",
)


@pytest.mark.parametrize("name", REPRODUCED)
def test_reproduces_the_paper(name: str, table: dict[str, CostRow]) -> None:
    assert table[name].ratio == pytest.approx(1, abs=0.03)


def test_says_which_rows_it_does_not_reproduce(table: dict[str, CostRow]) -> None:
    assert {name for name, row in table.items() if not row.reproduced} == table.keys() - set(REPRODUCED)
    assert all(row.note for row in table.values() if not row.reproduced)


def test_table_is_for_people(table: dict[str, CostRow]) -> None:
    lines = format_table(list(table.values())).splitlines()
    assert len(lines) == len(table) + 2
    assert any("TTM-Transformer, N = 3136" in line and "0.842" in line and "0.824" in line for line in lines)
