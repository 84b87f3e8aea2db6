"""The head that answers: a question looks its answer up in a recurrent model's output tokens."""

from torch import Tensor, nn

from tokenturing.layers.attention import Attention
from tokenturing.layers.feedforward import FeedForward


class AnswerHead(nn.Module):
    """One block of a Transformer decoder whose queries are questions, and a classifier.

    "What was heard when x was seen" takes a look for x first and then what stands beside it: the attention does the first, so
    that the recurrent model need not, and any number of questions can be asked of one step.

    Args:
        width: D.
        answers: C.
        heads: of the attention; a divisor of the width.
        hidden: width of the MLP; None: 2 D.
    """

    def __init__(self, width: int, answers: int, heads: int = 4, hidden: int | None = None):
        super().__init__()
        self.question_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden or 2 * width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, answers)

    def forward(self, y: Tensor, questions: Tensor) -> Tensor:
        """y [..., R, D], questions [..., Q, D] -> logits [..., Q, C]"""
        shape = questions.shape[:-1]
        y, x = y.flatten(0, -3), questions.flatten(0, -3)
        x = x + self.attention(self.question_norm(x), self.token_norm(y))
        x = x + self.mlp(self.mlp_norm(x))
        return self.out(self.norm(x)).unflatten(0, shape[:-1])
