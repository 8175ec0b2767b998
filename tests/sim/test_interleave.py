"""Semaphores alone make a program's result: any order of the engines gives it, none deadlocks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.programs import AWKWARD, place, rewritten, sizes
from support.rtl import random_dial

from moevit.compiler import Program, compile_network
from moevit.hw.config import AcceleratorConfig, preset
from moevit.hw.isa import Gemm, Instruction
from moevit.hw.registers import Error
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.sim.errors import DeviceError
from moevit.sim.interleave import run_interleaved

TIGHT = preset("micro").but(
    memory__ring_rows=64,
    memory__param_rows=32,
    memory__demand_rows=32,
    memory__demand_param_rows=32,
)


def output(program: Program, image: np.ndarray, task: str, **options: Any) -> np.ndarray:
    memory, at = place(program, image)
    where = program.task(task)
    run_interleaved(
        program.config,
        memory,
        program_base=where.base,
        image_base=at.image,
        output_base=at.output,
        **options,
    )
    return where.output.unpack(memory[at.output : at.output + where.output.size])


def check(network: Network, config: AcceleratorConfig, threshold: float, seeds: range) -> None:
    program = compile_network(network, config, threshold=threshold)
    image = random_images(1, network.geometry)[0]
    task = network.tasks[0]
    for seed in seeds:
        depth = (9, 16)[seed % 2]  # FETCH_AHEAD + 1 is the least that is promised to work
        dial = random_dial(np.random.default_rng(seed), program.dial)  # shorter queues, or none
        want = Golden(network.dialled(dial)).run(image, task).output
        got = output(program, image, task, seed=seed, queue_depth=depth, dial=dial)
        np.testing.assert_array_equal(got, want, err_msg=f"seed {seed}")


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_shapes(name: str) -> None:
    network = random_network(7, AWKWARD[name])
    for config in (preset("micro"), TIGHT):
        check(network, config, 2.0, range(2))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=sizes(),
    seed=st.integers(0, 1000),
    threshold=st.sampled_from([0.0, 2.0, float("inf")]),
    config=st.sampled_from([preset("micro"), TIGHT, preset("default")]),
)
def test_random_networks(
    shape: Sizes, seed: int, threshold: float, config: AcceleratorConfig
) -> None:
    network = random_network(seed, shape)
    try:
        compile_network(network, config, threshold=threshold)
    except ValueError as error:  # some are too large for tight memories
        assume("does not fit preset" not in str(error))
        raise
    check(network, config, threshold, range(seed, seed + 2))


def rewrite(program: Program, change: dict[str, int], pick) -> Program:
    """Every instruction that ``pick`` chooses with other fields."""
    memory = program.memory.copy()
    start = program.task("task0").base + program.header("task0").code_offset
    for n, i in enumerate(program.instructions("task0")):
        if pick(i):
            for offset, data in rewritten(n, replace(i, **change).encode()).items():
                at = start + offset
                memory[at : at + len(data)] = np.frombuffer(data, np.uint8)
    return replace(program, memory=memory)


def test_it_finds_a_missing_wait() -> None:
    """A program without one of its semaphores gives other results for some seeds."""
    network = random_network(7, Sizes(image_width=40))
    program = compile_network(network, preset("micro"))
    image = random_images(1, network.geometry)[0]
    want = output(program, image, "task0", seed=0)

    def waits(semaphore: int):
        return lambda i: isinstance(i, Gemm) and i.wait == semaphore

    for semaphore in (5, 10, 14):  # norm -> GEMM, queries -> attention -> projection, fc1 -> fc2
        racy = rewrite(program, {"wait": 0}, waits(semaphore))
        results = [output(racy, image, "task0", seed=seed) for seed in range(8)]
        assert any(not np.array_equal(r, want) for r in results), semaphore


def test_it_finds_a_deadlock() -> None:
    network = random_network(7)
    program = compile_network(network, preset("micro"))
    image = random_images(1, network.geometry)[0]

    def mute(i: Instruction) -> bool:
        return i.signal == 10

    with pytest.raises(DeviceError, match="deadlock of loader") as caught:
        output(rewrite(program, {"signal": 0}, mute), image, "task0", seed=0)
    assert caught.value.code == Error.HANG
