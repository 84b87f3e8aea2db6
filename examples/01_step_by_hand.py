"""A state goes in and comes out: step a stream by hand, fork a session, save it, go on in a new process.

Run: python examples/01_step_by_hand.py
"""

import tempfile
from pathlib import Path

import torch

import tokenturing as tt

torch.manual_seed(0)
torch.set_grad_enabled(False)
torch.set_num_threads(1)  # a small machine's steps are over before a second thread has begun

model = tt.TokenTuringMachine(width=64, memory_tokens=16, read_tokens=4, layers=2, heads=4).eval()
stream = torch.randn(1, 100, 5, 64)  # [B, T, N, D]: one row, 100 steps of 5 tokens

# Step by step, as the tokens come in.
state = model.initial_state(1)
for t in range(50):
    y, state = model.step(stream[:, t], state)  # y [B, R, D]
print(f"one step gives {list(y.shape)}; the state is {tt.state.nbytes(state)} bytes at any time")

# A state is a value. Fork the session: one future per branch, and neither knows of the other.
another_future = torch.randn(1, 50, 5, 64)
_, branch = model(another_future, state)
y, after = model(stream[:, 50:], state)  # 50 steps in one call
print(f"two futures of one session differ by {(branch.memory - after.memory).abs().max():.2f}")

# The whole stream in one call ends where the single steps and the chunk ended.
_, whole = model(stream)
print(f"whole and in pieces differ by {(whole.memory - after.memory).abs().max():.0e}")

# Save the model and the session, and go on as if nothing had happened.
with tempfile.TemporaryDirectory() as folder:
    tt.save(model, Path(folder) / "machine")
    tt.save_state(state, Path(folder) / "session.safetensors", model)

    loaded = tt.load(Path(folder) / "machine")
    restored = tt.load_state(Path(folder) / "session.safetensors", loaded)
_, gone_on = loaded(stream[:, 50:], restored)
print(f"saved, loaded and gone on differs by {(gone_on.memory - after.memory).abs().max():.0e}")

# Sessions of one model make a batch, and a row comes out of it as it went in.
batch = tt.state.stack([state, branch])
first = tt.state.take(batch, [0])
print(f"in and out of a batch of two, unchanged: {torch.equal(first.memory, state.memory)}")
