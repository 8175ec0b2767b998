"""A small AXI4 master to try memory models with, told over AXI4-Lite what to transfer.

Each port reads bursts and sums the low words up; the data port also writes bursts that hold the
number of each beat. It can be told to break the protocol.
"""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = [
    "EARLY_LAST",
    "PORT_DISTANCE",
    "PORT_FIELDS",
    "PORT_STRIDE",
    "REGISTERS",
    "WITHDRAW",
    "Dma",
    "master_members",
]

#: Byte addresses of the registers. CYCLES is read back, and each port's fields from PORT on.
REGISTERS = {
    "START": 0x00,
    "SOURCE": 0x04,  # port p reads from SOURCE + p * PORT_DISTANCE
    "TARGET": 0x08,
    "BURSTS": 0x0C,  # of reading, on each port
    "LENGTH": 0x10,  # beats of a burst, less one
    "IDS": 0x14,  # 1: odd bursts have id 1
    "WRITES": 0x18,  # bursts of writing
    "MISBEHAVE": 0x1C,
    "THROTTLE": 0x20,  # cycles without rready after a beat
    "CYCLES": 0x40,  # of the whole transfer
    "PORT": 0x80,
}
#: In MISBEHAVE: withdraw arvalid, early wlast.
WITHDRAW, EARLY_LAST = 1, 2
PORT_DISTANCE = 1 << 16

#: Registers of one port, from PORT on: folded data, beats, error beats, first data cycle, last id.
PORT_FIELDS = ("sum", "beats", "errors", "first", "order")
PORT_STRIDE = 0x20


def master_members(prefix: str, width: int, write: bool) -> dict[str, wiring.Member]:
    """The signals of one AXI4 master by their flat names."""
    out = {"arid": 1, "araddr": 32, "arlen": 8, "arsize": 3, "arburst": 2, "arvalid": 1,
           "rready": 1}  # fmt: skip
    into = {"arready": 1, "rid": 1, "rdata": width, "rresp": 2, "rlast": 1, "rvalid": 1}
    if write:
        out |= {"awid": 1, "awaddr": 32, "awlen": 8, "awsize": 3, "awburst": 2, "awvalid": 1,
                "wdata": width, "wstrb": width // 8, "wlast": 1, "wvalid": 1,
                "bready": 1}  # fmt: skip
        into |= {"awready": 1, "wready": 1, "bid": 1, "bresp": 2, "bvalid": 1}
    return {f"{prefix}_{k}": Out(v) for k, v in out.items()} | {
        f"{prefix}_{k}": In(v) for k, v in into.items()
    }


_LITE = {
    "awvalid": In(1), "awaddr": In(12), "awready": Out(1), "wvalid": In(1), "wdata": In(32),
    "wstrb": In(4), "wready": Out(1), "bvalid": Out(1), "bresp": Out(2), "bready": In(1),
    "arvalid": In(1), "araddr": In(12), "arready": Out(1), "rvalid": Out(1), "rdata": Out(32),
    "rresp": Out(2), "rready": In(1),
}  # fmt: skip


