"""Unmodified pynq on the verilated accelerator, and the hardware handoff that it reads.

pynq wants an older NumPy than moevit's set of versions has, so it has an environment of its own,
which `make test` makes: `.venv/pynq`. MOEVIT_PYNQ names another Python that has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.boards import CONFIG, Case, make_bundle, make_case, nano_case, simulated_board

from moevit.boards.hwh import FAMILIES, Handoff, handoff
from moevit.hw.registers import Control, Register

PYTHON = os.environ.get("MOEVIT_PYNQ") or str(Path(sys.prefix) / "pynq" / "bin" / "python")
HOST = Path(__file__).with_name("pynq_host.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"no pynq at {PYTHON}: run make test"),
]


def run(folder: Path, case: Case, action: str, **change: int) -> dict[str, Any]:
    """What the driver says in an environment of pynq, without moevit."""
    bundle = make_bundle(folder / "bundle", case)
    with simulated_board(case.config) as board:
        board.registers.update({Register[name]: value for name, value in change.items()})
        done = subprocess.run(
            [PYTHON, str(HOST), str(bundle.root), str(board.path), action],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]},
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("action", ["run", "reset"])
def test_whole_frames(tmp_path: Path, action: str) -> None:
    found = run(tmp_path, make_case(count=1), action)
    assert found.pop("pynq")[:2] in ("3.", "4.")
    assert found == {
        "passed": True,
        "downloads": 1 + (action == "reset"),
        # What PYNQ took from the handoff and set: the clock's divisor, 128 bits at S_AXI_HP0.
        "clock_mhz": 299.997009,
        "divisor0": 5,
        "port_width": 0,
    }


def test_a_frame_of_nano(tmp_path: Path) -> None:
    assert run(tmp_path, nano_case(), "run")["passed"]


def test_a_wrong_bitstream(tmp_path: Path) -> None:
    found = run(tmp_path, make_case(count=1), "run", ID=0)
    assert found["error"] == "IdentityError"
    assert found["message"].startswith(
        "wrong bitstream: register ID of moevit_0 of zcu104 reads 0x"
    )


_PARSE = """
import json, sys
from pynqmetadata.frontends import Metadata
from pynqmetadata.views.runtime import RuntimeMetadataParser
parser = RuntimeMetadataParser(Metadata(input=sys.argv[1]))
parser.refresh_hierarchy_dict()
ip = parser.ip_dict["moevit_0"]
print(json.dumps({
    "type": ip["type"], "base": ip["phys_addr"], "range": ip["addr_range"],
    "registers": {name: r["address_offset"] for name, r in ip["registers"].items()},
    "control": {n: f["bit_offset"] for n, f in ip["registers"]["CONTROL"]["fields"].items()},
    "clocks": {
        n: [c["enable"], c["divisor0"], c["divisor1"]] for n, c in parser.clock_dict.items()
    },
    "ps": parser.ps_name,
}))
"""


@pytest.mark.parametrize("family", list(FAMILIES))
def test_pynqmetadata_reads_the_handoff(tmp_path: Path, family: str) -> None:
    about = Handoff(
        family=family,
        device="xc7z020",
        package="clg400",
        speed="-1",
        clock_mhz=100.0,
        divisors=(5, 2),
        register_base=0x43C0_0000,
        ports=CONFIG.memory.ports,
        memory_bits=64,
    )
    path = tmp_path / "moevit.hwh"
    path.write_text(handoff(about))
    done = subprocess.run(
        [PYTHON, "-c", _PARSE, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "type": "moevit.org:ip:moevit:1.0",
        "base": 0x43C0_0000,
        "range": 4096,
        "registers": {register.name: int(register) for register in Register},
        "control": {bit.name: int(bit) for bit in Control},
        "clocks": {"0": [1, 5, 2], "1": [0, 1, 1], "2": [0, 1, 1], "3": [0, 1, 1]},
        "ps": f"{FAMILIES[family].cell}_0",
    }


def test_bad_handoffs() -> None:
    good: dict[str, Any] = {
        "family": "zynq",
        "device": "xc7z020",
        "package": "clg400",
        "speed": "-1",
        "clock_mhz": 100.0,
        "divisors": (5, 2),
        "register_base": 0x43C0_0000,
        "ports": 1,
    }
    with pytest.raises(
        ValueError, match="Unknown family 'versal'; expected one of zynquplus, zynq"
    ):
        Handoff(**{**good, "family": "versal"})
    with pytest.raises(ValueError, match="ports must be from 1 to 4, not 5"):
        Handoff(**{**good, "ports": 5})
