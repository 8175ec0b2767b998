"""The device protocol: software backends on a random network, the RTL's driver on a fake."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moevit.compiler import Program, compile_network
from moevit.hw.checks import instruction_offset
from moevit.hw.config import ISA_VERSION, preset
from moevit.hw.registers import (
    COUNTER_BASE,
    DEVICE_ID,
    EXPERT_BASE,
    Control,
    Counter,
    Error,
    Register,
    Status,
)
from moevit.quant.dial import Dial
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.random_network import random_images, random_network
from moevit.sim.backends import BACKENDS, open_device
from moevit.sim.counters import Counters, performance
from moevit.sim.device import DeviceError, failure
from moevit.sim.memory_timing import MemoryTiming
from moevit.sim.pool import DevicePool, StoppedError
from moevit.sim.rtl import RtlDevice, board_memory
from moevit.sim.stats import RunResult, Stats

CONFIG = preset("micro")


class Sources:
    """Of a random network, and of a float model that returns what its image begins with."""

    config = CONFIG

    def __init__(self, network: Network) -> None:
        self.network = network

    @staticmethod
    def forward(images: Any, task: str) -> Any:
        return images[:, None, :2, :2, 0].astype(np.float32)

    def dialled(self, dial: Dial) -> Any:
        return lambda images, task: self.forward(images, task) + dial.top_k


@pytest.fixture(scope="module")
def network() -> Network:
    return random_network(5)


@pytest.fixture(scope="module")
def program(network: Network) -> Program:
    return compile_network(network, CONFIG)


@pytest.fixture(scope="module")
def image(network: Network) -> Any:
    return random_images(6, network.geometry)[0]


# Software --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["golden", "interpreter"])
def test_integers_and_planes(name: str, network: Network, program: Program, image: Any) -> None:
    golden = Golden(network)
    with open_device(name, Sources(network)) as device:
        assert device.name == name
        device.load(program)
        for task in network.tasks:
            result = device.run(image, task)
            expected = golden.run(image, task).output
            assert result.output is not None and result.planes is not None
            np.testing.assert_array_equal(result.output, expected)
            np.testing.assert_array_equal(result.planes, golden.dequantise(expected, task))
            assert result.counters is None and device.counters is None


def test_interpreter_keeps_nothing_of_the_frame_before(network: Network, program: Program) -> None:
    first, second = random_images(7, network.geometry, 2)
    with open_device("interpreter", Sources(network)) as device:
        device.load(program)
        before = device.run(second, "task0").output
        device.run(first, "task1")
        after = device.run(second, "task0").output
    np.testing.assert_array_equal(before, after)


def test_torch_gives_floats(network: Network, program: Program, image: Any) -> None:
    with open_device("torch", Sources(network)) as device:
        device.load(program)
        result = device.run(image, "task0")
    assert result.output is None and result.planes is not None
    np.testing.assert_array_equal(result.planes, image[None, :2, :2, 0])


@pytest.mark.parametrize("name", ["torch", "golden", "interpreter"])
def test_bad_requests(name: str, network: Network, program: Program, image: Any) -> None:
    with open_device(name, Sources(network)) as device:
        with pytest.raises(ValueError, match="no program; load one"):
            device.run(image, "task0")
        device.load(program)
        with pytest.raises(ValueError, match="Unknown task 'nope'; expected"):
            device.run(image, "nope")
        with pytest.raises(ValueError, match=r"Image must be .* uint8"):
            device.run(image[1:], "task0")


def test_unknown_backend(network: Network) -> None:
    with pytest.raises(ValueError, match=f"'fpga'; expected one of {', '.join(BACKENDS)}"):
        open_device("fpga", Sources(network))


def test_golden_refuses_another_network(network: Network) -> None:
    from moevit.quant.random_network import Sizes

    other = compile_network(random_network(1, Sizes(image_width=16)), CONFIG)
    with open_device("golden", Sources(network)) as device:
        with pytest.raises(ValueError, match="The program is of a network with"):
            device.load(other)


# The driver of the RTL, on a fake ---------------------------------------------------------------
class Fake:
    """Registers and memory as the accelerator has them; ``frames`` says what each START does."""

    def __init__(self, base: int, size: int, frames: list[Callable[[Fake], None]]) -> None:
        self.base, self.memory = base, bytearray(size)
        self.frames = frames
        self.registers: dict[int, int] = {
            Register.ID: DEVICE_ID,
            Register.VERSION: ISA_VERSION,
            Register.HASH_LOW: CONFIG.hash & 0xFFFF_FFFF,
            Register.HASH_HIGH: CONFIG.hash >> 32,
            **{COUNTER_BASE + 4 * c: 100 + c for c in Counter},
            **{EXPERT_BASE + 4 * e: e for e in range(CONFIG.limits.experts)},
        }
        self.interrupt = self.busy = self.closed = False
        self.log: list[str] = []

    def write(self, address: int, data: bytes) -> None:
        start = address - self.base
        assert 0 <= start and start + len(data) <= len(self.memory)
        self.memory[start : start + len(data)] = data

    def read(self, address: int, count: int) -> bytes:
        start = address - self.base
        return bytes(self.memory[start : start + count])

    def reset(self, cycles: int = 8) -> None:
        self.log.append("reset")
        self.busy = self.interrupt = False
        for register in (Register.IMAGE_BASE, Register.OUTPUT_BASE, Register.IRQ_ENABLE):
            self.registers[register] = 0

    def reg_write(self, address: int, value: int) -> None:
        if address != Register.CONTROL:
            self.registers[address] = value
        elif value >> Control.START & 1:
            self.busy, self.interrupt = True, False
            self.frames.pop(0)(self)
        elif value >> Control.ABORT & 1:
            self.log.append("abort")
            if self.busy:
                self.fail(Error.ABORTED)
        elif value >> Control.CLEAR_IRQ & 1:
            self.interrupt = False

    def reg_read(self, address: int) -> int:
        return self.registers.get(address, 0)

    def run(self, max_cycles: int, progress: Callable[[int], None] | None = None) -> RunResult:
        if progress is not None:
            progress(10)
        return RunResult(self.interrupt, 10 if self.interrupt else max_cycles)

    def clear_stats(self) -> None:
        self.log.append("clear")

    def close(self) -> None:
        self.closed = True

    @property
    def stats(self) -> Stats:
        return Stats(cycles=10, seconds=0.5, ports={})

    # What a frame may do
    def fail(self, code: int) -> None:
        self.registers[Register.STATUS] = 1 << Status.FAILED
        self.registers[Register.ERROR] = code
        self.busy, self.interrupt = False, True

    def succeed(self) -> None:
        """As the accelerator would: read the image, write the bytes 0, 1, 2, ... as the result."""
        self.registers[Register.STATUS] = 1 << Status.DONE
        self.registers[Register.ERROR] = 0
        self.busy, self.interrupt = False, True
        count = self.base + len(self.memory) - self.registers[Register.OUTPUT_BASE]
        self.write(self.registers[Register.OUTPUT_BASE], bytes(n % 251 for n in range(count)))

    def hang(self) -> None:
        pass


def fake_device(*frames: Callable[[Fake], None], **options: Any) -> tuple[RtlDevice, list[Fake]]:
    made: list[Fake] = []

    def connect(base: int, size: int, timing: MemoryTiming) -> Fake:
        made.append(Fake(base, size, list(frames)))
        return made[-1]

    return RtlDevice(CONFIG, connect=connect, **options), made


def test_driver_places_program_image_and_output(program: Program, image: Any) -> None:
    device, made = fake_device(Fake.succeed)
    seen: list[int] = []
    with device:
        device.load(program)
        result = device.run(image, "task1", progress=seen.append)
        fake = made[0]
        registers = fake.registers
        assert registers[Register.PROGRAM_BASE] == fake.base + program.task("task1").base
        assert registers[Register.PROGRAM_BASE] % 64 == 0
        assert fake.read(fake.base, len(program.memory)) == program.memory.tobytes()
        packed = program.image.pack(image).tobytes()
        assert fake.read(registers[Register.IMAGE_BASE], len(packed)) == packed
        assert registers[Register.IRQ_ENABLE] == 1
        about = program.task("task1").output
        raw = bytes((about.address + n) % 251 for n in range(about.size))
        np.testing.assert_array_equal(result.output, about.unpack(raw))
        assert seen == [10]
        counters = result.counters
        assert counters is not None and counters is device.counters
        assert counters.cycles == 100 and counters.values[Counter.MISSES] == 100 + Counter.MISSES
        assert counters.expert_tokens == tuple(range(CONFIG.limits.experts))
        assert counters.seconds == 0.5
    assert fake.closed


@pytest.mark.parametrize("code", [error for error in Error if error != Error.NONE])
def test_every_error_is_raised_and_the_next_frame_runs(
    code: Error, program: Program, image: Any
) -> None:
    device, _ = fake_device(lambda fake: fake.fail(code), Fake.succeed)
    with device:
        device.load(program)
        with pytest.raises(
            DeviceError, match=f"{code.name}: .*task task0, after 10 cycles"
        ) as info:
            device.run(image, "task0")
        assert info.value.code == code
        assert device.counters is None
        assert device.run(image, "task0").counters is not None


def test_cycle_limit_aborts(program: Program, image: Any) -> None:
    device, made = fake_device(Fake.hang, Fake.succeed, max_cycles=1000)
    with device:
        device.load(program)
        with pytest.raises(DeviceError, match="did not end within 1,000 cycles") as info:
            device.run(image, "task0")
        assert info.value.code == Error.ABORTED
        assert "abort" in made[0].log and made[0].log.count("reset") == 1
        device.run(image, "task0")


def test_a_device_that_ignores_abort_is_reset(program: Program, image: Any) -> None:
    def dead(fake: Fake) -> None:
        fake.busy = False

    device, made = fake_device(dead, Fake.succeed)
    with device:
        device.load(program)
        with pytest.raises(DeviceError, match="ABORTED"):
            device.run(image, "task0")
        assert made[0].log.count("reset") == 2
        device.run(image, "task0")  # the bases are set again
        assert made[0].registers[Register.IRQ_ENABLE] == 1


def test_interrupted_frame_is_aborted(program: Program, image: Any) -> None:
    device, made = fake_device(Fake.hang, Fake.succeed)

    def stop(_cycles: int) -> None:
        raise KeyboardInterrupt

    with device:
        device.load(program)
        with pytest.raises(KeyboardInterrupt):
            device.run(image, "task0", progress=stop)
        assert "abort" in made[0].log
        device.run(image, "task0")


def test_program_for_another_configuration(network: Network) -> None:
    other = compile_network(network, CONFIG.but(memory__ring_rows=1024))
    device, made = fake_device()
    with pytest.raises(DeviceError, match=f"HASH: .*{CONFIG.hash:016x}"):
        device.load(other)
    assert not made


def test_another_device_answers(program: Program) -> None:
    made: list[Fake] = []

    def connect(base: int, size: int, timing: MemoryTiming) -> Fake:
        made.append(Fake(base, size, []))
        made[-1].registers[Register.ID] = 0x12345678
        return made[-1]

    device = RtlDevice(CONFIG, connect=connect)
    with pytest.raises(DeviceError, match="register ID reads 0x12345678, expected"):
        device.load(program)
    assert made[0].closed


def test_no_program(image: Any) -> None:
    device, _ = fake_device()
    with pytest.raises(ValueError, match="no program; load one"):
        device.run(image, "task0")
    with pytest.raises(ValueError, match="max_cycles must be positive, not 0"):
        fake_device(max_cycles=0)


def test_unknown_error_code() -> None:
    assert "unknown error code 77" in str(failure(77, "task x"))


def test_board_memory_is_the_boards() -> None:
    timing = board_memory(preset("zcu104"))
    assert timing.bytes_per_cycle == pytest.approx(51.2)
    assert timing.read_latency == 60
    assert timing.refresh_period == 2340 and timing.refresh_cycles == 105
    assert board_memory(preset("default")).bytes_per_cycle == 32.0  # two ports of 16


# Counters and pools ----------------------------------------------------------------------------
def test_performance() -> None:
    values = dict.fromkeys(Counter, 0) | {
        Counter.CYCLES: 2000,
        Counter.DATA_READ_BEATS: 10,
        Counter.WEIGHT_BEATS: 30,
        Counter.DATA_WRITE_BEATS: 2,
    }
    counters = Counters(values=values, expert_tokens=(1, 2), seconds=0.25)
    figures = performance(counters, CONFIG, 64_000)
    assert CONFIG.array.macs == 64 and CONFIG.clock_mhz == 100
    assert figures.mac_utilisation == 0.5
    assert figures.ms == pytest.approx(0.02) and figures.fps == pytest.approx(50_000)
    assert figures.bytes_read == 640 and counters.bytes_written == 32
    assert figures.simulated_cycles_per_s == 8000
    assert counters.to_dict()["expert_tokens"] == [1, 2]
    assert counters.to_dict()["weight_beats"] == 30


def test_pool_keeps_order_and_shares_work(network: Network, program: Program) -> None:
    images = random_images(8, network.geometry, 6)
    golden = Golden(network)
    made: list[Any] = []

    def make() -> Any:
        made.append(open_device("interpreter", Sources(network)))
        return made[-1]

    with DevicePool(make, program, 3) as pool:
        items = [(image, task) for image in images for task in network.tasks]
        results = list(pool.map(items))
    assert 1 <= len(made) <= 3
    for (image, task), result in zip(items, results, strict=True):
        assert result.task == task
        np.testing.assert_array_equal(result.output, golden.run(image, task).output)


def test_pool_passes_errors_on_and_goes_on(program: Program, image: Any) -> None:
    cycles: list[int] = []
    device, _ = fake_device(lambda fake: fake.fail(Error.READ), Fake.succeed)
    with DevicePool(lambda: device, program, 1, on_cycles=cycles.append) as pool:
        bad, good = pool.submit(image, "task0"), pool.submit(image, "task0")
        with pytest.raises(DeviceError, match="READ"):
            bad.result()
        assert good.result().counters is not None
    assert cycles == [10, 20]
    with pytest.raises(ValueError, match="at least one device, not 0"):
        DevicePool(lambda: device, program, 0)


def test_closing_a_pool_stops_frames(program: Program, image: Any) -> None:
    started = threading.Event()

    class Slow(Fake):
        def run(self, max_cycles: int, progress: Callable[[int], None] | None = None) -> RunResult:
            while progress is not None:  # until told to stop
                started.set()
                progress(1)
            return RunResult(True, 1)

    device = RtlDevice(CONFIG, connect=lambda base, size, _: Slow(base, size, [Fake.hang]))
    pool = DevicePool(lambda: device, program, 1)
    running, waiting = pool.submit(image, "task0"), pool.submit(image, "task0")
    assert started.wait(30)
    pool.close()
    assert waiting.cancelled()
    assert isinstance(running.exception(timeout=0), StoppedError)


def test_damaged_programs_fail_in_the_interpreter(
    network: Network, program: Program, image: Any
) -> None:
    """The device says what the accelerator would, and goes on with a sound program."""
    about, header = program.task("task0"), program.header("task0")
    damaged = program.memory.copy()
    at = about.base + header.code_offset
    damaged[at + instruction_offset(0)] ^= 0x40
    broken = Program(
        config=program.config,
        geometry=program.geometry,
        image=program.image,
        memory=damaged,
        tasks=program.tasks,
        regions=program.regions,
    )
    with open_device("interpreter", Sources(network)) as device:
        device.load(broken)
        with pytest.raises(DeviceError) as info:
            device.run(image, "task0")
        assert info.value.code == Error.CODE
        device.load(program)
        result = device.run(image, "task0")
    np.testing.assert_array_equal(result.output, Golden(network).run(image, "task0").output)
