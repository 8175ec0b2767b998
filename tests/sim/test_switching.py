"""Frames of several tasks on the RTL: what switching costs, and all tasks in one frame."""

import numpy as np
import pytest
from support.rtl import CONFIGS

from moevit.compiler import compile_network
from moevit.compiler.cost.estimate import estimate
from moevit.compiler.program import ALL
from moevit.hw.registers import Control, Counter, Error, Register, Status
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.golden import Golden
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.sim.rtl import RtlDevice, board_memory

pytestmark = pytest.mark.slow  # the first use of the configuration builds its simulator

CONFIG = CONFIGS["micro"]
SIZES = Sizes(tasks=3, head_channels=(3, 1, 2), depth=4, moe=(1, 3), image_width=64)


@pytest.fixture(scope="module")
def network():
    return random_network(11, SIZES)


@pytest.fixture(scope="module")
def device(network):
    with RtlDevice(CONFIG) as device:
        device.load(compile_network(network, CONFIG, all_tasks=True))
        yield device


def counters(device, image, task):
    device.align()
    return device.run(image, task).counters


@pytest.mark.parametrize("threshold", [0.02, float("inf")], ids=["streamed", "on demand"])
def test_switching_tasks_costs_nothing(network, threshold) -> None:
    """Every counter of a frame is the same behind another task as behind its own."""
    image = random_images(2, network.geometry)[0]
    with RtlDevice(CONFIG) as device:
        device.load(compile_network(network, CONFIG, threshold=threshold))
        alone = {}
        for task in network.tasks:
            counters(device, image, task)
            alone[task] = counters(device, image, task)
        assert len({c.cycles for c in alone.values()}) > 1
        for task in (*network.tasks, *network.tasks[::-1], *network.tasks):
            found = counters(device, image, task)
            assert found.values == alone[task].values, task
            assert found.expert_tokens == alone[task].expert_tokens


@pytest.mark.parametrize("threshold", [0.02, float("inf")], ids=["streamed", "on demand"])
def test_frames_back_to_back(network, threshold) -> None:
    """Pictures and tasks change from frame to frame; all bits and counts are a single frame's."""
    images = random_images(2, network.geometry, count=8)
    tasks = [network.tasks[n % 3] for n in (0, 1, 1, 2, 0, 2, 1, 0)]
    work = (
        Counter.ARRAY_BUSY, Counter.NORM_BUSY, Counter.DATA_WRITE_BEATS, Counter.MISSES,
        Counter.DEMAND_BEATS, Counter.EMPTY_QUEUES,
    )  # fmt: skip
    golden = Golden(network)
    with RtlDevice(CONFIG) as device:
        device.load(compile_network(network, CONFIG, threshold=threshold))
        alone = [device.run(image, task) for image, task in zip(images, tasks, strict=True)]
        found = list(device.run_stream(zip(images, tasks, strict=True)))
        assert [result.task for result in found] == tasks
        for one, result, image in zip(alone, found, images, strict=True):
            want = golden.run(image, result.task).output
            np.testing.assert_array_equal(result.output, want)
            for counter in work:
                assert result.counters.values[counter] == one.counters.values[counter], counter
            assert result.counters.expert_tokens == one.counters.expert_tokens
        # Behind another frame the weights are there before the pixels.
        assert all(
            result.counters.cycles < one.counters.cycles - 100
            for one, result in zip(alone[1:], found[1:], strict=True)
        )
        # What is read ahead counts in the frame in which it comes.
        for counter in (Counter.WEIGHT_BEATS, Counter.DATA_READ_BEATS):
            read = [sum(r.counters.values[counter] for r in s) for s in (alone, found)]
            assert read[0] == read[1]


