"""Residual layers of gated recurrence: what the LSTM and the GRU share."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tokenturing.baselines import fused
from tokenturing.baselines.base import VectorBaseline
from tokenturing.errors import OptionError
from tokenturing.layers.linear import Linear
from tokenturing.models.arguments import check_batch_size
from tokenturing.models.numbers import check_real


class GatedLayer(nn.Module):
    """x + out(cell(norm(x))), with a state of one or two vectors a row.

    Subclasses give the cell and say how many gates' worth of projections it has, and whether the gates see the state.

    Args:
        width: D of what goes in and comes out.
        hidden: H of the state.
        dropout: on what comes out.
    """

    gates: int
    gates_see_state = True

    def __init__(self, width: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.input = Linear(width, self.gates * hidden)
        if self.gates_see_state:
            self.recurrent = Linear(hidden, self.gates * hidden)
        self.out = Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.input.weight)
        nn.init.zeros_(self.input.bias)
        if self.gates_see_state:
            for gate in self.recurrent.weight.data.chunk(self.gates):
                wide = torch.promote_types(gate.dtype, torch.float32)  # there is no decomposition in half precision
                gate.copy_(nn.init.orthogonal_(torch.empty_like(gate, dtype=wide)))
            nn.init.zeros_(self.recurrent.bias)

    def remember(self, horizon: float | None) -> None:
        """Set the biases of the gates that keep the state, for memories of up to `horizon` steps."""
        raise NotImplementedError

    def project(self, x: Tensor) -> Tensor:
        """The input's part in the gates, which needs no state: [..., D] -> [..., gates * H]."""
        return self.input(self.norm(x))

    def cell(self, gates: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The input's part [B, gates * H] and the state's [B, H] -> the next state, hidden vector first."""
        raise NotImplementedError

    def kernel(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All steps of `project` and `cell` in one call of PyTorch's: norm(x) [B, T, D], the state [B, H] each -> the hidden
        vectors [B, T, H] and the last state."""
        raise NotImplementedError

    def _weights(self) -> list[Tensor]:
        """As the functions behind `torch.nn.LSTM` and `torch.nn.GRU` take them."""
        return [self.input.weight, self.recurrent.weight, self.input.bias, self.recurrent.bias]


def keep_bias(hidden: int, horizon: float | None) -> Tensor:
    """Biases [H] of a gate that keeps the state when open.

    With no horizon 1, the usual forget-gate bias; else time constants spread evenly over 1 .. horizon steps
    (the chrono initialisation, Tallec and Ollivier 2018, arXiv 1804.11188, section 2).
    """
    if horizon is None:
        return torch.ones(hidden)
    if not 2 < horizon < math.inf:
        raise OptionError(f"horizon={horizon}: expected more than 2 steps and a finite number of them, or None")
    return torch.empty(hidden).uniform_(1.0, horizon - 1).log()


class Stack(VectorBaseline):
    """Layers of gated recurrence over step embeddings; subclasses name the layer and the state."""

    layer_type: type[GatedLayer]
    state_type: type[Any]

    def __init__(self, arguments: dict[str, Any]):
        super().__init__(arguments)
        options = self.config
        if options["horizon"] is not None:
            check_real("horizon", options["horizon"])
        self.hidden: int = options["hidden"] or self.width
        self.layers = nn.ModuleList(
            self.layer_type(self.width, self.hidden, options["dropout"]) for _ in range(options["layers"])
        )
        for layer in self.layers:
            layer.remember(options["horizon"])  # type: ignore[operator]

    def initial_state(self, batch_size: int) -> Any:
        check_batch_size(batch_size)
        zeros = next(self.parameters()).new_zeros(batch_size, len(self.layers), self.hidden)
        return self.state_type(*(zeros.clone() for _ in self.state_type._fields))

    def prepare(
        self, x: Tensor, token_mask: Tensor | None, state: Any, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Any, dict[str, Tensor]]:
        """x [B, T, N, D] -> step embeddings [B, T, D] and the first layer's gates [B, T, gates * H]"""
        embedding = self.embedding(x, token_mask)
        return (embedding, self.layers[0].project(embedding)), {}  # type: ignore[operator]

    def advance(self, prepared: tuple[Tensor, ...], state: Any) -> tuple[Tensor, Any]:
        x, gates = prepared
        following = []
        for index, layer in enumerate(self.layers):
            if index:
                gates = layer.project(x)  # type: ignore[operator]
            following.append(layer.cell(gates, *(leaf[:, index] for leaf in state)))  # type: ignore[operator]
            x = x + layer.dropout(layer.out(following[-1][0]))  # type: ignore[operator]
        leaves = (torch.stack(leaf, dim=1) for leaf in zip(*following, strict=True))
        return self.head(x), self.state_type(*leaves)

    def segment(
        self,
        state: Any,
        x: Tensor,
        token_mask: Tensor | None,
        reset: Tensor | None,
        active: Tensor | None,
        terms: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """Layer by layer on PyTorch's kernels, where they can be used."""
        parts = fused.spans(x.shape[1], reset, active) if fused.usable(list(self.layers), x) else None
        if parts is None:
            return super().segment(state, x, token_mask, reset, active, terms)
        x = self.embedding(x, token_mask)
        ends = []
        for index, layer in enumerate(self.layers):
            hidden, end = fused.recur(layer, layer.norm(x), tuple(leaf[:, index] for leaf in state), parts)  # type: ignore[operator, arg-type]
            ends.append(end)
            x = x + layer.dropout(layer.out(hidden))  # type: ignore[operator]
        y = self.head(x)
        following = self.state_type(*(torch.stack(leaf, dim=1) for leaf in zip(*ends, strict=True)))
        return y if active is None else torch.where(active[:, :, None, None], y, 0.0), following
