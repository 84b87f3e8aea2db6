"""What the eyes and ears make of events: missed, split, mistaken, and seen or heard where there is none.

    python benchmarks/perception.py [CHECKPOINT] [--split validation] [--minutes 1600]

Steps at which the perception is surer of a digit than a threshold are taken as events: of sightings and words in busy streams,
and in so many minutes of background.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import tokenturing as tt
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.tasks.recall.eyes.perception import NOTHING, Perception
from tokenturing.tasks.recall.voices.bank import cached_bank
from tokenturing.tasks.recall.world.plans import TAIL, RecallConfig, Stream
from tokenturing.tasks.recall.world.streams import RecallStreams

THRESHOLDS = (0.5, 0.7, 0.9, 0.95, 0.99)
STREAMS, STEPS = 64, 400
QUIET_STEPS = 1500


@torch.no_grad()
def perceive(perception: Perception, streams: RecallStreams, plan: Stream, seed: int) -> list[np.ndarray]:
    """For sight and sound: [T, 2], how sure it is of a digit, and of which."""
    rng = np.random.default_rng(seed)
    frames = streams.renderer.frames([plan], [0], plan.steps, rng)[0]
    found = perception.classify(perception(frames, streams.renderer.sound([plan], [0], plan.steps)[0]))
    return [_sure(logits) for logits in found]


def _sure(logits: Tensor) -> np.ndarray:
    sure = 1 - logits.softmax(-1)[:, NOTHING]
    return torch.stack([sure, logits[:, :NOTHING].argmax(-1)], dim=-1).numpy()


def judge(found: Sequence[tuple[np.ndarray, int]], threshold: float) -> str:
    """Shares of events missed, split and mistaken at their first step above the threshold."""
    missed = split = mistaken = 0
    for steps, digit in found:
        above = np.flatnonzero(steps[:, 0] > threshold)
        missed += not len(above)
        split += bool((np.diff(above) > 1).any())
        mistaken += bool(len(above) and steps[above[0], 1] != digit)
    shares = (
        f"{name} {count / len(found):.4f}" for name, count in (("missed", missed), ("split", split), ("mistaken", mistaken))
    )
    return ", ".join(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="recall-perception")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--minutes", type=int, default=1600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    perception = tt.load(arguments.checkpoint)
    config = RecallConfig(arguments.split, STEPS, STEPS, without_modality=0, question_rate=0, quiet_share=0, gaps=(3, 60))
    streams = RecallStreams(range(STREAMS), STEPS, cached_bank(arguments.split), config, seed=5)
    events: dict[str, list[tuple[np.ndarray, int]]] = {"sightings": [], "words": []}
    for row in range(STREAMS):
        plan = streams.planner.draw(np.random.default_rng([5, row]))
        seen, heard = perceive(perception, streams, plan, row)
        events["sightings"] += [(seen[s.first : s.last + 1], s.digit) for s in plan.sightings]
        events["words"] += [(heard[w.first : w.counts_from + TAIL], w.digit) for w in plan.spoken]
    for name, found in events.items():
        for threshold in THRESHOLDS:
            print(f"{len(found)} {name} above {threshold}: {judge(found, threshold)}", flush=True)
    count = int(arguments.minutes * 60 / STEP_SECONDS / QUIET_STEPS)
    rng = np.random.default_rng(3)
    quiet = [perceive(perception, streams, silence(streams, rng), STREAMS + index) for index in range(count)]
    for name, sure in zip(("sight", "sound"), map(np.stack, zip(*quiet, strict=True)), strict=True):
        for threshold in THRESHOLDS:
            alarms = (sure[..., 0] > threshold).mean() * 600 / STEP_SECONDS
            print(f"background, {name} above {threshold}: {alarms:.2f} steps in ten minutes")


def silence(streams: RecallStreams, rng: np.random.Generator) -> Stream:
    """A stream in which nothing happens."""
    planner = streams.planner
    return Stream(
        QUIET_STEPS,
        [],
        [],
        planner.clutter(rng, QUIET_STEPS),
        float(rng.uniform(0, planner.config.noise)),
        int(rng.choice(planner.kinds)),
        int(rng.integers(1 << 30)),
        True,
        True,
        np.zeros((0, 2)),
        np.zeros((0, 0)),
    )


if __name__ == "__main__":
    main()
