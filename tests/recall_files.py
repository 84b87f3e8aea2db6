"""A tiny recall task in files: a bank of random voices, an untrained perception, a recipe of both."""

from pathlib import Path

import numpy as np
import torch

import tokenturing as tt
from tokenturing.tasks.recall.eyes.perception import Perception
from tokenturing.tasks.recall.voices.bank import SpeechBank

RECIPE = """
task = "recall"
perception = "{perception}"
validation_chunks = 1
[model]
memory = "TokenTuringMachine"
options = {{width = 16, memory_tokens = 4, read_tokens = 2, layers = 1, heads = 2, hidden = 16}}
[train]
updates = 30
rows = 2
steps = 6
save_every = 2
evaluate_every = 15
[data]
longest = 60
shortest = 20
[tokens]
sightings = 1
backgrounds = 100
[speech]
bank = "{bank}"
"""


def tiny_bank() -> SpeechBank:
    """A word of each digit in each of two backgrounds, at random."""
    rng = np.random.default_rng(0)
    return SpeechBank(
        clips=rng.standard_normal((20, 15, 96)).astype(np.float16),
        digit=np.tile(np.arange(10), 2),
        speaker=np.zeros(20, np.int64),
        background=np.repeat([0, 1], 10),
        length=np.full(20, 5),
        ambient=rng.standard_normal((2, 50, 96)).astype(np.float16),
        speakers=("nobody",),
        backgrounds=("silence", "white"),
    )


def tiny_recipe(folder: Path) -> Path:
    """A recipe whose voices, perception and streams are so small that a training takes a second."""
    torch.manual_seed(0)
    tt.save(Perception(16), folder / "perception")
    tiny_bank().save(folder / "bank.npz")
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(perception=folder / "perception", bank=folder / "bank.npz"))
    return path
