"""Attention and products of joined tokens in exported graphs: fewer operators, the same numbers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenturing import runtime
from tokenturing.export import export_onnx

ROWS, TOKENS, WIDTH, HEADS = 3, 5, 8, 2


class Mixer(nn.Module):
    """Tokens [B, P, D] look at each other, those left out by a mask are not seen; the state counts."""

    def __init__(self, how: str):
        super().__init__()
        torch.manual_seed(0)
        self.how, self.qkv, self.both = how, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def initial_state(self, rows: int) -> Tensor:
        return torch.zeros(rows, 1)

    def step(self, inputs: tuple[Tensor, Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
        x, present = inputs
        parts = self.qkv(x).chunk(3, dim=-1)
        if self.how == "alone":
            mixed = F.scaled_dot_product_attention(*parts)
        else:
            heads = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts]
            mask = present[:, None, None, :] if self.how == "masked" else None
            mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask, is_causal=self.how == "causal")
            mixed = mixed.transpose(1, 2).flatten(-2)
        return self.both(torch.cat([x, mixed], dim=-1)), state + 1


def exported(model: nn.Module, folder: Path) -> tuple[runtime.Runtime, list[str]]:
    """The model on the runtime, and the operators of its graph."""
    inputs = torch.randn(1, TOKENS, WIDTH), torch.ones(1, TOKENS, dtype=torch.bool)
    path = export_onnx(model, folder, inputs=inputs)
    return runtime.load(path, threads=1), [node.op_type for node in onnx.load(path / "model.onnx").graph.node]


@pytest.mark.parametrize("how", ["plain", "masked", "causal", "alone"])
def test_attention_is_the_same(how: str, tmp_path: Path) -> None:
    model = Mixer(how)
    machine, operators = exported(model, tmp_path / how)
    fused = how != "causal"
    assert operators.count("Attention") == fused
    assert operators.count("MatMul") == (3 if fused else 5)
    assert not fused or not {"Transpose", "Concat"} & set(operators), "heads and parts are joined within the operators"
    x, present = torch.randn(ROWS, TOKENS, WIDTH), torch.rand(ROWS, TOKENS) < 0.5
    present[1] = False
    with torch.no_grad():
        wanted, _ = model.step((x, present), model.initial_state(ROWS))
    names = list(machine.inputs)
    y, _ = machine.step(dict(zip(names, (x.numpy(), present.numpy()), strict=True)), machine.initial_state(ROWS))
    np.testing.assert_allclose(y, wanted.numpy(), atol=1e-6, err_msg="zeros where all are absent")


def test_the_exporters_own_attention_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with its mask of one row for all queries."""
    monkeypatch.setattr("tokenturing.export.onnx.TRANSLATIONS", {})
    with pytest.raises(Exception, match="attn_mask"):
        exported(Mixer("masked"), tmp_path / "own")
