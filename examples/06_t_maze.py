"""A T-maze by policy gradient: what is seen at the start says which way to turn at the end, and only a memory can know.

16 mazes in numpy, PPO over whole episodes: played step by step, learned from in one call. docs/which-options.md says more.
Run: python examples/06_t_maze.py [--memory LSTM] [--write mlp] [--slots 8] [--rate 3e-3] [--iterations 300] [--seed 0]
"""

import argparse

import numpy as np
import torch
from torch import nn

import tokenturing as tt

parser = argparse.ArgumentParser()
for name, default in dict(memory="", write="gated", slots=16, corridor=10, rate=1e-3, iterations=300, seed=0).items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
args = parser.parse_args()
ROWS, D, DISCOUNT, TRACE, CLIP, ENTROPY, EPOCHS = 16, 32, 0.98, 0.95, 0.2, 0.06, 4
torch.manual_seed(args.seed)
draw, choice = np.random.default_rng(args.seed), torch.distributions.Categorical
memory = getattr(tt.baselines, args.memory)(D) if args.memory else tt.TokenTuringMachine(D, args.slots, 2, 1, 4, write=args.write)
encode = nn.Linear(4, D)  # what is seen: left, right, the corridor or its end
head = nn.Linear(memory.output_tokens * D, 4)  # go on, turn left, turn right; and the reward to be expected
policy, won = nn.ModuleList([memory, encode, head]), []
optimizer = torch.optim.Adam(policy.parameters(), args.rate)
for iteration in range(1, args.iterations + 1):
    goal, at, over, found = draw.integers(1, 3, ROWS), np.zeros(ROWS, int), np.zeros(ROWS, bool), np.zeros(ROWS, bool)
    state, steps = memory.initial_state(ROWS), []
    while not over.all() and len(steps) < 2 * args.corridor + 5:
        end = at == args.corridor
        seen = torch.eye(4)[np.where(at == 0, goal - 1, np.where(end, 3, 2))]
        with torch.no_grad():
            y, state = memory.step(encode(seen).unsqueeze(1), state)  # one token a step: [B, 1, D] -> [B, R, D]
            logits, value = head(y.flatten(1)).split([3, 1], dim=1)
        action = (chance := choice(logits=logits)).sample()
        turned, right = action.numpy() > 0, end & (action.numpy() == goal) & ~over
        reward = torch.tensor(np.where(right, 1.0, np.where(turned | end, -0.05, 0.0)))
        steps.append((seen, action, chance.log_prob(action), value[:, 0], reward, torch.tensor(~over)))
        at, over, found = at + (~turned & ~end & ~over), over | (turned & end), found | right
    seen, action, before, value, reward, live = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))  # [B, T, ...]
    value, better = nn.functional.pad(value * live, (0, 1)), torch.zeros(ROWS, len(steps) + 1)  # by GAE
    for t in reversed(range(len(steps))):
        better[:, t] = live[:, t] * (reward[:, t] + DISCOUNT * (value[:, t + 1] + TRACE * better[:, t + 1]) - value[:, t])
    action, before, wanted, better = (part[live] for part in (action, before, (better + value)[:, :-1], better[:, :-1]))
    better = (better - better.mean()) / (better.std() + 1e-6)
    for _ in range(EPOCHS):
        out = head(memory(encode(seen).unsqueeze(2))[0].flatten(2))[live]  # all steps in one call: [B, T, 1, D] -> [B, T, R, D]
        ratio = ((chance := choice(logits=out[:, :3])).log_prob(action) - before).exp()
        gain = torch.min(ratio * better, ratio.clamp(1 - CLIP, 1 + CLIP) * better) + ENTROPY * chance.entropy()
        optimizer.zero_grad()
        (0.5 * (out[:, 3] - wanted).square() - gain).mean().backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 0.1)  # small steps: at 0.5 some runs turn one way for ever
        optimizer.step()
    won.append(found.mean())
    if iteration % 20 == 0:
        print(f"iteration {iteration}: {np.mean(won[-20:]):.0%} of the last {20 * ROWS} episodes right", flush=True)
    if iteration % 20 == 0 and np.mean(won[-20:]) >= 0.9:
        break
