"""The head that answers: a question looks its answer up in a recurrent model's output tokens."""

import torch
from torch import Tensor, nn

from tokenturing.layers.attention import Attention
from tokenturing.layers.feedforward import FeedForward


class AnswerHead(nn.Module):
    """Questions attend to the output tokens of a step, in rounds as in a Transformer's decoder, and are classified.

    "What was heard when x was seen" takes a look for x first and then what stands beside it: the attention does both, so that
    the recurrent model need not. The head stands outside of the recurrence: asking changes no state, and any number of
    questions can be asked of one step.

    Args:
        width: D.
        tokens: R, output tokens of a step.
        questions: how many different questions there are.
        answers: C.
        rounds: of attention and MLP.
        heads: of the attention; a divisor of the width.
        hidden: width of the MLP; None: 2 D.
    """

    def __init__(
        self,
        width: int,
        tokens: int,
        questions: int,
        answers: int,
        *,
        rounds: int = 2,
        heads: int = 4,
        hidden: int | None = None,
    ):
        super().__init__()
        self.question = nn.Embedding(questions, width)
        self.token_norm = nn.LayerNorm(width)
        self.place = nn.Embedding(tokens, width)
        self.rounds = nn.ModuleList(Round(width, heads, hidden or 2 * width) for _ in range(rounds))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, answers)
        # Places of the size of the content drown it: with those of PyTorch's default nothing was written in 500 updates.
        with torch.no_grad():
            self.place.weight.mul_(0.02)
            self.question.weight.mul_(0.3)

    def forward(self, y: Tensor, questions: Tensor) -> Tensor:
        """y [B, ..., R, D], questions int64 [B, ..., Q] -> logits [B, ..., Q, C]"""
        tokens = (self.token_norm(y) + self.place.weight).flatten(0, -3)
        x = self.question(questions).flatten(0, -3)
        for one in self.rounds:
            x = one(x, tokens)
        return self.out(self.norm(x)).unflatten(0, questions.shape[:-1])


class Round(nn.Module):
    """Queries [B, Q, D] look at tokens [B, R, D] and think about what they found."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), tokens)
        return x + self.mlp(self.mlp_norm(x))
