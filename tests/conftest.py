"""Settings of all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

# Set before torch or numpy is loaded: workers of pytest-xdist share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")

import pytest
from hypothesis import HealthCheck, settings
from support.waves import WAVES, recorded

settings.register_profile(
    "moevit",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "moevit"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--waves",
        nargs="?",
        const=str(WAVES),
        metavar="DIR",
        help=f"write the waveform of every simulation as an FST below DIR (default {WAVES})",
    )


@pytest.fixture(autouse=True)
def _waves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = request.config.getoption("--waves")
    if folder is None:
        yield
    else:
        yield from recorded(request, monkeypatch, Path(folder))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for kind in terminalreporter.stats.values() for r in kind]
    named = {v for r in reports for n, v in getattr(r, "user_properties", ()) if n == "waveform"}
    for path in sorted(named):
        terminalreporter.write_line(f"waveform: {path}")
