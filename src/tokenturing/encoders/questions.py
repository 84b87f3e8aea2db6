"""A question from a fixed list -> one token; no question -> a masked token."""

from torch import Tensor, nn


class QuestionEncoder(nn.Module):
    """Questions int64 [...] (-1: none) -> tokens [..., 1, D] and a mask bool [..., 1] (false: absent)."""

    def __init__(self, questions: int, width: int):
        super().__init__()
        self.table = nn.Embedding(questions, width)

    def forward(self, question: Tensor) -> tuple[Tensor, Tensor]:
        return self.table(question.clamp(min=0)).unsqueeze(-2), (question >= 0).unsqueeze(-1)
