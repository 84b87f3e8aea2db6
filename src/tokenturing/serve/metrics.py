"""What the server counts, in the form that Prometheus reads."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1.0, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counts of one server process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.steps = Counter("tokenturing_steps", "Steps committed", ["model"], registry=registry)
        self.asked = Counter("tokenturing_queries", "Queries answered", ["model"], registry=registry)
        self.errors = Counter("tokenturing_errors", "Errors said to clients", ["code"], registry=registry)
        self.latency = Histogram(
            "tokenturing_step_seconds", "From a step's arrival to its reply", buckets=SECONDS, registry=registry
        )
        self.commit = Histogram("tokenturing_commit_seconds", "One transaction", buckets=SECONDS, registry=registry)
        self.batch = Histogram("tokenturing_batch_rows", "Sessions in one step", buckets=ROWS, registry=registry)
        self.resident = Gauge("tokenturing_resident_sessions", "Sessions whose state is in memory", registry=registry)
        self.stored = Gauge("tokenturing_stored_sessions", "Sessions in the store", registry=registry)
        self.waiting = Gauge("tokenturing_ready_sessions", "Sessions that wait for a step", registry=registry)
        self.connections = Gauge("tokenturing_connections", "WebSocket connections", registry=registry)

    def text(self) -> bytes:
        """The page that Prometheus fetches."""
        return generate_latest(self.registry)
