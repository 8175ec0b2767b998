"""``pytest --waves`` (tests/support/waves.py): what an FST says is what was simulated."""

from __future__ import annotations

from pathlib import Path

import pylibfst
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from support.waves import to_fst


def test_an_fst_has_every_change(tmp_path: Path) -> None:
    m = Module()
    count = Signal(5, init=30)
    unused = Signal(0)
    m.d.sync += [count.eq(count + 1), unused.eq(count)]
    seen = []

    async def watch(ctx):
        for _ in range(6):
            seen.append(ctx.get(count))
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(watch)
    with sim.write_vcd(str(tmp_path / "a.vcd")):
        sim.run()
    to_fst(tmp_path / "a.vcd", tmp_path / "a.fst")

    reader = pylibfst.lib.fstReaderOpen(str(tmp_path / "a.fst").encode())
    try:
        _, signals = pylibfst.get_scopes_signals2(reader)
        names = {name.rpartition(".")[2].split()[0]: s for name, s in signals.by_name.items()}
        assert "unused" not in names
        pylibfst.lib.fstReaderSetFacProcessMaskAll(reader)
        found = []

        def change(_data, _time, handle, value) -> None:
            if handle == names["count"].handle:
                found.append(int(pylibfst.string(value), 2))

        pylibfst.fstReaderIterBlocks(reader, change)
    finally:
        pylibfst.lib.fstReaderClose(reader)
    assert found[: len(seen)] == seen == [30, 31, 0, 1, 2, 3]
