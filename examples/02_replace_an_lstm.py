"""An nn.LSTM over feature vectors, and a Token Turing Machine in its place: what changes, and what both learn.

The task: now and then a vector of a noisy stream is marked. At every step: which letter did the last marked one carry?
Run: python examples/02_replace_an_lstm.py [--updates 150]
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tokenturing as tt

LETTERS, FEATURES, STEPS = 8, 9, 16


class Reader(nn.Module):
    def __init__(self, memory: nn.Module):
        super().__init__()
        self.encode, self.memory, self.head = nn.Linear(FEATURES, 32), memory, nn.Linear(64, LETTERS)

    def forward(self, x: Tensor, state=None):  # x [B, T, F] -> which letter [B, T, LETTERS], and the state
        x = self.encode(x)
        if isinstance(self.memory, nn.LSTM):
            y, state = self.memory(x, state)
        else:
            y, state = self.memory(x.unsqueeze(2), state)  # one token a step: [B, T, 1, D]
            y = y.flatten(2)  # [B, T, R, D] -> [B, T, R * D]
        return self.head(y), state


def draw(rows: int) -> tuple[Tensor, Tensor]:
    letter, marked = torch.randint(LETTERS, (rows, STEPS)), torch.rand(rows, STEPS) < 0.2
    x = 0.3 * torch.randn(rows, STEPS, FEATURES) + F.one_hot(letter, FEATURES)
    x[..., -1] += 2 * marked
    last = torch.where(marked, torch.arange(STEPS), -1).cummax(1).values
    return x, torch.where(last >= 0, letter.gather(1, last.clamp(min=0)), -1)  # -1: none was marked yet


parser = argparse.ArgumentParser()
parser.add_argument("--updates", type=int, default=150)
updates = parser.parse_args().updates
torch.manual_seed(0)
machine = tt.TokenTuringMachine(width=32, memory_tokens=8, read_tokens=2, layers=1, heads=4)
for memory in (nn.LSTM(32, 64, batch_first=True), machine):
    model = Reader(memory)
    optimizer, began = torch.optim.AdamW(model.parameters(), 4e-3), time.perf_counter()
    for _ in range(updates):
        x, answer = draw(32)
        loss = F.cross_entropy(model(x)[0].flatten(0, 1), answer.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, answer = draw(500)
    right = (model(x)[0].argmax(-1) == answer)[answer >= 0].float().mean()
    size, seconds = sum(p.numel() for p in model.parameters()), time.perf_counter() - began
    print(f"{type(memory).__name__}: {size} parameters, {seconds:.0f} s, {right:.0%} right")
