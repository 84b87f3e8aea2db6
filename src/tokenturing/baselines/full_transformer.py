"""A causal Transformer over the whole history: what a bounded memory is measured against."""

from tokenturing.baselines.causal import CausalTransformer


class FullTransformer(CausalTransformer):
    """Attends to every step since the row began; its cache and the cost of a step grow with the stream.

    `causal.py` says how it knows positions and why.

    Args:
        width: D.
        layers: pre-norm blocks.
        heads: of every attention; a divisor of the width.
        hidden: width of the blocks' MLP; None: 4 D.
        input_tokens: N where it is fixed, else None.
        read_tokens: R.
        dropout: inside the blocks.
    """

    growing = frozenset({"cache"})

    def __init__(
        self,
        width: int,
        layers: int = 4,
        heads: int = 8,
        *,
        hidden: int | None = None,
        input_tokens: int | None = None,
        read_tokens: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__(locals())
