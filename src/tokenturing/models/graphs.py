"""A cell whose calls torch.compile makes, also as CUDA graphs, which compute in memory that they take again and again."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tokenturing.errors import choose

DEFAULT, GRAPHS = "default", "reduce-overhead"
MODES = (DEFAULT, GRAPHS)
"""of torch.compile"""


def compile_cell(cell: nn.Module, mode: str = DEFAULT) -> None:
    """Have torch.compile make a cell's calls.

    In the mode "reduce-overhead" a call on a GPU is a CUDA graph; elsewhere it is as by default. A call that keeps nothing for
    the way back hands out copies. What others hand out is there until the next `torch.compiler.cudagraph_mark_step_begin()`,
    which whoever trains calls before each forward pass, with copies of the state carried on and of the gradients so far.

    Raises:
        OptionError: there is no such mode.
    """
    cell.compile(dynamic=False, mode=choose("mode", mode, MODES))
    if mode == GRAPHS:
        cell._compiled_call_impl = _handing_out_copies(cell, cell._compiled_call_impl)


def _handing_out_copies(cell: nn.Module, compiled: Any) -> Any:
    def call(*inputs: Any) -> Any:
        # In a loop over time with gradients the results of all steps are needed until the way back has ended.
        if torch.compiler.is_compiling() or _trains(cell, inputs):
            return compiled(*inputs)
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, compiled(*inputs))

    return call


def _trains(cell: nn.Module, inputs: tuple) -> bool:
    """Whether a call keeps what it needs for the way back."""
    if not torch.is_grad_enabled():
        return False
    leaves = (leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
    return any(part.requires_grad for part in cell.parameters()) or any(leaf.requires_grad for leaf in leaves)
