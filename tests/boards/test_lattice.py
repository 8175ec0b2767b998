"""The ULX3S: clock, pads, report, and the whole system from a driver's line to the integers."""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator
from support.boards import check, make_case

from moevit.boards.driver import packets
from moevit.boards.driver.device import Accelerator
from moevit.boards.driver.errors import BusyError, IdentityError, RoomError, TransportError
from moevit.boards.driver.serial import Serial
from moevit.boards.lattice import flow, pins, report
from moevit.boards.lattice.link import Link
from moevit.boards.lattice.sdram import Timing
from moevit.boards.lattice.simulated import SimulatedSystem
from moevit.boards.targets import open_board
from moevit.hw.config import preset

BOARD = open_board("ulx3s")
assert BOARD is not None
CONFIG = preset("micro").but(
    name="micro-2", array__inputs=16, array__outputs=2, memory__residual_words=128
)
"""Two lanes around the array, the fewest; residual words, four to a beat, pass through memory."""


def test_pll() -> None:
    for mhz in (25, 40, 50, 60, 62.5, 75, 100):
        divide, times, output = pins.pll(mhz)
        assert pins.OSCILLATOR_MHZ / divide * times == pytest.approx(mhz)
        assert 400 <= mhz * output <= 800
        assert pins.OSCILLATOR_MHZ / divide >= 3.125
    with pytest.raises(
        pins.ClockError, match=r"61\.3 MHz cannot be made .* nearest is 60\.7143 MHz"
    ):
        pins.pll(61.3)


def test_every_pad_has_its_place() -> None:
    text = pins.constraints(60)
    places = re.findall(r'LOCATE COMP "(\S+)" SITE "(\S+)"', text)
    assert len({ball for _, ball in places}) == len(places) == 4 + 6 + 2 + 2 + 13 + 16
    assert {name.split("[")[0] for name, _ in places} == set(pins.PINS)
    assert 'FREQUENCY NET "clk" 60 MHZ' in text


def test_times_of_the_memory() -> None:
    timing = Timing.at(60e6)
    assert timing.start == 12_000
    assert timing.refresh < 7.8e-6 * 60e6 - 30
    assert (timing.after_precharge, timing.after_activate, timing.after_refresh) == (2, 2, 5)


def test_a_configuration_that_is_too_large(tmp_path: Path) -> None:
    assert not flow.shortage(preset("ulx3s"), BOARD)
    with pytest.raises(ValueError, match=r"'default' does not fit ulx3s: 256 MULT18X18D of 156"):
        flow.build(tmp_path / "b", BOARD, preset("default"), mhz=50)
    with pytest.raises(ValueError, match=r"cannot be made of 25 MHz"):
        flow.build(tmp_path / "b", BOARD, preset("ulx3s"), mhz=51.7)
    assert not (tmp_path / "b").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"exists and is no build"):
        flow.build(tmp_path / "other", BOARD, preset("ulx3s"), mhz=50)


def _report() -> dict[str, Any]:
    def part(kind: str, ns: float) -> dict[str, Any]:
        return {"type": kind, "delay": ns, "net": "n", "to": {"cell": "c", "port": "D"}}

    clock = "posedge $glbnet$clk"
    return {
        "utilization": {
            "TRELLIS_COMB": {"used": 40_000, "available": 83_640},
            "ALU54B": {"used": 0, "available": 78},
        },
        "fmax": {"$glbnet$clk": {"achieved": 54.321, "constraint": 50.0}},
        "critical_paths": [
            {"from": "<async>", "to": clock, "path": [part("routing", 90.0)]},
            {"from": clock, "to": clock, "path": [part("clk-to-q", 0.5), part("routing", 17.9)]},
        ],
    }


def test_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(_report()))
    found = report.judge(path, 50.0)
    assert found["used"] == {"TRELLIS_COMB": 40_000}
    assert found["met"] and found["reached_mhz"] == 54.32
    assert [step["ns"] for step in found["path"]] == [0.5, 17.9]
    assert not report.judge(path, 60.0)["met"]
    for text, what in (("{", "is not JSON"), ("{}", "is no report of nextpnr")):
        path.write_text(text)
        with pytest.raises(report.ReportError, match=rf"report.json: {what}"):
            report.judge(path, 50.0)
    path.unlink()
    with pytest.raises(report.ReportError, match="no such file"):
        report.judge(path, 50.0)


