"""What a step, a training step and a long stream cost: models, baselines and peers side by side, in one run."""
