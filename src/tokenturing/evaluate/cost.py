"""What a step costs, in multiply-adds: of any model here, and of the paper's tables again."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from tokenturing.models.contract import RecurrentModel, StreamModel
from tokenturing.models.flat import FlatStep, example
from tokenturing.processors.mixer import MixerProcessor
from tokenturing.processors.transformer import TransformerProcessor
from tokenturing.scenic.machine import ScenicTokenTuringMachine
from tokenturing.scenic.units import Encoder, TokenLearnerModuleV11

TOLERANCE = 0.03
"""A row counts as reproduced within this share of the paper's number."""

WIDTH, LAYERS, HEADS, HIDDEN = 768, 4, 12, 512
MEMORY_TOKENS, READ_TOKENS, SEGMENT_STEPS = 96, 16, 6
POOLED, PATCHES = 16, 3136
SHORT, LONG = 96, 3360
"""the paper's sizes on Charades: D and the processor; M, R and steps of a segment; N with spatial pooling and
without; tokens of the models over a whole segment"""


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _vector_flops(matrix: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * matrix.numel()


def _added_vector_flops(bias: Tensor, matrix: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * matrix.numel()


def _rnn_flops(x: Tensor, input_kernel: Tensor, hidden_kernel: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * x.shape[:-1].numel() * (input_kernel.numel() + hidden_kernel.numel())


_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # PyTorch's table has mm, bmm, addmm, baddbmm, convolutions and attention on GPUs; a CPU needs these too.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.mkldnn_rnn_layer: _rnn_flops,
    torch.ops.aten.mv: _vector_flops,
    torch.ops.aten.dot: _vector_flops,
    torch.ops.aten.addmv: _added_vector_flops,
}


class _Counter(TorchDispatchMode):
    """Sums what the formulas say of every operator that runs.

    As `torch.utils.flop_counter.FlopCounterMode` does, which also follows modules and therefore fails at a
    module that is called on a parameter while gradients are off.
    """

    flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator loads torch's compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is None:
            with self:  # in inference mode, operators that are made of others come here whole
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


def count(function: Callable[..., Any], *args: Any) -> int:
    """The multiply-adds of matrix products, attention and convolutions while `function(*args)` runs.

    What is done once for each number (norms, softmax, gates, additions) is not counted. Whatever runs on the
    device "meta" is counted without being computed.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator, of which there is no formula
    try:
        with torch.no_grad(), _Counter() as counter:
            function(*args)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.flops // 2


def multiply_adds(model: RecurrentModel, input_tokens: int) -> int:
    """The multiply-adds of the first step of one row with that many input tokens N, counted by running it.

    It runs on the model's own device, without dropout. A model whose state grows costs more at later steps.
    """
    like = next(model.parameters())
    x = torch.zeros(1, input_tokens, model.width, device=like.device, dtype=like.dtype)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return count(model.step, x, model.initial_state(1))
    finally:
        for module, training in modes.items():
            module.training = training


def step_cost(model: nn.Module) -> int | None:
    """The multiply-adds of the first step of one row of any model that streams, eyes and head included; None of any other."""
    if isinstance(model, RecurrentModel):
        return multiply_adds(model, model.input_tokens or 1)
    if not isinstance(model, StreamModel):
        return None
    step = FlatStep(model)  # type: ignore[arg-type]  # a module that keeps the contract
    return count(step, tuple(example(step.signature, 1).values()), tuple(step.initial_leaves(1).values()))


@dataclass(frozen=True)
class CostRow:
    """One number of the paper's tables and ours, in giga-multiply-adds (which the paper calls GFLOPS)."""

    name: str
    paper: float
    ours: float
    note: str = ""
    """how ours was counted, where that is not plain"""

    @property
    def ratio(self) -> float:
        """Ours over the paper's."""
        return self.ours / self.paper

    @property
    def reproduced(self) -> bool:
        """Whether ours is within `TOLERANCE` of the paper's."""
        return abs(self.ratio - 1) <= TOLERANCE


def paper_table() -> list[CostRow]:
    """The GFLOPS of the paper's tables 2 to 6 (arXiv 2211.09119), counted on modules of its sizes.

    The machines are the official ones (`tokenturing.scenic`). Rows that are not reproduced are listed too,
    with the plainest reading of what the paper says of them.
    """
    return [*_machine_rows(), *_ablation_rows(), *_other_models(), *_odd_rows()]


def _machine(input_tokens: int, **fields: Any) -> float:
    model = ScenicTokenTuringMachine(
        WIDTH,
        process_size=READ_TOKENS,
        memory_size=MEMORY_TOKENS,
        num_layers=LAYERS,
        num_heads=HEADS,
        mlp_dim=HIDDEN,
        **fields,
    )
    return multiply_adds(model, input_tokens) / 1e9


def _on_tokens(module: nn.Module, tokens: int) -> float:
    return count(module, torch.zeros(1, tokens, WIDTH)) / 1e9


def _mixer(tokens: int) -> float:
    return _on_tokens(MixerProcessor(WIDTH, tokens, LAYERS, HIDDEN), tokens)


@cache
def _transformer(tokens: int) -> float:
    # 3000 tokens and more take seconds to compute and nothing on "meta", where a single operator is slower.
    with torch.device("meta" if tokens > 1000 else "cpu"):
        return _on_tokens(TransformerProcessor(WIDTH, LAYERS, HEADS, HIDDEN), tokens)


def _machine_rows() -> list[CostRow]:
    return [
        CostRow("TTM-Transformer, N = 16", 0.228, _machine(POOLED)),
        CostRow("TTM-Transformer, N = 3136", 0.842, _machine(PATCHES)),
        CostRow("TTM-Mixer, N = 16", 0.089, _machine(POOLED, processing_unit="mixer")),
        CostRow("TTM-Mixer, N = 3136", 0.704, _machine(PATCHES, processing_unit="mixer")),
        CostRow("TTM-MLP, N = 3136", 0.689, _machine(PATCHES, processing_unit="mlp")),
    ]


def _ablation_rows() -> list[CostRow]:
    return [
        CostRow(
            "pooling summariser, N = 3136", 0.206, _transformer(READ_TOKENS), "the processor alone: a mean multiplies nothing"
        ),
        CostRow("latent-query summariser, N = 3136", 8.537, _machine(PATCHES, memory_mode="TL-MHA")),
        CostRow("erase-and-add write, N = 3136", 0.423, _machine(PATCHES, memory_mode="TL-AddErase")),
        CostRow(
            "concatenating write, N = 3136",
            0.920,
            _growing_memory(),
            f"the mean of {SEGMENT_STEPS} steps if every token is kept; if the newest M are, 0.405",
        ),
    ]


def _growing_memory() -> float:
    """The mean of a segment's steps if the memory becomes [memory || input || output] and nothing is dropped.

    A read costs the same for each token, so the mean of the steps is the step of mean length.
    """
    read = TokenLearnerModuleV11(WIDTH, READ_TOKENS)
    process = Encoder(WIDTH, READ_TOKENS, LAYERS, HEADS, HIDDEN, dropout=0.0)
    grown = (PATCHES + READ_TOKENS) * (SEGMENT_STEPS - 1) // 2
    return _on_tokens(nn.Sequential(read, process), MEMORY_TOKENS + grown + PATCHES)


def _other_models() -> list[CostRow]:
    return [
        CostRow("temporal Mixer, 96 tokens", 0.382, _mixer(SHORT)),
        CostRow("temporal Mixer, 3360 tokens", 13.317, _mixer(LONG)),
        CostRow("temporal Transformer, 96 tokens", 1.269, _transformer(SHORT)),
        CostRow("temporal Transformer, 3360 tokens", 112.836, _transformer(LONG)),
        CostRow("recurrent Transformer, 16 + 16", 0.410, _transformer(POOLED + READ_TOKENS)),
    ]


def _odd_rows() -> list[CostRow]:
    """What the paper does not say enough of, or what its numbers contradict."""
    causal = "a whole pass, of which a mask saves nothing; one Dense and attention 128 wide would give "
    lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
    return [
        CostRow(
            "recurrent Transformer, 3136 + 16", 17.10, _transformer(PATCHES + READ_TOKENS), "every token attends to every other"
        ),
        CostRow("causal Transformer, 96 tokens", 0.523, _transformer(SHORT), causal + "0.519"),
        CostRow("causal Transformer, 3360 tokens", 29.695, _transformer(LONG), causal + "29.40"),
        CostRow("LSTM, N = 16", 0.107, _on_tokens(lstm, POOLED), "one layer, 768 wide, over 16 tokens"),
    ]


def format_table(rows: list[CostRow]) -> str:
    """Rows as aligned text, for a terminal."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'multiply-adds a step, in 10^9':<{width}}  {'paper':>8}  {'ours':>8}  {'ratio':>5}"]
    for row in rows:
        mark = " " if row.reproduced else "x"
        line = f"{row.name:<{width}}  {row.paper:8.3f}  {row.ours:8.3f}  {row.ratio:5.3f} {mark} {row.note}"
        lines.append(line.rstrip())
    return "\n".join([*lines, f"x: not within {TOLERANCE:.0%} of the paper's number"])
