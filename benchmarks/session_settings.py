"""What settings of ONNX Runtime are worth for a step of an exported machine: all take turns on one graph.

    python benchmarks/session_settings.py [--size paper|recall] [--precision float32] [--rows 1] [--rounds 200] [--json FILE]

"as it is" is what the runtime uses. Each other row changes one thing; "bound" leaves outputs and state in buffers that are bound
once, two sets in turn, so that nothing is allocated or copied by a step; "saved" is the graph that ONNX Runtime had optimised and
written, for which the seconds to open it are told too. One thread. Medians with quartiles, and the ratio to the first row.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from shared import markdown, milliseconds, place, positive, write

import tokenturing as tt
from tokenturing.bench.measure import take_turns
from tokenturing.export import export_onnx

SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no arena": {"enable_cpu_mem_arena": False},
    "no memory pattern": {"enable_mem_pattern": False},
    "no prepacking": {"entries": {"session.disable_prepacking": "1"}},
    "denormals are zero": {"entries": {"session.set_denormal_as_zero": "1"}},
}
TYPES = {"tensor(float)": np.float32, "tensor(bool)": np.bool_, "tensor(int64)": np.int64}


def opened(graph: Path, settings: dict[str, Any]) -> onnxruntime.InferenceSession:
    """One thread, as the runtime opens it, but for these settings."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    for name, value in settings.items():
        if name == "entries":
            for entry in value.items():
                options.add_session_config_entry(*entry)
        else:
            setattr(options, name, value)
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def feed_of(session: onnxruntime.InferenceSession, rows: int) -> dict[str, Any]:
    """Numbers of the right kind: the time of a step does not depend on them."""
    draw, feed = np.random.default_rng(0), {}
    for part in session.get_inputs():
        shape = [rows if isinstance(size, str) else size for size in part.shape]
        kind = TYPES[part.type]
        feed[part.name] = draw.standard_normal(shape).astype(kind) if kind is np.float32 else np.ones(shape, kind)
    return feed


def bound(session: onnxruntime.InferenceSession, feed: dict[str, Any]) -> Callable[[], None]:
    """A step from where the last one ended, in two sets of buffers that change places."""
    found = dict(zip([part.name for part in session.get_outputs()], session.run(None, feed), strict=True))
    pairs = {name: name.removeprefix("next_") for name in found if name.removeprefix("next_") in feed and name != "y"}
    assert pairs, f"no output {list(found)} goes on as one of {list(feed)}"
    sets = [{name: onnxruntime.OrtValue.ortvalue_from_numpy(value.copy()) for name, value in found.items()} for _ in range(2)]
    bindings = []
    for taken, given in (sets, sets[::-1]):
        binding = session.io_binding()
        for name, value in feed.items():
            if name not in pairs.values():
                binding.bind_cpu_input(name, value)
        for name, value in given.items():
            binding.bind_ortvalue_output(name, value)
            if name in pairs:
                binding.bind_ortvalue_input(pairs[name], taken[name])
        bindings.append(binding)

    def call() -> None:
        session.run_with_iobinding(bindings[0])
        bindings.reverse()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("paper", "recall", "tiny"), default="recall")
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--rows", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=200)
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"paper": (512, 96, 16, 4, 8), "tiny": (32, 8, 4, 1, 4)}
    size = sizes.get(arguments.size)
    model = tt.TokenTuringMachine(*size, input_tokens=16) if size else tt.load("recall-ttm")
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(export_onnx(model, Path(folder) / "exported", precision=arguments.precision)) / "model.onnx"
        sessions = {name: opened(graph, settings) for name, settings in SETTINGS.items()}
        saved = Path(folder) / "saved.onnx"
        opened(graph, {"optimized_model_filepath": str(saved)})
        for name, path, level in (("as it is", graph, "ORT_ENABLE_ALL"), ("saved", saved, "ORT_DISABLE_ALL")):
            began = time.perf_counter()
            sessions[name] = opened(path, {"graph_optimization_level": getattr(onnxruntime.GraphOptimizationLevel, level)})
            print(f"{name}: opened in {time.perf_counter() - began:.2f} s")
        feed = feed_of(sessions["as it is"], arguments.rows)
        calls = {name: (lambda session=session: session.run(None, feed)) for name, session in sessions.items()}
        calls["bound"] = bound(opened(graph, {}), feed)
        timings = take_turns(calls, arguments.rounds, warm_up=5)
    first = timings["as it is"].median
    rows = [[name, milliseconds(timing), f"{timing.median / first:.2f}"] for name, timing in timings.items()]
    print(f"{place()}\n{arguments.size}, {arguments.precision}, {arguments.rows} rows\n")
    print(markdown([["", "a step", "of the first"], *rows]))
    write(arguments.json, {name: asdict(timing) for name, timing in timings.items()})


if __name__ == "__main__":
    main()
