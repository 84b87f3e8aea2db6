"""Peers from the package index (the extra "peers"): other recurrent Transformers and state spaces, behind one face.

A step is the N tokens that come in at once: a segment, a block or N tokens of a sequence, as each peer takes them, and what the
peer remembers goes on to the next step. Widths and heads are the machine's; each has the machine's layers, or as near as can be,
and a hidden size that brings it to the machine's parameters. Where a peer wants token numbers and no vectors, it gets the sign of
each token's first number. Training takes all T steps at once where the peer has a form for that, as its users would.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenturing.errors import MissingExtraError

if TYPE_CHECKING:
    from tokenturing.bench.contestants import Contestant, Size

DEEPEST = 32
TRAINED_STEPS = 24
"""the longest streams that the forms for all steps at once are built for"""
Build = Callable[[int, int], nn.Module]
"""(layers, hidden size) -> the module"""


def recurrent_memory_transformer(size: "Size", goal: int, device: str) -> "Contestant":
    """Segments of N tokens between M memory tokens that are read and M that are written (arXiv 2207.06881).

    Fed with token numbers. The state is the M written tokens; the cache of the segment before, which is an option, is off.
    Training goes segment by segment.
    """
    with _extra("recurrent-memory-transformer-pytorch"):
        from recurrent_memory_transformer_pytorch import RecurrentMemoryTransformer

    def build(layers: int, hidden: int) -> nn.Module:
        return RecurrentMemoryTransformer(
            size.width,
            num_tokens=2,
            depth=layers,
            num_memory_tokens=size.memory_tokens,
            seq_len=size.input_tokens,
            heads=size.heads,
            dim_head=size.width // size.heads,
            ff_mult=hidden / size.width,
            use_xl_memories=False,
        )

    model = fitted(build, size, goal, device)

    def step(x: Tensor, state: Any) -> tuple[Any, Any]:
        y, memories, _ = model(_signs(x), state)
        return y, memories

    return _peer("recurrent-memory-transformer", model, lambda rows: None, step)


def block_recurrent_transformer(size: "Size", goal: int, device: str) -> "Contestant":
    """Blocks of N tokens; the middle layer has M state vectors, each layer the keys of the block before (arXiv 2203.07852).

    Fed with token numbers. Its step hands out its state without gradients, so training gives it all blocks in one call, which
    carries the state from block to block itself.
    """
    with _extra("block-recurrent-transformer-pytorch"):
        from block_recurrent_transformer_pytorch import BlockRecurrentTransformer

    def build(layers: int, hidden: int) -> nn.Module:
        return BlockRecurrentTransformer(
            num_tokens=2,
            dim=size.width,
            depth=layers,
            heads=size.heads,
            dim_head=size.width // size.heads,
            max_seq_len=TRAINED_STEPS * size.input_tokens,
            block_width=size.input_tokens,
            num_state_vectors=size.memory_tokens,
            ff_mult=hidden / size.width,
        )

    model = fitted(build, size, goal, device, shallowest=2)

    def step(x: Tensor, state: Any) -> tuple[Any, Any]:
        keys, vectors = state
        y, keys, vectors = model(_signs(x), xl_memories=keys, states=vectors, return_memories_and_states=True)
        return y, (keys, vectors)

    def whole(x: Tensor) -> Tensor:
        return model(_signs(x).flatten(1))[0]

    return _peer("block-recurrent-transformer", model, lambda rows: ([], []), step, whole=whole)


def titans(size: "Size", goal: int, device: str) -> "Contestant":
    """The neural memory of Titans alone (arXiv 2501.00663), layers of it with residuals and no attention around them.

    Fed with vectors. The N tokens of a step are one step of gradient descent, with momentum and decay, on an MLP in each head;
    the state is these MLPs and their momentum.
    """
    with _extra("titans-pytorch"):
        from titans_pytorch import MemoryMLP, NeuralMemory

    head = size.width // size.heads

    def build(layers: int, hidden: int) -> nn.Module:
        made = [
            NeuralMemory(
                size.width,
                size.input_tokens,
                batch_size=size.input_tokens,
                dim_head=head,
                heads=size.heads,
                model=MemoryMLP(head, depth=2, expansion_factor=hidden / size.width),
            )
            for _ in range(layers)
        ]
        for layer in made:
            # A pattern, of which each head has a copy; it is never used itself.
            layer.memory_model.requires_grad_(False)
        return nn.ModuleList(made)

    model = fitted(build, size, goal, device)
    layers: list[Any] = list(model.children())

    def step(x: Tensor, state: Any) -> tuple[Any, Any]:
        following = []
        for layer, before in zip(layers, state, strict=True):
            y, after = layer(x, state=before)
            following.append(after._replace(updates=None))  # of this step alone
            x = x + y
        return x, following

    def whole(x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        for layer in layers:
            x = x + layer(x)[0]
        return x

    return _peer("titans neural memory", model, lambda rows: [None] * len(layers), step, whole=whole)


def x_transformers(size: "Size", goal: int, device: str) -> "Contestant":
    """A causal decoder with rotary positions and a cache over the whole stream, which grows.

    Fed with vectors, N at a time after the cache; the state is the keys and values alone. Training is one causal pass.
    """
    with _extra("x-transformers"):
        from x_transformers import ContinuousTransformerWrapper, Decoder
        from x_transformers.x_transformers import Intermediates, LayerIntermediates

    def build(layers: int, hidden: int) -> nn.Module:
        attention = Decoder(
            dim=size.width,
            depth=layers,
            heads=size.heads,
            attn_dim_head=size.width // size.heads,
            rotary_pos_emb=True,
            ff_mult=hidden / size.width,
        )
        return ContinuousTransformerWrapper(dim_in=size.width, dim_out=size.width, max_seq_len=0, attn_layers=attention)

    model = fitted(build, size, goal, device)

    def step(x: Tensor, state: Any) -> tuple[Any, Any]:
        # cache_age: how many tokens are new; without it, it would take the last alone.
        y, found = model(x, cache=state, input_not_include_cache=True, cache_age=x.shape[1], return_intermediates=True)
        kept = [Intermediates(cached_kv=one.cached_kv, layer_type=one.layer_type) for one in found.attn_intermediates]
        return y, LayerIntermediates(attn_intermediates=kept, cache_length=found.cache_length)

    return _peer("x-transformers", model, lambda rows: None, step, grows=True, whole=lambda x: model(x.flatten(1, 2)))


def xlstm(size: "Size", goal: int, device: str) -> "Contestant":
    """mLSTM blocks (arXiv 2405.04517).

    Fed with vectors, token by token, as its step takes no more; the state is each head's matrix and the convolution's last
    inputs. Training is the parallel form.
    """
    with _extra("xlstm"):
        from xlstm import mLSTMBlockConfig, mLSTMLayerConfig, xLSTMBlockStack, xLSTMBlockStackConfig

    def build(layers: int, hidden: int) -> nn.Module:
        layer = mLSTMLayerConfig(
            num_heads=size.heads, proj_factor=hidden / size.width, round_proj_up_to_multiple_of=4 * size.heads
        )
        return xLSTMBlockStack(
            xLSTMBlockStackConfig(
                mlstm_block=mLSTMBlockConfig(mlstm=layer),
                context_length=TRAINED_STEPS * size.input_tokens,
                num_blocks=layers,
                embedding_dim=size.width,
            )
        )

    model: Any = fitted(build, size, goal, device, unit=4 * size.heads)

    def step(x: Tensor, state: Any) -> tuple[Any, Any]:
        state = dict(state)  # its step writes into the one it is given
        outputs = []
        for token in x.unbind(1):
            y, state = model.step(token.unsqueeze(1), state)
            outputs.append(y)
        return torch.cat(outputs, 1), state

    return _peer("xlstm", model, lambda rows: {}, step, whole=lambda x: model(x.flatten(1, 2)))


def mamba(size: "Size", goal: int, device: str) -> "Contestant":
    """Mamba (arXiv 2312.00752) of transformers; on a CPU that is its reference code, without its kernels.

    Fed with vectors, token by token: given more than one, the reference code begins its scan at zero, whatever the cache holds.
    The cache is changed in place. Training is one pass, whose scan is a loop over the tokens.
    """
    with _extra("transformers"):
        from transformers import MambaConfig, MambaModel

    def build(layers: int, hidden: int) -> nn.Module:
        config = MambaConfig(vocab_size=1, hidden_size=size.width, num_hidden_layers=layers)
        config.intermediate_size = hidden
        return MambaModel(config)

    model = fitted(build, size, goal, device)

    def step(x: Tensor, state: Any) -> tuple[Any, Any]:
        outputs = []
        for token in x.unbind(1):
            found = model(inputs_embeds=token.unsqueeze(1), use_cache=True, **state)
            name = "cache" if "cache" in found else "cache_params"  # its older name
            state = {name: found[name]}
            outputs.append(found.last_hidden_state)
        return torch.cat(outputs, 1), state

    def whole(x: Tensor) -> Tensor:
        return model(inputs_embeds=x.flatten(1, 2), use_cache=False).last_hidden_state

    return _peer("mamba", model, lambda rows: {}, step, whole=whole)


PEERS: dict[str, Callable[["Size", int, str], "Contestant"]] = {
    "recurrent-memory-transformer": recurrent_memory_transformer,
    "block-recurrent-transformer": block_recurrent_transformer,
    "titans neural memory": titans,
    "x-transformers": x_transformers,
    "xlstm": xlstm,
    "mamba": mamba,
}


@contextmanager
def _extra(package: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ImportError as error:
            raise MissingExtraError(package, "peers") from error


def fitted(build: Build, size: "Size", goal: int, device: str, shallowest: int = 1, unit: int = 8) -> nn.Module:
    """The module with about `goal` parameters whose layers are nearest to the machine's.

    Parameters are as good as linear in the hidden size, so that two sizes tell the one that fits. It is a multiple of `unit`, and
    from one to eight widths, where it can be.
    """
    depths = sorted(range(shallowest, DEEPEST + 1), key=lambda depth: abs(depth - size.layers))
    for depth in depths:
        hidden = _hidden(build, depth, size.width, goal, unit)
        if size.width <= hidden <= 8 * size.width:
            break
    else:
        depth, hidden = shallowest, unit
    torch.manual_seed(0)
    return build(depth, hidden).to(device)


def _hidden(build: Build, depth: int, width: int, goal: int, unit: int) -> int:
    """The hidden size that brings modules of that depth next to `goal` parameters, as far as a line through two tells."""
    from tokenturing.bench.contestants import numbers

    low, high = 2 * width, 4 * width
    few, many = numbers(build(depth, low)), numbers(build(depth, high))
    return round((low + (goal - few) * (high - low) / (many - few)) / unit) * unit


def _signs(x: Tensor) -> Tensor:
    """Token numbers [...] of tokens [..., D]"""
    return (x[..., 0] > 0).long()


def _peer(
    name: str,
    model: nn.Module,
    start: Callable[[int], Any],
    step: Callable[[Tensor, Any], tuple[Any, Any]],
    grows: bool = False,
    whole: Callable[[Tensor], Tensor] | None = None,
) -> "Contestant":
    """A peer is trained by `whole`, x [B, T, N, D], if it has a form for all steps at once; else step by step."""
    from tokenturing.bench.contestants import Contestant, loss_of, numbers

    def train(x: Tensor) -> None:
        model.zero_grad()
        state, outputs = start(len(x)), [] if whole is None else [whole(x)]
        for t in range(x.shape[1] if whole is None else 0):
            y, state = step(x[:, t], state)
            outputs.append(y)
        loss_of(*outputs).backward()

    return Contestant(name, "peer", numbers(model), start, step, train, grows, whole)
