"""Train a small Token Turing Machine on recall with the library's own pieces, and watch what it learns.

`tokenturing train recipes/recall.toml` is the same with all voices, slow streams too, a schedule and checkpoints.
Run: python examples/03_train_recall.py [--updates 300]
"""

import argparse

import torch

import tokenturing as tt
from tokenturing.tasks.recall.model import RecallModel
from tokenturing.tasks.recall.task import KIND_OF_QUESTION, losses
from tokenturing.tasks.recall.voices.bank import build_bank
from tokenturing.tasks.recall.voices.synthesis import digit_word, synthesize, voices
from tokenturing.tasks.recall.voices.utterances import Utterance
from tokenturing.tasks.recall.world.plans import RecallConfig
from tokenturing.tasks.recall.world.questions import ANSWERS, FACTS, KINDS, QUESTIONS
from tokenturing.tasks.recall.world.streams import RecallStreams

parser = argparse.ArgumentParser()
parser.add_argument("--updates", type=int, default=300)
updates = parser.parse_args().updates

# Words to be heard: three voices say ten digits, each in every background noise.
words = [Utterance(d, v, synthesize(digit_word(d), v)) for v in voices("train")[:3] for d in range(10)]
bank = build_bank(words, conditions_per_utterance=6, seed=0, ambient_seconds=10)
brisk = RecallConfig(curriculum=(1_000_000, 0))  # short streams with many events: what is learned first
streams = RecallStreams(range(32), 20, bank, brisk)  # 32 rows, chunks of 20 steps

# A model: frozen eyes and ears that came with the package, a memory, a head for answers.
torch.manual_seed(0)
options = {"width": 48, "memory_tokens": 12, "read_tokens": 8, "layers": 1, "heads": 4, "hidden": 96}
model = RecallModel("TokenTuringMachine", options, len(QUESTIONS), len(ANSWERS), FACTS)
model.perception.load_state_dict(tt.load("recall-perception").state_dict())
model.perception.requires_grad_(False)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3, betas=(0.9, 0.98))


state = None
for update in range(updates):
    batch = next(streams)
    y, state = model(batch.inputs, state, batch.reset)  # the state goes on from chunk to chunk ...
    answers, facts = losses(model, y, batch)
    optimizer.zero_grad()
    (answers + 0.5 * facts).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    state = tt.state.detach(state)  # ... and gradients do not
    if update % 25 == 0 or update == updates - 1:
        asked = batch.targets.question >= 0
        questions = batch.targets.question[asked]
        kinds = KIND_OF_QUESTION[questions]
        right = kinds[model.ask(y[asked], questions[:, None]).argmax(-1)[:, 0] == batch.targets.answer[asked]]
        shares = torch.bincount(right, minlength=len(KINDS)) / torch.bincount(kinds, minlength=len(KINDS))
        listed = "  ".join(f"{kind} {share:.2f}" for kind, share in zip(KINDS, shares, strict=True))
        print(f"update {update}, loss {answers.item():.2f}, right: {listed}", flush=True)
