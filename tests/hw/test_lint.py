"""The generated Verilog passes Verilator's lint, but for the warnings that are listed with a
reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from moevit.hw.config import preset
from moevit.hw.verilog import LINT_WAIVERS, TOP_NAME, write
from moevit.sim.toolchain import find_verilator


@pytest.mark.slow
@pytest.mark.parametrize("name", ["micro", "default"])
def test_lint(name: str, tmp_path: Path) -> None:
    verilog, _ = write(preset(name), tmp_path)
    verilator = find_verilator()
    waived = [f"-Wno-{warning}" for warning in LINT_WAIVERS]
    done = subprocess.run(
        [
            str(verilator.executable),
            "--lint-only",
            "-Wall",
            *waived,
            "--top-module",
            TOP_NAME,
            str(verilog),
        ],
        env=verilator.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:2000]
    assert not done.stderr.strip()