_FAKE = """
import json, os, sys, time
tool = sys.argv[1]
print("at iteration #1 of", tool, flush=True)
if tool == os.environ.get("FAILS"):
    print("ERROR: no place for everything", "and so on", sep="\\n", flush=True)
    sys.exit(1)
if tool == os.environ.get("HANGS"):
    open("pid", "w").write(str(os.getpid()))
    print("at iteration #2", flush=True)
    time.sleep(1000)
made = {"run_yosys": "netlist.json", "run_nextpnr_ecp5": "system.config"}
open(made.get(tool, sys.argv[-1]), "w").write("made")
open("report.json", "w").write(os.environ["REPORT"])
"""


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The three tools by a program that writes what they would."""
    monkeypatch.setattr(flow, "_tool", lambda _, name: [sys.executable, "-c", _FAKE, name])
    monkeypatch.setattr(flow, "_require", dict)
    monkeypatch.setattr(flow, "board_rtlil", lambda *_, **__: "")
    monkeypatch.setenv("REPORT", json.dumps(_report()))
    return monkeypatch


def _said(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "build.json").read_text())
    return found


def test_build(tools: pytest.MonkeyPatch, tmp_path: Path) -> None:
    steps: list[str] = []
    config, folder = preset("ulx3s"), tmp_path / "b"
    about = flow.build(folder, BOARD, config, mhz=50, progress=lambda step, _: steps.append(step))
    assert about == _said(folder)
    assert about["status"] == "built" and about["result"]["reached_mhz"] == 54.32
    assert (folder / "moevit.bit").read_text() == "made"
    assert list(dict.fromkeys(steps)) == [
        "RTLIL", "synthesis", "place and route", "placing", "bitstream", "done",
    ]  # fmt: skip
    assert flow.build(folder, BOARD, config, mhz=60)["status"] == "timing not met"
    assert not (folder / "moevit.bit").exists()
    allowed = flow.build(folder, BOARD, config, mhz=60, allow_timing=True)
    assert allowed["timing_failure_allowed"] and (folder / "moevit.bit").exists()


def test_a_tool_that_fails(tools: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tools.setenv("FAILS", "run_nextpnr_ecp5")
    with pytest.raises(flow.FlowError, match=r"^ERROR: no place .*\(log: .*nextpnr.log\)"):
        flow.build(tmp_path / "b", BOARD, preset("ulx3s"), mhz=50)
    assert _said(tmp_path / "b")["status"] == "failed"
    assert "no place" in (tmp_path / "b" / "nextpnr.log").read_text()


def test_ctrl_c(tools: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It leaves no process, no bitstream, and says in build.json that it failed."""
    tools.setenv("HANGS", "run_nextpnr_ecp5")
    placed = 0

    def stop(step: str, _share: float) -> None:
        nonlocal placed
        placed += step == "placing"
        if placed == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow.build(tmp_path / "b", BOARD, preset("ulx3s"), mhz=50, progress=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "b" / "pid").read_text()), 0)
    assert _said(tmp_path / "b")["failure"] == "KeyboardInterrupt"
    assert not (tmp_path / "b" / "moevit.bit").exists()


class Board:
    """What :mod:`moevit.boards.driver.packets` says of a board, and a line that damages bytes.

    ``faults``: by the number of the transfer, what is made of the bytes of a request or an answer.
    """

    def __init__(self, faults: dict[int, Any]) -> None:
        self.memory = bytearray(1 << 16)
        self.registers: list[tuple[int, int]] = []
        self._faults, self._count, self._answer = faults, 0, b""
        self._previous = -1

    def _damaged(self, data: bytes) -> bytes:
        self._count += 1
        return bytes(self._faults.get(self._count, lambda b: b)(data))

    def write(self, data: bytes) -> None:
        data = self._damaged(data)
        size = packets.REQUEST.size
        if len(data) < size + 4 or data[0] != packets.REQUEST_MAGIC:
            return  # given up after a pause
        _, what, sequence, count, address = packets.REQUEST.unpack(data[:size])
        beats = packets.BEAT * (count + 1)
        takes = {packets.Operation.WRITE: beats, packets.Operation.WRITE_REGISTER: 4}
        takes[packets.Operation.CHECKSUM] = 4
        payload = data[size : size + takes.get(what, 0)]
        if len(data) < size + takes.get(what, 0) + 4:
            return
        status, given = packets.Status.DONE, b""
        if not packets.sound(data):
            status = packets.Status.DAMAGED
        elif what == packets.Operation.HELLO:
            given = np.array([packets.VERSION, 1, 2, 1 << 16], "<u4").tobytes()
        elif what == packets.Operation.WRITE:
            self.memory[address : address + beats] = payload
        elif what == packets.Operation.READ:
            given = bytes(self.memory[address : address + beats])
        elif what == packets.Operation.CHECKSUM:
            count = 16 * int.from_bytes(payload, "little")
            given = zlib.crc32(self.memory[address : address + count]).to_bytes(4, "little")
        elif what == packets.Operation.WRITE_REGISTER and sequence != self._previous:
            self.registers.append((address, int.from_bytes(payload, "little")))
            self._previous = sequence
        head = packets.ANSWER.pack(packets.ANSWER_MAGIC, status, sequence, 0)
        self._answer += self._damaged(packets.sealed(head + given))

    def read(self, count: int) -> bytes:
        part, self._answer = self._answer[:count], self._answer[count:]
        return part  # fewer: the time is up

    def reset_input_buffer(self) -> None:
        self._answer = b""

    def close(self) -> None:
        pass


