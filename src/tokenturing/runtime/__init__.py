"""Exported models on ONNX Runtime or OpenVINO: the same `step(x, state)`, numpy in and out, without torch.

    machine = tokenturing.runtime.load("exported")
    state = machine.initial_state(batch_size)
    y, state = machine.step(x, state)

A folder that `tokenturing export` wrote has `model.onnx` (the graph of one step, its state among inputs and outputs),
`initial_state.safetensors` and `runtime.json` (names, shapes and types, and which model it was made of).
"""

from tokenturing.runtime.machine import Runtime, is_export, load, stack, take

__all__ = ["Runtime", "is_export", "load", "stack", "take"]
