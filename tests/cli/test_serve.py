"""`moevit serve` as a process, and `moevit run --backend remote` against it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pictures import picture


@pytest.fixture(autouse=True)
def no_server_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """`moevit run` leaves the options in the environment, for the backend that reads them there."""
    for name in ("MOEVIT_URL", "MOEVIT_TOKEN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def server(checkpoint: Path, micro_cache: Path) -> Iterator[str]:
    """The address of a server, which Ctrl-C must end with everything that it began."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moevit.cli.main", "serve", "--port", "0", "--model", checkpoint,
         "--preset", "micro", "--backend", "interpreter", "--backend", "golden"],
        env={**os.environ, "MOEVIT_CACHE": str(micro_cache), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("serving ") and " at http://127.0.0.1:" in first
    yield first.split()[-1]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate()
    assert rest == "Ctrl-C stops\nstopped\n" and process.returncode == 0


@pytest.mark.slow
def test_a_laptop_uses_the_device_of_a_server(moevit, checkpoint: Path, server: str) -> None:
    Path("a.png").write_bytes(picture())
    given = ("--model", checkpoint, "--preset", "micro", "--backend", "remote")
    status, out, err = moevit("run", "a.png", *given, "--url", server, "--json")
    assert status == 0, err
    results = json.loads(out)["results"]
    assert len(results) == 5 and all(found["bit_exact"] for found in results)
    status, _, err = moevit("run", "a.png", "--url", server, *given[:2], *given[4:])
    assert status != 0 and "serves preset micro" in err and "not default" in err


def test_a_server_that_is_not_there(moevit, checkpoint: Path) -> None:
    Path("a.png").write_bytes(picture())
    given = ("run", "a.png", "--model", checkpoint, "--preset", "micro", "--backend", "remote")
    status, _, err = moevit(*given)
    assert status == 2 and "--backend remote: needs --url of a `moevit serve`" in err
    status, _, err = moevit(*given, "--url", "http://127.0.0.1:9")
    assert status != 0 and "http://127.0.0.1:9: does not answer" in err
    assert err.count("\n") <= 2 and not Path("out").exists()


def test_a_port_in_use(moevit) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, _, err = moevit("serve", "--port", port)
    assert status == 2
    assert f"--port: 127.0.0.1:{port} cannot be listened at: Address already in use" in err
    assert err.count("\n") == 1


def test_an_address_of_another_machine(moevit) -> None:
    status, _, err = moevit("serve", "--host", "192.0.2.1", "--port", 0)
    assert status == 2 and "192.0.2.1" in err and err.count("\n") == 1
    status, _, err = moevit("serve", "--backend", "abacus")
    assert status == 2 and "unknown backend 'abacus'" in err