def _changed(data: bytes) -> bytes:
    return bytes([*data[:-3], data[-3] ^ 4, *data[-2:]])


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Any:
    serial = pytest.importorskip("serial")

    def connect(faults: dict[int, Any]) -> tuple[Board, Serial]:
        board = Board(faults)
        monkeypatch.setattr(serial, "serial_for_url", lambda *_, **__: board)
        return board, Serial("/dev/tty-of-a-test")

    return connect


def test_damaged_lines(line: Any) -> None:
    """Requests and answers lost, cut or changed are sent again, and a register is written once."""
    faults = {
        3: _changed, 6: _changed, 8: lambda _: b"", 11: lambda d: d[:-5], 12: lambda d: d[:5],
        15: _changed, 20: lambda _: b"",
    }  # fmt: skip
    board, serial = line(faults)
    data = np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()
    try:
        serial.write(0x10, 7)
        serial.write(0x14, 8)
        assert serial.send(0x400, data) == len(data)
        assert serial.fetch(0x400, len(data)) == data
        assert board.registers == [(0x10, 7), (0x14, 8)]
        assert bytes(board.memory[0x400 : 0x400 + len(data)]) == data
        assert serial.resent >= 5
        assert serial.send(0x400, data) == 0  # it is there
        board.memory[0x400 + 77] ^= 1
        assert serial.send(0x400, data) == len(data)
        with pytest.raises(RoomError, match=r"70000 bytes are wanted, the memory has 65536"):
            serial.allocate(70_000, "program")
    finally:
        serial.close()


def test_no_board(line: Any) -> None:
    with pytest.raises(TransportError, match=r"no answer to HELLO in 8 tries"):
        line({n: lambda _: b"" for n in range(1, 99)})
    with pytest.raises(TransportError, match=r"damaged requests to HELLO"):
        line(dict.fromkeys(range(1, 99, 2), _changed))


