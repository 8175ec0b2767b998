"""Members of components, found by their places and led out of the design."""

import pytest
from amaranth.hdl import Fragment, Module, ResetInserter, Signal
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from moevit.hw.lib.component import Component
from moevit.hw.watch import bring_out


class Counter(Component):
    def __init__(self) -> None:
        super().__init__({"total": Out(20), "wide": Out(40), "en": In(1).array(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.total.eq(self.total + 3)
        m.d.comb += self.wide.eq(self.total << 20)
        return m


class Outer(Component):
    def __init__(self) -> None:
        super().__init__({"clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = middle = Module()
        counter = Counter()
        middle.submodules.counter = ResetInserter(self.clear)(counter)
        m.d.comb += counter.en[1].eq(1)
        return m


def test_members_are_brought_out() -> None:
    top = Fragment.get(Outer(), None)
    place = "inner.counter:"
    wanted = {"a": f"{place}total", "b": f"{place}en.1", "c": f"{place}wide"}
    signals, fields = bring_out(top, {"watch": wanted, "other": {"d": f"{place}en.0"}})
    assert [(f.name, f.offset, f.width) for f in fields["watch"]] == [
        ("a", 0, 20), ("b", 20, 1), ("c", 32, 40)
    ]  # fmt: skip
    assert len(signals["watch"]) == 72 and len(signals["other"]) == 1
    m = Module()
    m.submodules.top = top
    seen = Signal(72)
    m.d.comb += seen.eq(signals["watch"])
    simulator = Simulator(m)
    simulator.add_clock(1e-6)

    async def bench(ctx) -> None:  # type: ignore[no-untyped-def]
        await ctx.tick().repeat(4)
        value = ctx.get(seen)
        assert value & (1 << 20) - 1 == 12
        assert value >> 20 & 1 == 1
        assert value >> 32 == 12 << 20

    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("place", ["inner.meter:total", "inner.counter:sum", "counter:total"])
def test_a_place_that_is_not_there(place: str) -> None:
    with pytest.raises(ValueError, match=f"The design has no {place}"):
        bring_out(Fragment.get(Outer(), None), {"watch": {"a": place}})
