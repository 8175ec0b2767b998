"""`moevit deploy`: by a real sshd of this machine where there is one, and by a stand-in for ssh.

The host is this machine: a folder of its own as home, and the simulated board as its board.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.boards import check, make_bundle, make_case, open_simulated, simulated_board

from moevit.boards.driver.bundle import Bundle
from moevit.boards.simulated import SimulatedBoard
from moevit.cli.main import main

pytestmark = pytest.mark.slow  # the first use of the configuration builds its simulator

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def stand_in(folder: Path) -> str:
    """What `ssh HOST COMMAND` does, on this machine."""
    script = folder / "ssh"
    script.write_text(
        '#!/bin/sh\n[ "$1" = board ] || { echo "no route to $1" >&2; exit 255; }\n'
        'shift; exec sh -c "$*"\n'
    )
    script.chmod(0o755)
    return str(script)


def real(folder: Path) -> str:
    """ssh to an sshd that serves this one connection on its standard input and output."""
    if SSHD is None or not shutil.which("ssh"):
        pytest.skip("no sshd: install openssh-server")
    with contextlib.suppress(PermissionError):
        os.makedirs("/run/sshd", exist_ok=True)  # where root's sshd separates its privileges
    for name in ("host", "user"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(key, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\nLogLevel QUIET\n"
    )
    words = [
        *("ssh", "-F", "none", "-i", str(folder / "user"), "-o", "IdentitiesOnly=yes"),
        *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"),
        *("-o", f"UserKnownHostsFile={folder}/known", "-l", getpass.getuser()),
        *("-o", f"ProxyCommand={SSHD} -i -f {folder}/sshd_config"),
    ]
    done = subprocess.run([*words, "board", "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"sshd does not let this user in: {done.stderr.strip()}")
    return shlex.join(words)


@pytest.fixture(params=["sshd", "stand-in"])
def ssh(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "ssh"
    folder.mkdir()
    return real(folder) if request.param == "sshd" else stand_in(folder)


@pytest.fixture
def board() -> Iterator[SimulatedBoard]:
    with simulated_board() as board:
        yield board


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle", make_case(count=1))


class Deploy:
    """The command with a bundle, to a folder that stands for the host's home."""

    def __init__(self, capfd: pytest.CaptureFixture[str], bundle: Bundle, home: Path) -> None:
        self._capfd, self._bundle, self.target = capfd, bundle, home / "a folder"

    def __call__(self, ssh: str, *more: object, host: str = "board") -> tuple[int, str, str]:
        words = ["deploy", "--bundle", self._bundle.root, "--folder", self.target]
        words += ["--ssh", ssh, "--python", sys.executable, *more, "--", host]
        status = main([str(word) for word in words])
        captured = self._capfd.readouterr()
        return status, captured.out, captured.err


@pytest.fixture
def deploy(capfd: pytest.CaptureFixture[str], bundle: Bundle, tmp_path: Path) -> Deploy:
    home = tmp_path / "home"
    home.mkdir()
    return Deploy(capfd, bundle, home)


def test_from_the_bundle_to_frames_a_second(
    ssh: str, board: SimulatedBoard, bundle: Bundle, deploy: Deploy
) -> None:
    for _ in range(2):  # the second one replaces the first
        status, out, err = deploy(ssh, "--transport", f"sim:{board.path}", "--frames", 3)
        assert (status, err) == (0, "")
        assert f"{len(bundle.files)} files" in out and "self-test passed" in out
        assert "frames/s by the wall clock, transfers included (3 frames);" in out
        Bundle.read(deploy.target)
        assert [path.name for path in deploy.target.parent.iterdir()] == ["a folder"]
    with open_simulated(board) as accelerator:  # the lock is free
        accelerator.load(make_case().program)
        check(accelerator, make_case())


def test_a_self_test_that_fails(ssh: str, board: SimulatedBoard, deploy: Deploy) -> None:
    board.registers[0x00] = 7
    status, _, err = deploy(ssh, "--transport", f"sim:{board.path}")
    assert status == 2 and "moevit: error: board: moevit_driver: error: wrong bitstream" in err
    assert err.count("\n") == 1


def test_the_host_has_no_python(ssh: str, deploy: Deploy) -> None:
    status, _, err = deploy(ssh, "--python", "/no/python3")
    assert status == 2 and err.count("\n") == 1 and "not found" in err


def test_the_host_s_folder_cannot_be_made(ssh: str, deploy: Deploy) -> None:
    (deploy.target.parent / "a folder.new").write_text("")
    deploy.target = deploy.target.parent / "a folder.new" / "below"
    status, out, err = deploy(ssh, "--no-self-test")
    assert status == 2 and out == "" and err.count("\n") == 1
    assert "moevit: error: board: " in err and "Not a directory" in err


def test_no_such_host(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "ssh").mkdir()
    status, _, err = deploy(stand_in(tmp_path / "ssh"), host="elsewhere")
    assert (status, err) == (2, "moevit: error: elsewhere: no route to elsewhere\n")
    status, _, err = deploy("/no/ssh")
    assert (status, err) == (2, "moevit: error: /no/ssh: No such file or directory\n")


def test_what_cannot_be_deployed(
    deploy: Deploy, bundle: Bundle, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "--ssh: No closing quotation" in deploy("ssh '")[2]
    assert "HOST: '-oProxyCommand=x' is no host" in deploy("ssh", host="-oProxyCommand=x")[2]
    (bundle.root / "moevit.bit").write_bytes(b"of a simulated bOard")
    status, _, err = deploy("/no/ssh")
    assert status == 2 and "moevit.bit: is damaged" in err
    assert main(["deploy", "board", "--bundle", str(tmp_path / "none")]) == 2
    assert "none/bundle.json: No such file or directory; expected a bundle" in (
        capfd.readouterr().err
    )
