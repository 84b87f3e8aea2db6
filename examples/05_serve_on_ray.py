"""The session server as a Ray Serve deployment. Sessions are in a store, so any replica serves any session.

Run: python examples/05_serve_on_ray.py     needs the extras serve and ray: pip install 'tokenturing[serve,ray]'
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import ray
import torch
from ray import serve

import tokenturing as tt
from tokenturing.client import connect


def build_app():
    """What each replica runs: the same application as `tokenturing serve`."""
    from tokenturing.cli.serve import load_served
    from tokenturing.serve.app import app
    from tokenturing.serve.engine import Engine
    from tokenturing.serve.limits import Limits
    from tokenturing.serve.store import open_store

    limits = Limits()
    models = {"machine": load_served("machine", str(FOLDER / "machine"), exact=True)}
    return app(Engine(models, open_store(STORE, limits.window), limits))


parser = argparse.ArgumentParser()
parser.add_argument("--store", help="redis://HOST/0 where replicas are on several machines; default: a SQLite file")
parser.add_argument("--port", type=int, default=8000)
arguments = parser.parse_args()

FOLDER = Path(tempfile.mkdtemp())
STORE = arguments.store or f"sqlite:{FOLDER / 'sessions.db'}"
tt.save(tt.TokenTuringMachine(width=32, memory_tokens=8, read_tokens=4, layers=1, heads=4), FOLDER / "machine")


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0})
@serve.ingress(build_app)
class Sessions:
    """Two replicas; more, on more machines, by `num_replicas`."""


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
serve.start(http_options={"port": arguments.port})
serve.run(Sessions.bind(), name="sessions")
stream, kept, workers = torch.randn(12, 5, 32).numpy(), None, set()
for x in stream:  # a connection for each step: whichever replica it leads to goes on with the session
    with connect(f"http://127.0.0.1:{arguments.port}") as client:
        session = client.attach(*kept) if kept else client.open()
        y, kept = session.step(x).outputs["y"], (session.id, session.secret)
        workers.add(client.worker)
expected, _ = tt.load(FOLDER / "machine")(torch.from_numpy(stream)[None])
print(f"{len(workers)} replicas served one session; equal: {np.allclose(y, expected[0, -1].detach(), atol=1e-5)}")
serve.shutdown()
