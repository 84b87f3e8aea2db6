"""A T-maze by policy gradient: what is seen at the start says which way to turn at the end, and only a memory can know.

16 mazes in numpy, REINFORCE with a learned baseline over whole episodes. docs/which-options.md says what was found with it.
Run: python examples/06_t_maze.py [--memory lstm] [--corridor 10] [--rate 1e-3] [--iterations 500] [--seed 0]
"""

import argparse

import numpy as np
import torch
from torch import nn

import tokenturing as tt

parser = argparse.ArgumentParser()
for name, default in {"memory": "machine", "corridor": 10, "rate": 1e-3, "iterations": 500, "seed": 0}.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
args = parser.parse_args()
ROWS, WIDTH, DISCOUNT = 16, 32, 0.98
FORWARD = 0  # the other actions: 1 turns left, 2 turns right

torch.manual_seed(args.seed)
draw = np.random.default_rng(args.seed)
sizes = {"memory_tokens": 8, "read_tokens": 2, "layers": 1, "heads": 4}
memory = tt.baselines.LSTM(WIDTH) if args.memory == "lstm" else tt.TokenTuringMachine(WIDTH, **sizes)
encode = nn.Linear(4, WIDTH)  # what is seen: left, right, the corridor or its end
head = nn.Linear(memory.output_tokens * WIDTH, 4)  # three actions, and the reward to be expected
policy, won = nn.ModuleList([memory, encode, head]), []
optimizer = torch.optim.Adam(policy.parameters(), args.rate)
for iteration in range(1, args.iterations + 1):
    goal, at, over, found = draw.integers(1, 3, ROWS), np.zeros(ROWS, int), np.zeros(ROWS, bool), np.zeros(ROWS, bool)
    state, steps = memory.initial_state(ROWS), []
    while not over.all() and len(steps) < 2 * args.corridor + 5:
        end = at == args.corridor
        seen = torch.eye(4)[np.where(at == 0, goal - 1, np.where(end, 3, 2))]
        y, state = memory.step(encode(seen).unsqueeze(1), state)  # one token a step: [B, 1, D] -> [B, R, D]
        logits, value = head(y.flatten(1)).split([3, 1], dim=1)
        chance = torch.distributions.Categorical(logits=logits)
        action = chance.sample()
        turned, right = action.numpy() != FORWARD, end & (action.numpy() == goal) & ~over
        reward = np.where(right, 1.0, np.where(turned | end, -0.05, 0.0)) * ~over
        steps.append((chance.log_prob(action), value[:, 0], chance.entropy(), torch.tensor(reward), torch.tensor(~over)))
        at, over, found = at + (~turned & ~end & ~over), over | (turned & end), found | right
    log_chance, value, entropy, reward, live = (torch.stack(part) for part in zip(*steps, strict=True))
    for t in reversed(range(len(steps) - 1)):
        reward[t] += DISCOUNT * reward[t + 1]  # what is still to come
    log_chance, value, entropy, reward = (part[live] for part in (log_chance, value, entropy, reward))
    better = reward - value.detach()
    better = (better - better.mean()) / (better.std() + 1e-6)
    loss = (0.5 * (value - reward).square() - log_chance * better - 0.01 * entropy).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
    optimizer.step()
    won.append(found.mean())
    if iteration % 20 == 0:
        print(f"iteration {iteration}: {np.mean(won[-20:]):.0%} of the last {20 * ROWS} episodes right", flush=True)
        if np.mean(won[-20:]) >= 0.9:
            break
