"""The native memory model, driven by a small DMA in place of the accelerator."""

from collections.abc import Iterator

import numpy as np
import pytest
from amaranth.back import verilog
from support import dma

from moevit.sim import native
from moevit.sim.memory_timing import MemoryTiming
from moevit.sim.native_library import build_native, master_prefixes
from moevit.sim.stats import RunResult

READERS, WIDTH = 2, 128
BEAT = WIDTH // 8
SIZE = 1 << 19
TARGET = 0x6_0000
FAST = MemoryTiming(bytes_per_cycle=1e9, read_latency=1, write_latency=1)


@pytest.fixture(scope="session")
def design() -> str:
    return verilog.convert(dma.Dma(readers=READERS, width=WIDTH), name="dma", emit_src=False)


@pytest.fixture(scope="session")
def library(design: str):
    return build_native(design, "dma")


@pytest.fixture
def image() -> bytes:
    return np.random.default_rng(7).bytes(SIZE)


@pytest.fixture
def sim(library, image: bytes) -> Iterator[native.NativeSim]:
    with native.NativeSim(library, memory_bytes=SIZE, timing=FAST) as sim:
        sim.write(0, image)
        yield sim


def transfer(sim: native.NativeSim, limit: int = 100_000, **registers: int) -> RunResult:
    values = {"SOURCE": 0, "TARGET": TARGET, "BURSTS": 0, "LENGTH": 15, "IDS": 0, "WRITES": 0,
              "MISBEHAVE": 0, "THROTTLE": 0} | registers  # fmt: skip
    for name, value in values.items():
        sim.reg_write(dma.REGISTERS[name], value)
    sim.clear_stats()
    sim.reg_write(dma.REGISTERS["START"], 1)
    return sim.run(limit)


def port(sim: native.NativeSim, index: int) -> dict[str, int]:
    at = dma.REGISTERS["PORT"] + index * dma.PORT_STRIDE
    return {name: sim.reg_read(at + 4 * i) for i, name in enumerate(dma.PORT_FIELDS)}


def cycles(sim: native.NativeSim) -> int:
    return sim.reg_read(dma.REGISTERS["CYCLES"])


