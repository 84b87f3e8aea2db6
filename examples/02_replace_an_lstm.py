"""An nn.LSTM over feature vectors, and a Token Turing Machine in its place: what changes, and what both learn.

The task: in a noisy stream a vector is marked now and then. At every step: which letter did the marked one before the
last carry? Run: python examples/02_replace_an_lstm.py [--updates 300]
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tokenturing as tt

FEATURES, LETTERS, STEPS = 9, 8, 16


class Reader(nn.Module):
    """Feature vectors [B, T, F] -> which letter, at each step [B, T, LETTERS], and the state."""

    def __init__(self, width: int, use_tokens: bool):
        super().__init__()
        self.use_tokens = use_tokens
        self.encode = nn.Linear(FEATURES, width)
        if use_tokens:
            self.memory = tt.TokenTuringMachine(width, memory_tokens=8, read_tokens=2, layers=1, heads=4)
        else:
            self.memory = nn.LSTM(width, 2 * width, batch_first=True)
        self.head = nn.Linear(2 * width, LETTERS)

    def forward(self, x: Tensor, state=None):
        x = self.encode(x)
        if self.use_tokens:
            y, state = self.memory(x.unsqueeze(2), state)  # one token a step: [B, T, 1, D] -> [B, T, R, D]
            return self.head(y.flatten(2)), state
        y, state = self.memory(x, state)
        return self.head(y), state


def draw(rows: int) -> tuple[Tensor, Tensor]:
    letter, marked = torch.randint(LETTERS, (rows, STEPS)), torch.rand(rows, STEPS) < 0.3
    x = 0.3 * torch.randn(rows, STEPS, FEATURES) + F.one_hot(letter, FEATURES)
    x[..., -1] += 2 * marked
    answer, known = torch.full((rows, STEPS), -1), torch.full((rows, 2), -1)
    for t in range(STEPS):
        known = torch.where(marked[:, t : t + 1], torch.stack([letter[:, t], known[:, 0]], 1), known)
        answer[:, t] = known[:, 1]
    return x, answer  # -1: nothing to answer yet


parser = argparse.ArgumentParser()
parser.add_argument("--updates", type=int, default=300)
updates = parser.parse_args().updates
for name, use_tokens in (("LSTM", False), ("TokenTuringMachine", True)):
    torch.manual_seed(0)
    model, began = Reader(32, use_tokens), time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for _ in range(updates):
        x, answer = draw(32)
        loss = F.cross_entropy(model(x)[0].flatten(0, 1), answer.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    x, answer = draw(500)
    right = (model(x)[0].argmax(-1) == answer)[answer >= 0].float().mean()
    size, seconds = sum(p.numel() for p in model.parameters()), time.perf_counter() - began
    print(f"{name}: {size} parameters, {seconds:.0f} s, {right:.0%} right")
