"""The cycle model: what it counts, how it reacts, and that it is near the hardware."""

from dataclasses import dataclass, replace

import pytest

from moevit.compiler import compile_network
from moevit.compiler.cost.arrival import Rows, Stream
from moevit.compiler.cost.estimate import calibration_lengths, estimate
from moevit.compiler.cost.timing import Latencies, MemorySpeed, pixel_cycles
from moevit.compiler.plan.schedule import ExpertSchedule
from moevit.hw.checks import code_bytes
from moevit.hw.config import preset
from moevit.hw.image import BlockHeader
from moevit.hw.isa import Gemm
from moevit.quant.golden import Golden
from moevit.quant.random_network import Sizes, random_images, random_network

TOLERANCE = 0.05


@dataclass(frozen=True)
class Memory:
    bytes_per_cycle: float = 64.0
    read_latency: int = 30
    write_latency: int = 20
    refresh_period: int = 0
    refresh_cycles: int = 0


@pytest.fixture(scope="module")
def program():
    return compile_network(random_network(3, Sizes(image_width=64)), preset("default"))


def test_slower_memory_never_helps(program) -> None:
    cycles = [
        estimate(program, "task0", memory).cycles
        for memory in (
            Memory(),
            Memory(bytes_per_cycle=8.0),
            Memory(bytes_per_cycle=1.0),
            Memory(bytes_per_cycle=1.0, read_latency=300),
            Memory(bytes_per_cycle=1.0, read_latency=300, refresh_period=100, refresh_cycles=20),
        )
    ]
    assert cycles == sorted(cycles)
    assert cycles[0] < cycles[2]


def test_array_cycles_are_those_of_the_instructions(program) -> None:
    """Every tile of every GEMM and head, whatever stalls."""
    tokens = program.geometry.tokens
    found = estimate(program, "task1", Memory(), lengths=[(tokens, tokens, 0, 0)])
    tiles = -(-tokens // 4)
    d, head, hidden = 2, 1, 4  # activation words of a token, a head, a hidden row
    patches = -(-(tokens - 1) // 4) * 4 * 12
    keys, values = -(-tokens // 8), -(-tokens // 16)
    attention = 2 * tiles * (4 * 2 * d * d + 2 * (keys * head + 2 * head * values))
    dense = tiles * 2 * (2 * hidden * d)
    experts = 2 * tiles * (6 * d + 4 * 3)
    router, out = tiles * d, -(-(tokens - 1) // 4) * d
    assert found.by_engine["array"] == patches + attention + dense + experts + router + out


def test_windows_wait_for_their_operands() -> None:
    """With fewer output tiles than rows the loader, a word a cycle, is slower than the array."""
    shape = Sizes(image_height=64, image_width=80, dim=16, decoder_width=24, doublings=2)
    program = compile_network(random_network(0, shape), preset("default"))
    found, t = estimate(program, "task0", Memory()), program.config.array.tokens
    windows = [i for i in program.instructions("task0") if isinstance(i, Gemm) and i.line]
    least = array = 0
    for i in windows:
        tiles, rest = divmod(i.tokens, t)
        array += (tiles + (rest > 0)) * i.otiles * i.depth
        least += tiles * max(i.otiles, t) * i.depth + max(i.otiles, rest) * i.depth * (rest > 0)
    assert least > 1.2 * array
    assert found.by_engine["stall_operand"] >= least - array
    assert found.cycles > least


def test_bytes_are_those_that_the_device_reads(program) -> None:
    """Header, code, stream, tables and image: nothing is read twice."""
    header = program.header("task0")
    g = program.geometry
    tables = g.tokens * 32 * 2 + 5 * 32 * 8
    pixels = g.image_height * program.image.pitch
    stream = 16 * header.stream_beats * program.config.memory.ports
    read = 64 + code_bytes(header.code_count) + stream + tables + pixels
    assert estimate(program, "task0", Memory()).bytes_read == read


def test_lengths_of_another_network_are_refused(program) -> None:
    with pytest.raises(ValueError, match="2 lists of lengths for 1 MoE layers"):
        estimate(program, "task0", Memory(), lengths=[(1,), (1,)])


@pytest.mark.parametrize(
    ("usage", "lengths"),
    [
        ((3.0, 1.0), (3, 1)),
        ((2.5, 1.25, 0.25), (3, 1, 0)),
        ((0.4, 0.4, 0.2, 6.0), (1, 0, 0, 6)),
    ],
)
def test_lengths_from_calibration(usage: tuple[float, ...], lengths: tuple[int, ...]) -> None:
    schedule = ExpertSchedule(layer=0, streamed=(), on_demand=(), usage=usage)
    assert calibration_lengths(schedule, 6) == lengths


def test_rows_wait_for_releases() -> None:
    rows = Rows(8, Latencies.of(preset("micro")))
    assert rows.free(7) == 0
    assert rows.free(8) is None
    rows.release(4, 100.0, 104.0)
    delay = rows.latency
    assert [rows.free(n) for n in range(8, 13)] == [
        101 + delay,
        102 + delay,
        103 + delay,
        104 + delay,
        None,
    ]


def test_a_fetch_delays_only_what_has_not_arrived() -> None:
    config = preset("micro")
    stream = Stream(
        config, MemorySpeed.of(config, Memory()), Latencies.of(config), rows=64, params=64
    )
    stream.blocks.extend([BlockHeader(param_rows=1, weight_rows=4)] * 2)
    stream.advance(1 + 2 + 2 * 4)  # header, parameters, four rows of two beats
    stream.at += 1000
    early, late = stream.arrive(4), stream.arrive(4)
    assert early.max() < 100 < 1000 < late.min()


def test_packed_rows_arrive_in_half_the_time() -> None:
    config = preset("micro")
    ends = []
    for packed in (False, True):
        stream = Stream(
            config, MemorySpeed.of(config, Memory()), Latencies.of(config), rows=64, params=64
        )
        stream.blocks.append(BlockHeader(param_rows=1, weight_rows=32, packed=packed))
        times = stream.arrive(32)
        ends.append(times[-1] - times[0])
    assert ends == [31 * config.row_beats, 31 * config.row_beats / 2]


def test_pixel_rows_are_cut_as_the_unpacker_does() -> None:
    """Whole beats into whole words take one cycle each; odd offsets take more."""
    config = preset("default")
    assert pixel_cycles(config, 4, 16, 0) == 1 + 4
    assert pixel_cycles(config, 2, 24, 0) == 1 + 2 + 3
    assert pixel_cycles(config, 2, 24, 1) == 1 + 3 + 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_near_the_hardware(seed: int) -> None:
    """Within 5 % of the verilated accelerator, misses included, where the frame is long enough."""
    from moevit.sim.rtl import RtlDevice, board_memory

    config = preset("micro")
    shape = Sizes(image_height=32, image_width=40, dim=64, heads=4, moe=(0, 1))
    network = random_network(seed, replace(shape, expert_bits=8 - 4 * seed))
    image = random_images(seed, network.geometry)[0]
    timing = board_memory(config)
    with RtlDevice(config, timing=timing) as device:
        for threshold in (0.0, 5.0):
            program = compile_network(network, config, threshold=threshold)
            device.load(program)
            for task in network.tasks:
                routing = Golden(network).run(image, task).routing
                found = estimate(program, task, timing, lengths=[r.counts for r in routing])
                counters = device.run(image, task).counters
                assert counters is not None
                assert abs(found.cycles / counters.cycles - 1) < TOLERANCE
                assert found.bytes_read == counters.bytes_read