def expected_sum(image: bytes, index: int, bursts: int, length: int, ids: bool = False) -> int:
    start = index * dma.PORT_DISTANCE
    beats = np.frombuffer(image, "<u4")[start // 4 :: BEAT // 4][: bursts * length]
    weight = 1 + np.arange(bursts).repeat(length) % 2 * ids
    return int((beats.astype(np.uint64) * weight).sum()) & 0xFFFF_FFFF


STALLS = [(0.0, False), (0.3, False), (0.0, True), (0.6, True)]


@pytest.mark.parametrize(("stall", "reorder"), STALLS)
@pytest.mark.parametrize("length", [1, 3, 16, 256])
def test_reads_are_right_whatever_the_stalls(sim, image, stall, reorder, length) -> None:
    sim.configure(FAST.but(stall_probability=stall, reorder=reorder, seed=length, outstanding=4))
    assert transfer(sim, BURSTS=9, LENGTH=length - 1, IDS=1, THROTTLE=length % 3).interrupt
    for index in range(READERS + 1):
        got = port(sim, index)
        assert got["beats"] == 9 * length
        assert got["errors"] == 0
        assert got["sum"] == expected_sum(image, index, 9, length, ids=True)
    assert sim.stats.violations == 0
    assert sim.stats.read_bytes == 9 * length * BEAT * (READERS + 1)


def test_bursts_of_one_id_stay_in_order_and_others_overtake(sim) -> None:
    sim.configure(FAST.but(reorder=True, read_latency=50, seed=3))
    transfer(sim, BURSTS=12, LENGTH=3, IDS=1)
    in_order = 0b010101010101
    orders = [port(sim, index)["order"] & 0xFFF for index in range(READERS + 1)]
    assert all(order.bit_count() == 6 for order in orders)
    assert any(order != in_order for order in orders)
    sim.configure(FAST.but(read_latency=50))
    transfer(sim, BURSTS=12, LENGTH=3, IDS=1)
    assert [port(sim, index)["order"] & 0xFFF for index in range(READERS + 1)] == [in_order] * 3


@pytest.mark.parametrize("latency", [1, 2, 17, 100])
def test_latency_is_cycles_from_address_to_data(sim, latency) -> None:
    # The DMA offers its address in its cycle 0, so the counter holds the latency at the first beat.
    sim.configure(FAST.but(read_latency=latency))
    transfer(sim, BURSTS=1)
    assert {port(sim, index)["first"] for index in range(READERS + 1)} == {latency}


@pytest.mark.parametrize("rate", [4.8, 8.0, 16.0, 20.0, 64 / 3, 40.0])
def test_ports_share_the_bandwidth_evenly(sim, rate) -> None:
    sim.configure(FAST.but(bytes_per_cycle=rate))
    transfer(sim, BURSTS=60, LENGTH=15)
    total = (READERS + 1) * 60 * 16 * BEAT
    assert sim.stats.read_bytes == total
    assert cycles(sim) == pytest.approx(total / rate, rel=0.02)
    waits = [p.read_waits for p in sim.stats.ports.values()]
    assert max(waits) - min(waits) <= 0.02 * cycles(sim)


def test_a_port_gets_a_beat_a_cycle_at_most(sim) -> None:
    transfer(sim, BURSTS=60, LENGTH=15)
    assert 60 * 16 <= cycles(sim) <= 60 * 16 + 4


def test_reads_and_writes_share_the_bandwidth(sim) -> None:
    sim.configure(FAST.but(bytes_per_cycle=8.0))
    transfer(sim, BURSTS=20, WRITES=20)
    total = (READERS + 2) * 20 * 16 * BEAT
    assert cycles(sim) == pytest.approx(total / 8.0, rel=0.03)


def test_refresh_takes_its_share(sim) -> None:
    sim.configure(FAST.but(refresh_period=100, refresh_cycles=25))
    transfer(sim, BURSTS=200, LENGTH=15)
    assert cycles(sim) == pytest.approx(200 * 16 / 0.75, rel=0.02)


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_writes_reach_the_memory_and_nothing_else(sim, image, stall) -> None:
    sim.configure(FAST.but(stall_probability=stall, seed=5))
    assert transfer(sim, WRITES=7, LENGTH=9).interrupt
    written = np.frombuffer(sim.read(TARGET, 70 * BEAT), "<u8").reshape(70, 2)
    assert (written[:, 0] == np.arange(70)).all()
    assert not written[:, 1].any()
    assert sim.read(0, TARGET) == image[:TARGET]
    assert sim.read(TARGET + 70 * BEAT, 256) == image[TARGET + 70 * BEAT :][:256]
    assert sim.stats.ports["m_axi_d"].write_bytes == 70 * BEAT
    assert sim.stats.ports["m_axi_d"].write_bursts == 7
    assert sim.stats.violations == 0


def test_addresses_outside_are_decode_errors(sim) -> None:
    assert transfer(sim, SOURCE=SIZE - 2 * dma.PORT_DISTANCE - 4 * BEAT, BURSTS=1).interrupt
    assert [port(sim, index)["errors"] for index in range(READERS + 1)] == [0, 0, 12]
    assert sim.stats.ports["m_axi_d"].error_responses == 12


def test_injected_faults_hit_their_addresses_until_taken_back(sim, image) -> None:
    sim.inject(dma.PORT_DISTANCE + 5 * BEAT, 2 * BEAT)
    transfer(sim, BURSTS=2)
    assert [port(sim, index)["errors"] for index in range(READERS + 1)] == [0, 2, 0]
    sim.clear_faults()
    transfer(sim, BURSTS=2)
    assert [port(sim, index)["errors"] for index in range(READERS + 1)] == [0, 0, 0]


def test_a_faulty_write_changes_nothing_and_is_answered(sim, image) -> None:
    sim.inject(TARGET + BEAT, 1, native.DECERR)
    assert transfer(sim, WRITES=1, LENGTH=2).interrupt
    assert sim.read(TARGET + BEAT, BEAT) == image[TARGET + BEAT :][:BEAT]
    assert sim.stats.ports["m_axi_d"].error_responses == 1


@pytest.mark.parametrize(
    ("registers", "counter"),
    [
        ({"SOURCE": 0xF00, "BURSTS": 1, "LENGTH": 31}, "bad_boundary"),
        ({"SOURCE": 4, "BURSTS": 1}, "bad_alignment"),
        ({"BURSTS": 8, "MISBEHAVE": dma.WITHDRAW}, "bad_stability"),
        ({"WRITES": 2, "MISBEHAVE": dma.EARLY_LAST}, "bad_last"),
    ],
)
def test_breaches_of_the_protocol_are_counted(sim, registers, counter) -> None:
    sim.configure(FAST.but(stall_probability=0.5, seed=1))
    assert transfer(sim, **registers).interrupt
    stats = sim.stats.ports["m_axi_d"]
    assert getattr(stats, counter) > 0
    assert stats.violations == getattr(stats, counter)


def test_back_pressure_is_counted(sim) -> None:
    transfer(sim, BURSTS=4, LENGTH=15, THROTTLE=3)
    assert sim.stats.ports["m_axi_w0"].read_stalls == pytest.approx(3 * 63, abs=3)


def test_run_stops_at_the_limit_and_goes_on(sim) -> None:
    sim.configure(FAST.but(bytes_per_cycle=1.0))
    seen: list[int] = []
    first = transfer(sim, limit=100, BURSTS=20)
    assert first == RunResult(interrupt=False, cycles=100)
    second = sim.run(10_000_000, seen.append)
    assert second.interrupt
    assert seen[-1] == second.cycles
    assert all(b - a <= native.CHUNK_CYCLES for a, b in zip([0, *seen], seen, strict=False))


def test_reset_forgets_open_bursts(sim, image) -> None:
    sim.configure(FAST.but(read_latency=500))
    transfer(sim, limit=100, BURSTS=30)
    sim.reset()
    sim.configure(FAST)
    assert transfer(sim, BURSTS=3, LENGTH=7).interrupt
    assert port(sim, 0)["sum"] == expected_sum(image, 0, 3, 8)


def test_two_simulations_do_not_meet(library, sim, image) -> None:
    with native.NativeSim(library, memory_bytes=SIZE, timing=FAST) as other:
        other.write(0, image[::-1])
        transfer(sim, BURSTS=3)
        transfer(other, BURSTS=3)
        assert port(sim, 1)["sum"] == expected_sum(image, 1, 3, 16)
        assert port(other, 1)["sum"] == expected_sum(image[::-1], 1, 3, 16)


def test_the_base_address(library, image) -> None:
    base = 0x4000_0000
    with native.NativeSim(library, memory_bytes=SIZE, base=base, timing=FAST) as sim:
        sim.write(base, image)
        assert transfer(sim, SOURCE=base, TARGET=base + TARGET, BURSTS=3).interrupt
        assert port(sim, 2)["sum"] == expected_sum(image, 2, 3, 16)
        transfer(sim, SOURCE=0, BURSTS=1)
        assert port(sim, 0)["errors"] == 16


def test_register_errors(sim) -> None:
    with pytest.raises(native.BusError, match="read of register 0xffc: AXI response 2"):
        sim.reg_read(0xFFC)
    with pytest.raises(native.BusError, match="write to register 0xffc: AXI response 2"):
        sim.reg_write(0xFFC, 1)
    sim.reg_write(dma.REGISTERS["TARGET"], 0x1234_5678)
    assert sim.reg_read(dma.REGISTERS["TARGET"]) == 0x1234_5678


@pytest.mark.parametrize(("address", "count"), [(-1, 4), (SIZE - 3, 4), (SIZE, 1), (1 << 40, 1)])
def test_the_host_cannot_reach_outside(sim, address, count) -> None:
    with pytest.raises(ValueError, match="outside the memory"):
        sim.read(address, count)
    with pytest.raises(ValueError, match="outside the memory"):
        sim.write(address, bytes(count))


def test_a_closed_simulation_says_so(library) -> None:
    sim = native.NativeSim(library, memory_bytes=64)
    sim.close()
    sim.close()
    with pytest.raises(ValueError, match="closed"):
        sim.run(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bytes_per_cycle": 0}, "bytes_per_cycle must be positive, not 0"),
        ({"read_latency": 0}, "read_latency must be at least 1, not 0"),
        ({"outstanding": 0}, "outstanding must be at least 1, not 0"),
        ({"stall_probability": 1.0}, "below 1, not 1.0"),
        ({"refresh_period": 5, "refresh_cycles": 5}, "below the period of 5, not 5"),
    ],
)
def test_bad_timing(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryTiming(**change)


def test_masters_are_found_in_the_verilog(design) -> None:
    assert master_prefixes(design, "dma") == ("m_axi_d", "m_axi_w0", "m_axi_w1")
    with pytest.raises(ValueError, match="no module 'top'"):
        master_prefixes(design, "top")
    with pytest.raises(ValueError, match="has no AXI4 master"):
        master_prefixes("module a(clk, rst);\n input clk;\n input rst;\nendmodule\n", "a")
