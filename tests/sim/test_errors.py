"""Whatever goes wrong in a frame ends in its error code, an idle device, and a right frame next.

One accelerator is used for all, reset only before the first frame, so that whatever a failed frame
leaves behind meets the next one. Where the interpreter can fail, it fails with the same code.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.programs import rewritten
from support.rtl import SMALL, TIMINGS, Board, Frame, mismatch

from moevit.compiler import Program, compile_network
from moevit.hw.checks import instruction_offset
from moevit.hw.image import HEADER_BYTES, PROGRAM_VERSION, BlockHeader, ProgramHeader
from moevit.hw.isa import (
    INSTRUCTION_BYTES,
    OPCODES,
    WITH_LINES,
    Attention,
    Destination,
    Fetch,
    Gemm,
    Halt,
    Instruction,
    Load,
    LoadKind,
    Norm,
    Store,
    Sync,
)
from moevit.hw.registers import Control, Counter, Error, Register, Status
from moevit.quant.golden import Golden
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.sim.errors import DeviceError
from moevit.sim.interpreter import Interpreter
from moevit.sim.native import DECERR, SLVERR

pytestmark = pytest.mark.slow  # the first use of a configuration builds its simulator

TASK = "task0"
SIZES = Sizes(experts=5, top_k=2, moe=(1,), expert_hidden=40, hidden=50)
MEMORY = SMALL.memory
TOP = (1 << 20) - 1
TIMING = TIMINGS["stalls"].but(stall_probability=0.2)


class Bench:
    """The board, a program that uses every instruction, and ways to break it."""

    def __init__(self) -> None:
        network = random_network(3, SIZES)
        # Above so many tokens an expert is streamed: two experts are, the others are fetched.
        self.program: Program = compile_network(network, SMALL, threshold=3.0)
        self.image = random_images(3, network.geometry)[0]
        self.want = Golden(network).run(self.image, TASK).output
        self.board = Board(SMALL, TIMING)
        self.base = self.board.program_base
        self.header: ProgramHeader = self.program.header(TASK)
        self.code: list[Instruction] = self.program.instructions(TASK)
        self.good_frame()

    def find(self, instruction: type, /, **fields: int) -> int:
        """The first instruction of a kind with these fields."""
        return next(
            n
            for n, i in enumerate(self.code)
            if type(i) is instruction and all(getattr(i, k) == v for k, v in fields.items())
        )

    def at(self, n: int) -> int:
        """Address of an instruction, from the program's base."""
        return self.header.code_offset + instruction_offset(n)

    def put(self, offset: int, data: bytes) -> Callable[[], None]:
        """Other bytes in the program, when it is in place."""
        return lambda: self.board.sim.write(self.base + offset, data)

    def rewrite(self, n: int, word: bytes) -> Callable[[], None]:
        """Another instruction, and its check, when it is in place."""
        changes = rewritten(n, word)
        return lambda: [  # type: ignore[return-value]
            self.put(self.header.code_offset + at, data)() for at, data in changes.items()
        ]

    def patch(self, n: int, **fields: int) -> Callable[[], None]:
        """An instruction with other fields, when it is in place."""
        return self.rewrite(n, replace(self.code[n], **fields).encode())

    def flip(self, offset: int, bit: int) -> Callable[[], None]:
        """Bit ``bit`` from a byte of the program on is another."""
        at = offset + bit // 8
        return self.put(at, bytes([self.program.memory[at] ^ 1 << bit % 8]))

    def set_header(self, **fields: int) -> Callable[[], None]:
        """A header with other fields, when it is in place."""
        return self.put(0, replace(self.header, **fields).encode())

    def good_frame(self) -> Frame:
        """A frame that is right, to the bit."""
        frame = self.board.run(self.program, self.image, TASK)
        assert frame.error == Error.NONE
        assert not (wrong := mismatch(frame.output, self.want)), wrong
        return frame

    def fails(self, *changes: Callable[[], None], **bases: int) -> Error:
        """The error of a frame after these changes; the next frame must be right again."""
        self.board.place(self.program, self.image)
        for change in changes:
            change()
        self.board.start(self.base, **bases)
        frame = self.board.wait(30 * SMALL.watchdog_cycles)
        self.board.sim.clear_faults()
        self.good_frame()
        return frame.error

    def interpreted(self, *changes: Callable[[], None], **bases: int) -> Error:
        """The interpreter's error for the same memory."""
        board = self.board
        board.place(self.program, self.image)
        for change in changes:
            change()
        start, end = board.program_base, board.output_base + self.program.output_bytes
        memory = np.frombuffer(board.sim.read(start, end - start), np.uint8).copy()
        where = {"image": board.image_base, "output": board.output_base} | bases
        with pytest.raises(DeviceError) as caught:
            Interpreter(SMALL).run(
                memory,
                program_base=0,
                image_base=where["image"] - start,
                output_base=where["output"] - start,
            )
        return caught.value.code


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    with made.board:
        yield made


