"""The time of a dump and of a parse of a session's state of 192 KiB: one row of 96 x 512 float32.

    python benchmarks/session_bytes.py [--rounds 501] [--threads 1] [--json FILE]

"of the model" looks at each call whether the weights are still the same, "of its owner" is told so, and "hashed anew" hashes
all 3.6 M weights at each call, as must be done the first time. The first four take turns, then the last two; the figures are
medians. On one of two cores of a Xeon (AVX-512), the other one busy with training, `python benchmarks/session_bytes.py` says:

    dump    of its owner 0.22 ms (57 x as fast as hashed anew), of the model 0.33 ms (37 x), hashed anew 12.5 ms
    parse   of its owner 0.25 ms (52 x as fast as hashed anew), of the model 0.35 ms (36 x), hashed anew 12.6 ms

Of these, the checksum takes 0.05 ms (crc32; sha256 takes 0.14 ms, blake2b 0.26 ms, adler32 0.07 ms).
"""

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

import tokenturing as tt
from tokenturing.bench.measure import take_turns
from tokenturing.checkpoint import Owner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=501)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = tt.TokenTuringMachine(width=512, memory_tokens=96, read_tokens=16, layers=1, heads=8, hidden=1152, input_tokens=16)
    model.eval()
    with torch.no_grad():
        _, state = model.step(torch.randn(1, 16, 512), model.initial_state(1))
    owner = Owner.of(model)
    data = tt.dump_state(state, owner)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"a state of {tt.state.nbytes(state) / 2**10:.0f} KiB of a model of {parameters / 1e6:.1f} M parameters")
    timings = take_turns(
        {
            "dump, of its owner": partial(tt.dump_state, state, owner),
            "dump, of the model": partial(tt.dump_state, state, model),
            "parse, of its owner": partial(tt.parse_state, data, owner),
            "parse, of the model": partial(tt.parse_state, data, model),
        },
        arguments.rounds,
    )
    # Not in turn with the others: it would leave nothing of theirs in the processor's caches.
    timings |= take_turns(
        {
            "dump, hashed anew": lambda: tt.dump_state(state, Owner(model)),
            "parse, hashed anew": lambda: tt.parse_state(data, Owner(model)),
        },
        max(1, arguments.rounds // 10),
    )
    for name, timing in timings.items():
        base = timings[f"{name.partition(',')[0]}, hashed anew"].median
        times = f"{timing.median * 1e3:7.3f} ms (quartiles {timing.low * 1e3:.3f} and {timing.high * 1e3:.3f})"
        print(f"{name:20} {times}, {base / timing.median:5.1f} times as fast as hashed anew")
    if arguments.json:
        found = {name: asdict(timing) for name, timing in timings.items()}
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
