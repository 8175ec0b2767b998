"""``pytest --waves``: every simulation of a test leaves its waveform as an FST.

Amaranth's simulator and Verilator write VCD, which is far larger; :func:`to_fst` rewrites it. A
test that simulates many times, as those of hypothesis do, keeps its last simulation: of a failing
test that is the smallest example that fails. GTKWave and Surfer open it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["WAVES", "recorded", "to_fst"]

WAVES = Path("build") / "waves"
"""Where waveforms go without ``--waves=DIR``, in the folder that pytest was started in."""


def to_fst(vcd: Path, fst: Path) -> None:
    """Rewrite a waveform; signals keep names, widths and scopes, those of 0 bits are left out.

    pyvcd's reader refuses names that begin with ``$``, which Amaranth and Yosys make.
    """
    from pylibfst import ffi, lib

    fst.parent.mkdir(parents=True, exist_ok=True)
    writer = lib.fstWriterCreate(str(fst).encode(), 1)
    if writer == ffi.NULL:
        raise OSError(f"{fst}: cannot be written")
    handles: dict[str, tuple[int, int]] = {}

    def declare(words: list[str]) -> None:
        match words:
            case ["$timescale", *scale, "$end"]:
                lib.fstWriterSetTimescaleFromString(writer, "".join(scale).encode())
            case ["$scope", _, name, "$end"]:
                lib.fstWriterSetScope(writer, lib.FST_ST_VCD_MODULE, name.encode(), ffi.NULL)
            case ["$upscope", "$end"]:
                lib.fstWriterSetUpscope(writer)
            case ["$var", _, width, code, name, *_] if int(width):
                alias, _ = handles.get(code, (0, 0))
                kind, way = lib.FST_VT_VCD_WIRE, lib.FST_VD_IMPLICIT
                variable = writer, kind, way, int(width), name.encode(), alias
                handle = lib.fstWriterCreateVar(*variable)
                handles[code] = (alias or handle, int(width))

    def change(line: str) -> None:
        if line[0] == "#":
            lib.fstWriterEmitTimeChange(writer, int(line[1:]))
            return
        value, code = line[1:].split() if line[0] == "b" else (line[0], line[1:])
        handle, width = handles.get(code, (0, 0))
        if width:
            fill = value[0] if value[0] in "xz" else "0"
            lib.fstWriterEmitValueChange(writer, handle, value.rjust(width, fill).encode())

    try:
        with vcd.open(encoding="utf-8") as file:
            for line in filter(None, map(str.strip, file)):
                if line[0] in "#b01xz":
                    change(line)
                else:
                    declare(line.split())
    finally:
        lib.fstWriterClose(writer)


def recorded(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Iterator[None]:
    """While it is suspended, simulations of the requesting test are recorded into ``folder``."""
    from amaranth.sim import Simulator

    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")[:120]
    place = (folder / request.path.stem / name).absolute()
    vcd, fst = place.with_name(place.name + ".vcd"), place.with_name(place.name + ".fst")
    vcd.parent.mkdir(parents=True, exist_ok=True)
    vcd.unlink(missing_ok=True)
    run = Simulator.run

    def traced(self: Simulator, *arguments: Any, **options: Any) -> Any:
        with self.write_vcd(str(vcd)):
            return run(self, *arguments, **options)

    monkeypatch.setattr(Simulator, "run", traced)
    if (bench := getattr(request.module, "run_bench", None)) is not None:
        monkeypatch.setattr(request.module, "run_bench", functools.partial(bench, waves=vcd))
    yield
    if vcd.exists():
        to_fst(vcd, fst)
        vcd.unlink()
        request.node.user_properties.append(("waveform", str(fst)))
