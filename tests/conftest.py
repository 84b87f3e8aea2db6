"""One thread, one seed, and hypothesis without chance: a test passes always or never."""

import os

import pytest
import torch
from hypothesis import Phase, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
settings.register_profile(
    "tokenturing",
    derandomize=True,
    deadline=None,
    max_examples=5,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile("tokenturing")
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: more of the same; runs with --slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="runs with --slow"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
