"""A graph with fewer and larger operators: attention is one, and its heads are taken apart and joined within it."""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset23
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewriteRuleClassBase, rewrite

op: Any = opset23
OPSET = 23
"""the first with attention"""
LARGEST = 2**31
"""bytes of a constant that is computed here"""
HEADS_FIRST = [0, 2, 1, 3]
"""[B, P, H, D / H] to [B, H, P, D / H], and back"""


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """`torch.nn.functional.scaled_dot_product_attention` of heads [B, H, Q, D], with no mask or one of bools [B, 1, 1, P], as one
    operator, and that of tokens [B, Q, D]; all else as the exporter writes it out."""
    plain = not (dropout_p or is_causal or enable_gqa)
    ranks = {len(part.shape) for part in (query, key, value)}
    if plain and ranks == {3} and attn_mask is None:  # without heads: one of the whole width
        return op.Attention(query, key, value, scale=scale, q_num_heads=1, kv_num_heads=1)[0]
    if not plain or ranks != {4} or not _of_tokens(attn_mask, query):
        return aten_scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if attn_mask is None:
        return op.Attention(query, key, value, scale=scale)[0]
    # PyTorch has zeros where all tokens are absent, and the operator a mean of theirs.
    some = op.ReduceMax(op.Cast(attn_mask, to=ir.DataType.FLOAT), op.Constant(value_ints=[3]), keepdims=1)
    value = op.Where(op.Cast(some, to=ir.DataType.BOOL), value, op.Constant(value_float=0.0))
    mask = op.Expand(attn_mask, op.Constant(value_ints=[1, 1, query.shape[2], 1]))
    return op.Attention(query, key, value, mask, scale=scale)[0]


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.scaled_dot_product_attention.default: attention}
"""for `torch.onnx.export`"""


def _of_tokens(mask: Any, query: Any) -> bool:
    if mask is None:
        return True
    known = isinstance(query.shape[2], int) and len(mask.shape) == 4
    return known and mask.dtype == ir.DataType.BOOL and list(mask.shape[1:3]) == [1, 1]


def fuse(model: ir.Model) -> ir.Model:
    """The same function of fewer operators."""
    fold_constants(model, onnx_shape_inference=False, input_size_limit=LARGEST, output_size_limit=LARGEST)
    return rewrite(model, [_JoinHeads.rule(), _JoinMaskedHeads.rule(), _MultiplyParts.rule()])


class _JoinHeads(RewriteRuleClassBase):
    """Attention of heads [B, H, P, D / H], taken apart and joined by transpositions -> attention of tokens [B, P, D]."""

    def pattern(self, op: Any, q: Any, k: Any, v: Any, q_form: Any, k_form: Any, v_form: Any, form: Any) -> Any:
        heads = [_heads(op, q, q_form), _heads(op, k, k_form), _heads(op, v, v_form)]
        mixed = op.Attention(*heads, _outputs=["mixed"])
        return op.Reshape(op.Transpose(mixed, perm=HEADS_FIRST), form)

    def rewrite(self, op: Any, q: Any, k: Any, v: Any, mixed: Any, **_: Any) -> Any:
        return op.Attention(q, k, v, **_settings(mixed))


class _JoinMaskedHeads(RewriteRuleClassBase):
    """The same with a mask, as `attention` has it."""

    def pattern(
        self, op: Any, q: Any, k: Any, v: Any, q_form: Any, k_form: Any, v_form: Any, mask: Any, some: Any, zero: Any, form: Any
    ) -> Any:
        values = op.Where(some, _heads(op, v, v_form), zero)
        mixed = op.Attention(_heads(op, q, q_form), _heads(op, k, k_form), values, mask, _outputs=["mixed"])
        return op.Reshape(op.Transpose(mixed, perm=HEADS_FIRST), form)

    def rewrite(self, op: Any, q: Any, k: Any, v: Any, mask: Any, some: Any, zero: Any, mixed: Any, **_: Any) -> Any:
        values = op.Where(op.Squeeze(some, op.Constant(value_ints=[1])), v, zero)
        return op.Attention(q, k, values, mask, **_settings(mixed))


def _heads(op: Any, tokens: Any, form: Any) -> Any:
    return op.Transpose(op.Reshape(tokens, form), perm=HEADS_FIRST)


def _settings(mixed: Any) -> dict[str, Any]:
    """Of attention of heads, with the numbers that are no longer in the shapes."""
    node = mixed.producer()
    query, key = node.inputs[:2]
    return {**node.attributes, "q_num_heads": query.shape[1], "kv_num_heads": key.shape[1]}


class _MultiplyParts(RewriteRuleClassBase):
    """[a, b] W -> a W_a + b W_b, for what is joined to be multiplied and for nothing else."""

    def pattern(self, op: Any, a: Any, b: Any, weight: Any) -> Any:
        return op.MatMul(op.Concat(a, b, axis=-1), weight)

    def check(self, op: Any, a: Any, b: Any, weight: Any, **_: Any) -> Any:  # type: ignore[override]
        return weight.const_value is not None and weight.const_value.shape.rank() == 2 and isinstance(_width(a), int)

    def rewrite(self, op: Any, a: Any, b: Any, weight: Any) -> Any:
        numbers = weight.const_value.numpy()
        parts = numbers[: _width(a)], numbers[_width(a) :]
        of_a, of_b = (op.initializer(ir.tensor(part), f"{weight.name}_{name}") for part, name in zip(parts, "ab", strict=True))
        return op.Add(op.MatMul(a, of_a), op.MatMul(b, of_b))


def _width(tokens: Any) -> Any:
    return tokens.shape[-1] if tokens.shape is not None else None
