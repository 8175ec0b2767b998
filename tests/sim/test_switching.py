"""Frames of several tasks on the RTL: what switching costs, and all tasks in one frame."""

import numpy as np
import pytest
from support.rtl import CONFIGS

from moevit.compiler import compile_network
from moevit.compiler.cost.estimate import estimate
from moevit.compiler.program import ALL
from moevit.hw.registers import Counter
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