def both(bench: Bench, *changes: Callable[[], None], **bases: int) -> Error:
    """The error of a changed frame, the same from device and interpreter."""
    error = bench.fails(*changes, **bases)
    assert bench.interpreted(*changes, **bases) == error
    return error


def word(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


# The program as a whole --------------------------------------------------------------------------
def test_header(bench: Bench) -> None:
    assert both(bench, bench.set_header(magic=0)) == Error.HEADER
    assert both(bench, bench.set_header(version=PROGRAM_VERSION + 1)) == Error.HEADER
    for offset in range(0, HEADER_BYTES, 4):
        assert both(bench, bench.flip(offset, offset % 32)) == Error.HEADER
    for bit in (0, 31, 32, 63):
        other = bench.set_header(config_hash=bench.header.config_hash ^ 1 << bit)
        assert both(bench, other) == Error.HASH


@pytest.mark.parametrize("opcode", [n for n in range(16) if n not in OPCODES])
def test_illegal_opcode(bench: Bench, opcode: int) -> None:
    n = 5 + opcode  # anywhere
    assert both(bench, bench.rewrite(n, word(opcode, 32))) == Error.OPCODE


def test_halt_before_the_end(bench: Bench) -> None:
    for n in (0, 7, len(bench.code) - 2):
        assert both(bench, bench.rewrite(n, Halt().encode())) == Error.OPCODE


def test_truncated(bench: Bench) -> None:
    for count in (0, 1, len(bench.code) // 2, len(bench.code) - 1):
        assert both(bench, bench.set_header(code_count=count)) == Error.TRUNCATED


# Instructions ------------------------------------------------------------------------------------
ADDRESSES: list[tuple[type, dict[str, int], dict[str, int]]] = [
    (Load, {"kind": LoadKind.PIXELS}, {"target": MEMORY.activation_words - 1}),
    (Load, {"kind": LoadKind.PIXELS}, {"target": TOP}),
    (Load, {"kind": LoadKind.RESIDUAL}, {"target": MEMORY.residual_words - 1}),
    (Load, {"kind": LoadKind.NORM}, {"target": MEMORY.norm_rows - 1}),
    (Load, {"kind": LoadKind.NORM}, {"kind": LoadKind.ACTIVATION, "target": TOP}),
    (Norm, {}, {"source": MEMORY.residual_words - 1}),
    (Norm, {}, {"target": MEMORY.activation_words - 1}),
    (Norm, {}, {"params": MEMORY.norm_rows - 1}),
    (Norm, {}, {"stride": 4095}),
    (Attention, {}, {"source": MEMORY.activation_words - 1}),
    (Attention, {}, {"target": MEMORY.activation_words - 1}),
    (Attention, {}, {"k_base": MEMORY.kv_rows - 1}),
    (Attention, {}, {"v_base": MEMORY.kv_rows - 1}),
    (Attention, {}, {"k_pitch": 4095}),
    (Store, {}, {"source": MEMORY.activation_words - 1}),
    (Store, {}, {"source": MEMORY.residual_words - 1, "residual": 1}),
    (Store, {}, {"stride": 4095}),
    *[
        (Gemm, {"mode": mode}, {"target": last})
        for mode, last in {
            Destination.ACT8: MEMORY.activation_words - 1,
            Destination.GELU8: MEMORY.activation_words - 1,
            Destination.ACT16: MEMORY.activation_words - 1,
            Destination.RESIDUAL: MEMORY.residual_words - 1,
            Destination.EXPERT: MEMORY.residual_words - 1,
            Destination.KEY: MEMORY.kv_rows - 1,
            Destination.VALUE: MEMORY.kv_rows - 1,
        }.items()
    ],
    (Gemm, {"mode": Destination.ACT8}, {"source": MEMORY.activation_words - 1}),
    (Gemm, {"mode": Destination.EXPERT}, {"source": TOP}),
    (Gemm, {"mode": Destination.ACT8}, {"otile_base": 1023, "target_stride": 4095}),
    (Gemm, {"mode": Destination.ACT8}, {"line": 1, "source_line": 1023}),
    (Gemm, {"mode": Destination.GELU8}, {"line": 1, "target_line": 1023}),
    (Gemm, {"mode": Destination.ACT8}, {"span": 1, "source_line": 1023}),
]


@pytest.mark.parametrize(("kind", "which", "fields"), ADDRESSES)
def test_address(bench: Bench, kind: type, which: dict[str, int], fields: dict[str, int]) -> None:
    assert both(bench, bench.patch(bench.find(kind, **which), **fields)) == Error.ADDRESS


LIMITS = SMALL.limits
FIELDS: list[tuple[type, dict[str, int], dict[str, int]]] = [
    (Load, {"kind": LoadKind.PIXELS}, {"strips": 0}),
    (Load, {"kind": LoadKind.PIXELS}, {"patches": 0}),
    (Load, {"kind": LoadKind.PIXELS}, {"patch_rows": 0}),
    (Load, {"kind": LoadKind.PIXELS}, {"patch_bytes": 0}),
    (Load, {"kind": LoadKind.RESIDUAL}, {"beats": 0}),
    (Load, {"kind": LoadKind.NORM}, {"beats": 0}),
    (Norm, {}, {"tokens": 0}),
    (Norm, {}, {"dim": 0}),
    (Norm, {}, {"words": 0}),
    (Norm, {}, {"dim": 4095}),
    (Attention, {}, {"heads": 0}),
    (Attention, {}, {"chunks": 0}),
    (Attention, {}, {"chunks": 63}),
    (Attention, {}, {"v_otiles": 0}),
    (Attention, {}, {"v_tile_pitch": 0}),
    (Attention, {}, {"v_tile_pitch": 2}),
    (Attention, {}, {"keys": 0}),
    (Attention, {}, {"keys": LIMITS.tokens + 1}),
    (Attention, {}, {"queries": 0}),
    (Attention, {}, {"queries": LIMITS.tokens + 1}),
    (Store, {}, {"rows": 0}),
    (Store, {}, {"words": 0}),
    (Fetch, {}, {"queue": LIMITS.experts}),
    (Fetch, {}, {"weight_rows": MEMORY.demand_rows + 1}),
    (Fetch, {}, {"param_rows": MEMORY.demand_param_rows + 1}),
    (Gemm, {}, {"mode": max(Destination) + 1}),
    (Gemm, {}, {"otiles": 0}),
    (Gemm, {}, {"depth": 0}),
    (Gemm, {}, {"depth": LIMITS.depth // SMALL.array.inputs + 1}),
    (Gemm, {}, {"tokens": 0}),
    (Gemm, {}, {"tokens": LIMITS.tokens + 1}),
    (Gemm, {"use_queue": 1}, {"queue": LIMITS.experts}),
    (Gemm, {"mode": Destination.KEY}, {"head_otiles": 0}),
    (Gemm, {"mode": Destination.VALUE}, {"head_otiles": 0}),
    (Gemm, {"mode": Destination.GATE}, {"experts": 0}),
    (Gemm, {"mode": Destination.GATE}, {"experts": LIMITS.experts + 1}),
    (Gemm, {"mode": Destination.GATE}, {"shift": LIMITS.experts}),
    (Gemm, {"mode": Destination.GATE}, {"mult": 1 << 15}),
    (Gemm, {"mode": Destination.GATE}, {"target": 1 << 16}),
    (Gemm, {"mode": Destination.GATE}, {"top_k": 0}),
    (Gemm, {"mode": Destination.GATE}, {"top_k": LIMITS.top_k + 1}),
    (Gemm, {"mode": Destination.GATE}, {"experts": 1, "otiles": 1}),  # fewer than top_k
    (Gemm, {"mode": Destination.GATE}, {"otiles": 1}),
    (Gemm, {"mode": Destination.GATE}, {"otiles": 3}),
    *[
        (Gemm, which, {name: 1})
        for which in ({"mode": m} for m in Destination if m not in WITH_LINES)
        for name in ("line", "source_line", "target_line", "span")
    ],
    (Gemm, {"use_queue": 1, "mode": Destination.GELU8}, {"line": 5}),
]


@pytest.mark.parametrize(("kind", "which", "fields"), FIELDS)
def test_field(bench: Bench, kind: type, which: dict[str, int], fields: dict[str, int]) -> None:
    assert both(bench, bench.patch(bench.find(kind, **which), **fields)) == Error.FIELD


def test_alignment(bench: Bench) -> None:
    """What the bus cannot address."""
    for kind, fields in (
        (Load, {"address": 8}),
        (Store, {"address": 8}),
        (Store, {"pitch": 24}),
        (Fetch, {"address": 8}),
    ):
        assert both(bench, bench.patch(bench.find(kind), **fields)) == Error.FIELD
    for bases in ({"image": bench.board.image_base + 4}, {"output": bench.board.output_base + 8}):
        assert bench.fails(**bases) == Error.FIELD
    bench.board.place(bench.program, bench.image)
    bench.board.start(bench.base + 32)
    assert bench.board.wait().error == Error.FIELD
    bench.good_frame()


# The weight stream -------------------------------------------------------------------------------
def blocks(bench: Bench) -> list[int]:
    """Beat of each block's header in a port's stream."""
    header, starts, at = bench.header, [], 0
    while at < header.stream_beats:
        starts.append(at)
        beat = bench.program.memory[header.stream_offset + 16 * at :][:16].tobytes()
        at += 1 + BlockHeader.decode(beat).beats(SMALL)
    return starts


def test_stream(bench: Bench) -> None:
    starts = blocks(bench)
    for port in range(MEMORY.ports):
        share = bench.header.stream_offset + 16 * port * bench.header.stream_beats
        for start in (starts[0], starts[2], starts[-1]):
            assert both(bench, bench.put(share + 16 * start, bytes(16))) == Error.STREAM
        assert both(bench, bench.flip(share + 16 * starts[1] + 12, 1)) == Error.STREAM
        too_long = bench.put(share + 16 * starts[1] + 8, word(0x7F_FFFF))
        assert both(bench, too_long) == Error.STREAM
    last = bench.header.stream_offset + 16 * starts[-1]
    size = bench.header.stream_beats
    header = BlockHeader.decode(bench.program.memory[last : last + 16].tobytes())
    longer = replace(header, weight_rows=header.weight_rows + 1).encode()
    assert both(bench, *(bench.put(last + 16 * p * size, longer) for p in range(MEMORY.ports))) == (
        Error.STREAM
    )


def test_stream_too_short(bench: Bench) -> None:
    """Whole blocks, but not all that the program needs: the array waits for ever."""
    offset, beats = bench.header.stream_offset, bench.header.stream_beats
    for end in (blocks(bench)[3], blocks(bench)[-1]):
        share = bench.program.memory[offset + 16 * beats :][: 16 * end].tobytes()
        move = bench.put(offset + 16 * end, share)  # port 1 follows port 0
        assert both(bench, bench.set_header(stream_beats=end), move) == Error.HANG
    assert both(bench, bench.set_header(stream_beats=0)) == Error.HANG


# The bus -----------------------------------------------------------------------------------------
def regions(bench: Bench) -> dict[str, int]:
    """Offsets into what each master reads."""
    header = bench.header
    share = 16 * header.stream_beats
    loads = {k: bench.code[bench.find(Load, kind=k)] for k in LoadKind if k != LoadKind.ACTIVATION}
    return {
        "header": 0,
        "first instruction": header.code_offset,
        "last instruction": bench.at(len(bench.code) - 1) + 16,
        "first weights of port 0": header.stream_offset,
        "weights of port 0": header.stream_offset + share // 2 // 16 * 16,
        "last weights of port 1": header.stream_offset + 2 * share - 16,
        "an expert on demand": bench.code[bench.find(Fetch)].address,
        "embedding": loads[LoadKind.RESIDUAL].address + 64,
        "norm parameters": loads[LoadKind.NORM].address,
        "pixels": bench.board.image_base - bench.base + bench.program.image.size // 2 // 16 * 16,
    }


@pytest.mark.parametrize("response", [SLVERR, DECERR])
def test_read_errors(bench: Bench, response: int) -> None:
    for name, offset in regions(bench).items():
        address = bench.base + offset
        error = bench.fails(lambda a=address: bench.board.sim.inject(a, 1, response))
        assert error == Error.READ, name


@pytest.mark.parametrize("response", [SLVERR, DECERR])
def test_write_errors(bench: Bench, response: int) -> None:
    output = bench.program.task(TASK).output
    for offset in (0, output.size // 2, output.size - 1):
        address = bench.board.output_base + offset
        error = bench.fails(lambda a=address: bench.board.sim.inject(a, 1, response))
        assert error == Error.WRITE


def test_no_memory_there(bench: Bench) -> None:
    assert both(bench, image=0x2000_0000) == Error.READ
    assert both(bench, output=0x2000_0000) == Error.WRITE
    assert both(bench, bench.set_header(code_offset=0x2000_0000)) == Error.READ
    assert both(bench, bench.set_header(stream_offset=0x2000_0000)) == Error.READ
    bench.board.start(0x2000_0000)
    assert bench.board.wait().error == Error.READ
    bench.good_frame()


def test_a_bus_that_does_not_answer(bench: Bench) -> None:
    """The watchdog ends the frame; such a bus needs a reset, and nothing else."""
    sim = bench.board.sim
    bench.board.place(bench.program, bench.image)
    sim.configure(TIMING.but(read_latency=1 << 30))
    bench.board.start(bench.base)
    assert bench.board.wait(10 * SMALL.watchdog_cycles).error == Error.HANG
    sim.configure(TIMING)
    sim.reset()
    sim.reg_write(Register.IRQ_ENABLE, 1)
    bench.good_frame()


# Waiting for ever, and giving up -----------------------------------------------------------------
def test_credits_that_never_come(bench: Bench) -> None:
    for kind, which in (
        (Load, {"kind": LoadKind.NORM}),
        (Norm, {}),
        (Attention, {}),
        (Gemm, {"mode": Destination.ACT8}),
        (Gemm, {"mode": Destination.GELU8}),
        (Gemm, {"mode": Destination.GATE}),
    ):
        n = bench.find(kind, **which)
        assert bench.code[n].signal, kind
        assert both(bench, bench.patch(n, signal=0)) == Error.HANG
    for kind in (Load, Norm, Gemm, Attention, Store, Fetch, Sync):
        n = bench.find(kind)
        assert both(bench, bench.patch(n, wait=15, wait_count=1)) == Error.HANG, kind


def test_what_a_program_leaves_behind(bench: Bench) -> None:
    """Credits that nobody took and weights that nobody used do not reach the next frame."""
    unsignalled = bench.find(Gemm, signal=0, mode=Destination.RESIDUAL)
    streamed = [n for n, i in enumerate(bench.code) if isinstance(i, Gemm) and not i.demand]
    for n, fields in ((unsignalled, {"signal": 15}), (streamed[-1], {"keep": 1})):
        assert bench.fails(bench.patch(n, **fields)) == Error.NONE
    bench.board.place(bench.program, bench.image)
    bench.patch(unsignalled, signal=15)()
    bench.board.start(bench.base)
    assert bench.board.wait().error == Error.NONE
    assert bench.fails(bench.patch(bench.find(Norm), wait=15, wait_count=1)) == Error.HANG


@pytest.mark.parametrize("latency", [5, 300])
def test_abort(bench: Bench, latency: int) -> None:
    """In every phase of a frame; a memory that is far away has much left to answer then."""
    sim, rng = bench.board.sim, np.random.default_rng(latency)
    sim.configure(TIMING.but(read_latency=latency, write_latency=latency))
    cycles = bench.good_frame().cycles
    moments = [0, 1, 2, 5, 20, 60, 150, *rng.integers(100, cycles - 100, 30).tolist()]
    for moment in moments:
        bench.board.place(bench.program, bench.image)
        bench.board.start(bench.base)
        assert not sim.run(moment).interrupt
        sim.reg_write(Register.CONTROL, 1 << Control.ABORT)
        frame = bench.board.wait(SMALL.watchdog_cycles)
        assert frame.error == Error.ABORTED, f"after {moment} cycles"
        bench.good_frame()
    sim.configure(TIMING)


def test_an_idle_device_ignores_an_abort(bench: Bench) -> None:
    sim = bench.board.sim
    sim.reg_write(Register.CONTROL, 1 << Control.ABORT)
    assert not sim.run(200).interrupt
    assert sim.reg_read(Register.STATUS) == 0
    bench.good_frame()


def test_registers_of_a_busy_device(bench: Bench) -> None:
    """Bases that are written are those of the next START, and the frame is not disturbed."""
    sim, board = bench.board.sim, bench.board
    board.place(bench.program, bench.image)
    board.start(bench.base)
    for register in (Register.PROGRAM_BASE, Register.IMAGE_BASE, Register.OUTPUT_BASE):
        sim.reg_write(register, 0)
        assert sim.reg_read(register) == 0
    assert sim.reg_read(Register.STATUS) == 1 << Status.BUSY
    frame = board.wait()
    assert frame.error == Error.NONE
    assert frame.counters[Counter.CYCLES] > 0
    where = bench.program.task(TASK).output
    output = where.unpack(sim.read(board.output_base + where.address, where.size))
    assert not mismatch(output, bench.want)


def test_a_start_without_room_is_ignored(bench: Bench) -> None:
    """As many frames end as were started while STATUS had room for them."""
    sim, board = bench.board.sim, bench.board
    board.place(bench.program, bench.image)
    before, started = sim.reg_read(Register.FRAMES), 0
    for _ in range(2):  # the first one leaves its place for the next
        while not sim.reg_read(Register.STATUS) >> Status.FULL & 1:
            board.start(bench.base)
            started += 1
        sim.run(200)
    assert started > 1
    board.start(bench.base)
    while sim.reg_read(Register.STATUS) >> Status.BUSY & 1:
        sim.reg_write(Register.CONTROL, 1 << Control.CLEAR_IRQ)
        sim.run(1000)
    sim.reg_write(Register.CONTROL, 1 << Control.CLEAR_IRQ)
    assert sim.reg_read(Register.FRAMES) - before == started
    bench.good_frame()


def test_errors_leave_no_trace(bench: Bench) -> None:
    """Random bits of random instructions: any ending is fine, but each frame has one."""
    rng: Any = np.random.default_rng(5)
    seen = set()
    for _ in range(60):
        n = int(rng.integers(len(bench.code)))
        data = bytearray(bench.code[n].encode())
        for bit in rng.integers(0, 8 * INSTRUCTION_BYTES - 3, 3).tolist():
            data[bit // 8] ^= 1 << bit % 8
        bench.board.place(bench.program, bench.image)
        bench.rewrite(n, bytes(data))()
        bench.board.start(bench.base)
        seen.add(bench.board.wait(30 * SMALL.watchdog_cycles).error)
        bench.good_frame()
    assert len(seen) > 3, seen