def test_link() -> None:
    """The gateware's side: a damaged request does nothing, a cut one ends, one sent twice counts
    once."""
    link = Link(hz=20_000, bauds=5_000)  # a pause of 40 cycles
    written: list[tuple[int, int]] = []
    memory: dict[int, int] = {}

    async def registers(ctx: Any) -> None:
        bus = link.registers
        ctx.set(bus.awready, 1)
        ctx.set(bus.wready, 1)
        ctx.set(bus.arready, 1)
        ctx.set(bus.rdata, 0x1234_5678)
        async for _, _, valid, address, data, ready in ctx.tick().sample(
            bus.wvalid, bus.awaddr, bus.wdata, bus.bready
        ):
            if valid:
                written.append((address, data))
            ctx.set(bus.bvalid, 1)
            ctx.set(bus.rvalid, 1)
            del ready

    async def beats(ctx: Any) -> None:
        ctx.set(link.memory.ready, 1)
        async for _, _, valid, access in ctx.tick().sample(link.memory.valid, link.memory.payload):
            asked = valid and not access.write
            if valid and access.write:
                memory[access.address] = access.data
            ctx.set(link.read_valid, asked)
            ctx.set(link.read_data, memory.get(access.address, 0) if asked else 0)

    async def host(ctx: Any) -> None:
        async def send(data: bytes) -> None:
            for byte in data:
                ctx.set(link.byte, byte)
                ctx.set(link.valid, 1)
                await ctx.tick()
                ctx.set(link.valid, 0)
                await ctx.tick()

        async def ask(
            what: int, address: int = 0, count: int = 1, data: bytes = b"", number: int = 1
        ) -> bytes:
            head = packets.REQUEST.pack(packets.REQUEST_MAGIC, what, number, count - 1, address)
            await send(packets.sealed(head + data))
            return await answer()

        async def answer() -> bytes:
            ctx.set(link.o.ready, 1)
            said, quiet = b"", 0
            while quiet < 60:
                _, _, valid, byte = await ctx.tick().sample(link.o.valid, link.o.payload)
                said += bytes([byte]) if valid else b""
                quiet = 0 if valid else quiet + 1
            if said:
                assert packets.sound(said) and said[0] == packets.ANSWER_MAGIC
            return said[1:2] + said[4:-4]

        op = packets.Operation
        hello = await ask(op.HELLO)
        assert hello[:1] == b"\0" and np.frombuffer(hello[1:], "<u4").tolist() == [
            1,
            20_000,
            5_000,
            1 << 25,
        ]
        five = (5).to_bytes(4, "little")
        for _ in range(2):
            assert await ask(op.WRITE_REGISTER, 0x10, data=five, number=2) == b"\0"
        assert await ask(op.WRITE_REGISTER, 0x14, data=five, number=3) == b"\0"
        assert written == [(0x10, 5), (0x14, 5)]
        assert await ask(op.READ_REGISTER, 0x10) == b"\0" + (0x1234_5678).to_bytes(4, "little")
        data = bytes(range(48))
        assert await ask(op.WRITE, 0x100, 3, data) == b"\0"
        assert await ask(op.READ, 0x100, 3) == b"\0" + data
        summed = await ask(op.CHECKSUM, 0x110, data=(2).to_bytes(4, "little"))
        assert summed == b"\0" + zlib.crc32(data[16:]).to_bytes(4, "little")
        before = dict(memory)
        broken = bytearray(
            packets.sealed(packets.REQUEST.pack(0x4D, op.WRITE, 4, 0, 0x100) + bytes(16))
        )
        for place in (5, 12, 27):
            broken[place] ^= 1
            await send(broken)
            assert await answer() == bytes([packets.Status.DAMAGED])
            broken[place] ^= 1
        await send(broken[:11])  # the rest never comes
        assert await answer() == b""
        assert await ask(99) == bytes([packets.Status.UNKNOWN])
        assert memory == before

    simulator = Simulator(link)
    simulator.add_clock(1e-6)
    for process in (registers, beats):
        simulator.add_process(process)
    simulator.add_testbench(host)
    simulator.run()


@pytest.fixture(scope="module")
def system() -> Iterator[SimulatedSystem]:
    pytest.importorskip("serial")
    with SimulatedSystem(CONFIG) as system:
        yield system
        assert not system.fault


@pytest.mark.slow
def test_frames(system: SimulatedSystem) -> None:
    """From a program's file to the golden integers, by nothing but the serial line and the pins."""
    case = make_case(config=CONFIG)
    with Accelerator(Serial(system.url, time_out=30), time_out=100) as accelerator:
        transport: Any = accelerator.transport
        # All but a part is there already, as after an interruption: only that part is sent.
        memory = case.program.memory.tobytes()
        system.poke(0, memory[:70_000] + b"bad!" + memory[70_004:])
        before = system.cycle
        accelerator.load(case.program)
        assert system.cycle - before < len(memory) * 10  # 46 cycles a byte would be all of it
        check(accelerator, case)
        assert transport.resent == 0
        with pytest.raises(BusyError, match="driven by another process"):
            Serial(system.url)
        with pytest.raises(TransportError, match=r"register 0xffc: the access is refused"):
            transport.read(0xFFC)
        accelerator.reset()
        check(accelerator, case, 1)


@pytest.mark.slow
def test_another_program_is_refused(system: SimulatedSystem) -> None:
    case = make_case(config=CONFIG)
    other = case.program.__class__(**{**vars(case.program), "config_hash": 1})
    with Accelerator(Serial(system.url, time_out=30), time_out=100) as accelerator:
        with pytest.raises(IdentityError, match="the bitstream on"):
            accelerator.load(other)
