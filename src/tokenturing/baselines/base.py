"""What every baseline has: frozen options, one embedding of a step's tokens, one head for its outputs."""

from typing import Any

from torch import Tensor, nn

from tokenturing.baselines.embedding import StepEmbedding
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.numbers import check_real, check_whole

NUMBERS = ("width", "layers", "heads", "hidden", "window", "state_tokens", "nearest", "input_tokens", "read_tokens")


class OutputHead(nn.Module):
    """One vector a step -> R output tokens, each normalised: [..., H] -> [..., R, D]."""

    def __init__(self, hidden: int, width: int, read_tokens: int):
        super().__init__()
        self.read_tokens = read_tokens
        self.project = nn.Linear(hidden, read_tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.project(x).unflatten(-1, (self.read_tokens, -1)))


class Baseline(RecurrentModel):
    """A recurrent model made from its constructor's arguments.

    Args:
        arguments: `locals()` of the subclass's constructor: its options by name.
    """

    def __init__(self, arguments: dict[str, Any]):
        super().__init__()
        self.config: dict[str, Any] = {key: value for key, value in arguments.items() if key not in ("self", "__class__")}
        check_whole(self.config, NUMBERS)
        check_real("dropout", self.config["dropout"], least=0, below=1)
        self.width: int = self.config["width"]
        self.output_tokens: int = self.config["read_tokens"]
        self.input_tokens: int | None = self.config["input_tokens"]


class VectorBaseline(Baseline):
    """A baseline that sees one vector a step (`embedding`) and makes its output tokens from one (`head`)."""

    def __init__(self, arguments: dict[str, Any]):
        super().__init__(arguments)
        self.embedding = StepEmbedding(self.width, self.input_tokens)
        self.head = OutputHead(self.width, self.width, self.output_tokens)

    def prepare(
        self, x: Tensor, token_mask: Tensor | None, state: Any, reset: Tensor | None, active: Tensor | None
    ) -> tuple[Any, dict[str, Tensor]]:
        """x [B, T, N, D] -> (step embeddings [B, T, D],)"""
        return (self.embedding(x, token_mask),), {}