class Dma(wiring.Component):
    """`readers` read-only masters `m_axi_w{p}` and one, `m_axi_d`, that also writes."""

    def __init__(self, *, readers: int = 2, width: int = 128) -> None:
        self._readers, self._width = readers, width
        members = {"clk": In(1), "rst": In(1), "irq": Out(1)}
        members |= {f"s_axil_{k}": v for k, v in _LITE.items()}
        for p in range(readers):
            members |= master_members(f"m_axi_w{p}", width, write=False)
        members |= master_members("m_axi_d", width, write=True)
        super().__init__(members)

    def _prefixes(self) -> list[str]:
        return [f"m_axi_w{p}" for p in range(self._readers)] + ["m_axi_d"]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.d.comb += [ClockSignal().eq(self.clk), ResetSignal().eq(self.rst)]
        regs = {name: Signal(32, name=name.lower()) for name in REGISTERS if name != "PORT"}
        readable = {REGISTERS[name]: regs[name] for name in regs}
        start = Signal()
        busy = []
        for index, prefix in enumerate(self._prefixes()):
            fields = {f: Signal(32, name=f"{prefix}_{f}") for f in PORT_FIELDS}
            for i, name in enumerate(PORT_FIELDS):
                readable[REGISTERS["PORT"] + index * PORT_STRIDE + 4 * i] = fields[name]
            busy.append(self._reader(m, prefix, index, regs, fields, start))
        busy.append(self._writer(m, regs, start))
        running = Signal()
        with m.If(start):
            m.d.sync += [running.eq(1), self.irq.eq(0), regs["CYCLES"].eq(0)]
        with m.Elif(running):
            m.d.sync += regs["CYCLES"].eq(regs["CYCLES"] + 1)
            with m.If(~Cat(busy).any()):
                m.d.sync += [running.eq(0), self.irq.eq(1)]
        self._lite(m, regs, readable, start)
        return m

    def _lite(
        self, m: Module, regs: dict[str, Signal], readable: dict[int, Signal], start: Signal
    ) -> None:
        s = {k: getattr(self, f"s_axil_{k}") for k in _LITE}
        take = Signal()
        m.d.comb += [take.eq(s["awvalid"] & s["wvalid"] & ~s["bvalid"]),
                     s["awready"].eq(take), s["wready"].eq(take),
                     s["arready"].eq(s["arvalid"] & ~s["rvalid"])]  # fmt: skip
        m.d.sync += start.eq(0)
        with m.If(s["bready"]):
            m.d.sync += s["bvalid"].eq(0)
        with m.If(take):
            m.d.sync += [s["bvalid"].eq(1), s["bresp"].eq(2)]
            with m.Switch(s["awaddr"]):
                for name, signal in regs.items():
                    with m.Case(REGISTERS[name]):
                        m.d.sync += [signal.eq(s["wdata"]), s["bresp"].eq(0)]
                        if name == "START":
                            m.d.sync += start.eq(1)
        with m.If(s["rready"]):
            m.d.sync += s["rvalid"].eq(0)
        with m.If(s["arready"]):
            m.d.sync += [s["rvalid"].eq(1), s["rdata"].eq(0), s["rresp"].eq(2)]
            with m.Switch(s["araddr"]):
                for offset, signal in readable.items():
                    with m.Case(offset):
                        m.d.sync += [s["rdata"].eq(signal), s["rresp"].eq(0)]

    def _reader(self, m, prefix, index, regs, fields, start):
        s = {k.removeprefix(f"{prefix}_"): getattr(self, k)
             for k in master_members(prefix, self._width, write=False)}  # fmt: skip
        left, data_left = Signal(32, name=f"{prefix}_left"), Signal(32, name=f"{prefix}_dleft")
        address, wait = Signal(32, name=f"{prefix}_at"), Signal(8, name=f"{prefix}_wait")
        step = (regs["LENGTH"] + 1) * (self._width // 8)
        flip = Signal(name=f"{prefix}_flip")
        m.d.comb += [s["araddr"].eq(address), s["arlen"].eq(regs["LENGTH"]), s["arburst"].eq(1),
                     s["arsize"].eq((self._width // 8).bit_length() - 1),
                     s["arid"].eq(flip & regs["IDS"][0]), s["rready"].eq(wait == 0),
                     s["arvalid"].eq(left != 0)]  # fmt: skip
        with m.If(regs["MISBEHAVE"][0]):
            blink = Signal(name=f"{prefix}_blink")
            m.d.sync += blink.eq(~blink)
            m.d.comb += s["arvalid"].eq((left != 0) & blink)
        with m.If(s["arvalid"] & s["arready"]):
            m.d.sync += [left.eq(left - 1), address.eq(address + step), flip.eq(~flip)]
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.If(s["rvalid"] & s["rready"]):
            m.d.sync += [wait.eq(regs["THROTTLE"]), fields["beats"].eq(fields["beats"] + 1),
                         fields["sum"].eq(fields["sum"] + s["rdata"][:32] * (1 + s["rid"])),
                         fields["errors"].eq(fields["errors"] + (s["rresp"] != 0))]  # fmt: skip
            with m.If(fields["beats"] == 0):
                m.d.sync += fields["first"].eq(regs["CYCLES"])
            with m.If(s["rlast"]):
                m.d.sync += [data_left.eq(data_left - 1),
                             fields["order"].eq(Cat(s["rid"], fields["order"]))]  # fmt: skip
        with m.If(start):
            m.d.sync += [left.eq(regs["BURSTS"]), data_left.eq(regs["BURSTS"]), flip.eq(0),
                         address.eq(regs["SOURCE"] + index * PORT_DISTANCE)]  # fmt: skip
            m.d.sync += [fields[name].eq(0) for name in PORT_FIELDS]
        return data_left != 0

    def _writer(self, m, regs, start):
        s = {k.removeprefix("m_axi_d_"): getattr(self, k)
             for k in master_members("m_axi_d", self._width, write=True)}  # fmt: skip
        left, data_left, acks, beat = (Signal(32, name=f"w_{n}") for n in "abcd")
        address, count = Signal(32), Signal(32)
        beats = regs["LENGTH"] + 1
        m.d.comb += [s["awaddr"].eq(address), s["awlen"].eq(regs["LENGTH"]), s["awburst"].eq(1),
                     s["awsize"].eq((self._width // 8).bit_length() - 1),
                     s["awvalid"].eq(left != 0), s["wvalid"].eq(data_left != 0),
                     s["wdata"].eq(count), s["wstrb"].eq(-1), s["bready"].eq(1),
                     s["wlast"].eq((beat == regs["LENGTH"]) | regs["MISBEHAVE"][1])]  # fmt: skip
        with m.If(s["awvalid"] & s["awready"]):
            m.d.sync += [left.eq(left - 1), address.eq(address + beats * (self._width // 8))]
        with m.If(s["wvalid"] & s["wready"]):
            m.d.sync += [count.eq(count + 1), beat.eq(beat + 1)]
            with m.If(beat == regs["LENGTH"]):
                m.d.sync += [beat.eq(0), data_left.eq(data_left - 1)]
        with m.If(s["bvalid"]):
            m.d.sync += acks.eq(acks - 1)
        with m.If(start):
            m.d.sync += [sig.eq(regs["WRITES"]) for sig in (left, data_left, acks)]
            m.d.sync += [address.eq(regs["TARGET"]), beat.eq(0), count.eq(0)]
        return acks != 0
