"""Compiled programs on the interpreter against the golden model, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.programs import AWKWARD, place, run_program, sizes

from moevit.compiler import compile_network
from moevit.hw.config import preset
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.sim.interpreter import Interpreter

PRESETS = ("micro", "default", "zcu104")
THRESHOLDS = (0.0, 2.0, float("inf"))


def check(network: Network, config_name: str, threshold: float, *, seed: int) -> list[int]:
    """Every task equals the golden model and leaves nothing; misses of each task."""
    config = preset(config_name)
    program = compile_network(network, config, threshold=threshold)
    image = random_images(seed, network.geometry)[0]
    golden = Golden(network)
    misses = []
    for task in network.tasks:
        output, outcome = run_program(program, image, task, poison=seed)
        want = golden.run(image, task)
        assert output.dtype == want.output.dtype
        np.testing.assert_array_equal(output, want.output)
        assert outcome.credits == (0,) * 16, "credits left over"
        assert outcome.rows_left == (0, 0, 0, 0), "rows left over"
        counts = [r.counts for r in want.routing]
        assert [q[: len(c)] for q, c in zip(outcome.queues, counts, strict=True)] == counts
        used = [
            {e for e in s.on_demand if count[e]}
            for s, count in zip(program.task(task).schedules, counts, strict=True)
        ]
        misses.append(outcome.misses)
        assert (outcome.misses > 0) == any(used)
    return misses


@pytest.mark.parametrize("config", PRESETS)
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_shapes(name: str, config: str) -> None:
    network = random_network(7, AWKWARD[name])
    for threshold in THRESHOLDS:
        check(network, config, threshold, seed=3)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=sizes(),
    seed=st.integers(0, 1000),
    config=st.sampled_from(PRESETS),
    threshold=st.sampled_from(THRESHOLDS),
)
def test_random_networks(shape: Sizes, seed: int, config: str, threshold: float) -> None:
    check(random_network(seed, shape), config, threshold, seed=seed)


def test_misses_are_counted() -> None:
    network = random_network(1, Sizes(experts=4, top_k=2))
    assert check(network, "default", 0.0, seed=4) < check(network, "default", 100.0, seed=4)


def test_weights_that_the_ring_cannot_hold_at_once() -> None:
    """Every matrix is split, experts are fetched layer by layer, and the result is the same."""
    config = preset("micro").but(
        memory__ring_rows=64,
        memory__param_rows=32,
        memory__demand_rows=32,
        memory__demand_param_rows=32,
    )
    network = random_network(2, Sizes(image_width=40, moe=(0, 1), depth=2))
    image = random_images(1, network.geometry)[0]
    for threshold in THRESHOLDS:
        program = compile_network(network, config, threshold=threshold)
        for task in network.tasks:
            output, outcome = run_program(program, image, task)
            np.testing.assert_array_equal(output, Golden(network).run(image, task).output)
            assert outcome.rows_left == (0, 0, 0, 0)


@pytest.mark.parametrize("last", ["dense", "experts"])
@pytest.mark.parametrize("config", PRESETS)
def test_heads_on_the_class_token(config: str, last: str) -> None:
    network = random_network(6, Sizes(moe=(1,) if last == "experts" else (0,)))
    heads = {
        task: replace(head, class_token=True, channels=head.linear.shape[0], upscale=1)
        for task, head in network.heads.items()
    }
    check(replace(network, heads=heads), config, 2.0, seed=1)


def test_more_ports() -> None:
    config = preset("default").but(memory__ports=2)
    network = random_network(5)
    program = compile_network(network, config, threshold=2.0)
    image = random_images(1, network.geometry)[0]
    for task in network.tasks:
        output, _ = run_program(program, image, task)
        np.testing.assert_array_equal(output, Golden(network).run(image, task).output)


def test_bytes_behind_the_output_stay() -> None:
    """Nothing but the output changes in memory."""
    network = random_network(5)
    program = compile_network(network, preset("default"))
    memory, at = place(program, random_images(1, network.geometry)[0])
    memory = np.concatenate([memory, np.full(64, 0xA5, np.uint8)])
    before = memory.copy()
    task = program.task("task0")
    Interpreter(program.config).run(
        memory, program_base=task.base, image_base=at.image, output_base=at.output
    )
    changed = np.flatnonzero(memory != before)
    assert changed.min() >= at.output
    assert changed.max() < at.output + task.output.size
