"""A causal Transformer over a sliding window: what frame stacks are today."""

from tokenturing.baselines.causal import CausalTransformer


class WindowTransformer(CausalTransformer):
    """Each layer attends to the newest `window` steps, the present one included, held in a ring.

    The state has a fixed size. Through L layers, news travels up to L * (window - 1) steps and no further.

    Args:
        width: D.
        layers: pre-norm blocks.
        heads: of every attention; a divisor of the width.
        window: W, steps.
        hidden: width of the blocks' MLP; None: 4 D.
        input_tokens: N where it is fixed, else None.
        read_tokens: R.
        dropout: inside the blocks.
    """

    def __init__(
        self,
        width: int,
        layers: int = 4,
        heads: int = 8,
        *,
        window: int = 64,
        hidden: int | None = None,
        input_tokens: int | None = None,
        read_tokens: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__(locals())