def test_each_frame_keeps_the_dial_that_it_was_started_with(network, device) -> None:
    """One program at several speeds; frames wait, so that registers change before they begin."""
    image = random_images(2, network.geometry)[0]
    task = network.tasks[0]
    dials = [
        Dial(top_k=1),
        AS_COMPILED,
        Dial(enough=12000),
        Dial(least=20000, top_k=1),
        AS_COMPILED,
    ]
    found = list(device.run_stream((image, task, dial) for dial in dials))
    experts = []
    for dial, result in zip(dials, found, strict=True):
        want = Golden(network.dialled(dial)).run(image, task)
        np.testing.assert_array_equal(result.output, want.output, err_msg=str(dial))
        experts.append(sum(result.counters.expert_tokens))
        assert experts[-1] == sum(sum(r.counts) for r in want.routing)
        # The schedule's stream is the same whatever the dial.
        alone = device.run(image, task, dial=dial)
        np.testing.assert_array_equal(alone.output, want.output)
        beats = alone.counters.values[Counter.WEIGHT_BEATS]
        demand = alone.counters.values[Counter.DEMAND_BEATS]
        assert beats - demand == device._program.header(task).stream_beats * CONFIG.memory.ports
    assert experts[1] == experts[4] > experts[2] > experts[3]
    assert found[3].counters.cycles < found[4].counters.cycles
    want = {t: Golden(network.dialled(dials[0])).run(image, t).output for t in network.tasks}
    for t, result in device.run_all(image, dial=dials[0]).items():
        np.testing.assert_array_equal(result.output, want[t])
    with pytest.raises(ValueError, match="more than the program was compiled for: top_k 3, expect"):
        device.run(image, task, dial=Dial(top_k=3))


def test_a_bad_program_behind_a_good_one(network, device) -> None:
    """The frame before it ends well; it fails, with those behind it, and the device goes on."""
    image = random_images(2, network.geometry)[0]
    program = device._program
    task = network.tasks[0]
    want = device.run(image, task).output
    sim, base = device.simulator, program.task(task).base
    frames = sim.reg_read(Register.FRAMES)
    for n, place in enumerate(device._places):
        device._start(place, image, task, base + (0x40 if n == 1 else 0), 64)
    for _ in range(2):
        sim.run(1_000_000)
        if not sim.reg_read(Register.STATUS) >> Status.FAILED & 1:
            sim.reg_write(Register.CONTROL, 1 << Control.CLEAR_IRQ)
    assert sim.reg_read(Register.ERROR) == Error.HEADER
    assert sim.reg_read(Register.STATUS) == 1 << Status.FAILED
    assert sim.reg_read(Register.FRAMES) == frames + 2
    sim.reg_write(Register.CONTROL, 1 << Control.CLEAR_IRQ)
    np.testing.assert_array_equal(device.run(image, task).output, want)


def test_without_alignment_only_refresh_differs(network, device) -> None:
    """What :meth:`RtlDevice.align` takes out: a frame's work does not depend on its start."""
    image = random_images(2, network.geometry)[0]
    task, period = network.tasks[0], board_memory(CONFIG).refresh_period
    device.align()
    assert device.simulator.cycle % period == 0
    frames = [device.run(image, task).counters for _ in range(3)]
    for counter in (Counter.ARRAY_BUSY, Counter.WEIGHT_BEATS, Counter.DATA_READ_BEATS):
        assert len({frame.values[counter] for frame in frames}) == 1


def test_all_tasks_in_one_frame(network, device) -> None:
    timing = board_memory(CONFIG)
    program = compile_network(network, CONFIG, all_tasks=True)
    for seed in range(3):
        image = random_images(seed, network.geometry)[0]
        want = {task: Golden(network).run(image, task) for task in network.tasks}
        singles = [counters(device, image, task).cycles for task in network.tasks]
        device.align()
        found = device.run_all(image)
        assert list(found) == list(network.tasks)
        for task, result in found.items():
            np.testing.assert_array_equal(result.output, want[task].output, err_msg=task)
        cycles = device.counters.cycles
        assert cycles < 0.9 * sum(singles)
        lengths = [r.counts for task in network.tasks for r in want[task].routing]
        predicted = estimate(program, ALL, timing, lengths=lengths).cycles
        assert abs(predicted / cycles - 1) < 0.05, (predicted, cycles)


def test_a_program_without_it_is_refused(network) -> None:
    with RtlDevice(CONFIG) as device:
        device.load(compile_network(network, CONFIG))
        with pytest.raises(ValueError, match="all_tasks=True"):
            device.run_all(random_images(0, network.geometry)[0])
