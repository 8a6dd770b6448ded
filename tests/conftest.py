"""Set-up that all tests share: hypothesis settings, single-threaded torch, and programs for a GPU without one."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import pytest

# what tests start shares the cores with other tests: threads that wait for each other take five times as long
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "tokenprune",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    max_examples=50,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # says how busy the machine is
)
# where it only matters that something fails, no smaller example is looked for, which takes minutes
settings.register_profile("fails", settings.get_profile("tokenprune"), phases=(Phase.explicit, Phase.generate))
settings.load_profile("tokenprune")

torch.set_num_threads(1)

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, and transformers may import it

pytest_plugins = [
    "tests.support.llava",
    "tests.support.explorer",
    "tests.support.own_data",
    "tests.support.judge_server",
]
"""Fixtures of every test; nothing else defines any that a second file needs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tries", type=int, default=1, help="harness: so many times the usual number of tries")


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """How often to try something that could go wrong: a number that CI can afford, times the option."""
    factor: int = request.config.getoption("--tries")
    return lambda usual: usual * factor


@pytest.fixture
def survived(record_property: Callable[[str, object], None]) -> Callable[[str, int, int], None]:
    """Say at the end of the run how often something was tried, and how often it was survived; all have to be."""

    def tell(what: str, tried: int, well: int) -> None:
        record_property("survived", f"{what}: tried {tried}, survived {well}")
        assert tried == well

    return tell


def pytest_collection_finish() -> None:
    """A million objects of the libraries stay as they are: the collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_runtest_setup() -> None:
    """What a test draws without a seed of its own is the same in every run, whichever tests ran before it."""
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    said = [
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "survived" and report.when == "call"
    ]
    if said:
        terminalreporter.section("survival")
        for line in sorted(said):
            terminalreporter.line(line)
