"""Networks in tiles: whatever is cut, the integers are those of the golden model."""

import numpy as np
import pytest
from support.programs import place, run_program

from moevit.compiler import Program, compile_network
from moevit.compiler.layout import Shapes
from moevit.compiler.plan import MemoryPlan, plan_memory
from moevit.hw.config import AcceleratorConfig, preset
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.sim.interleave import run_interleaved

LONG = Sizes(
    image_height=40, image_width=40, heads=4, depth=3, moe=(1,), hidden=250, expert_hidden=200
)
"""26 tokens of 32 channels in 4 heads."""


def plan(network: Network, config: AcceleratorConfig) -> MemoryPlan:
    return plan_memory(network, Shapes(config=config, geometry=network.geometry))


def interleaved(program: Program, image: np.ndarray, task: str, seed: int) -> np.ndarray:
    memory, at = place(program, image)
    where = program.task(task)
    run_interleaved(
        program.config,
        memory,
        program_base=where.base,
        image_base=at.image,
        output_base=at.output,
        seed=seed,
    )
    start = at.output + where.output.address
    return where.output.unpack(memory[start : start + where.output.size])


def check(network: Network, config: AcceleratorConfig, threshold: float, *, seed: int) -> None:
    """Interpreter, and engines side by side, against the golden model."""
    program = compile_network(network, config, threshold=threshold)
    image = random_images(seed, network.geometry)[0]
    for n, task in enumerate(network.tasks):
        want = Golden(network).run(image, task).output
        output, outcome = run_program(program, image, task, poison=seed)
        np.testing.assert_array_equal(output, want)
        assert outcome.credits == (0,) * 16, "credits left over"
        assert outcome.rows_left == (0, 0, 0, 0), "rows left over"
        got = interleaved(program, image, task, seed + n)
        np.testing.assert_array_equal(got, want, err_msg=f"seed {seed + n}")


@pytest.mark.parametrize("threshold", [0.0, float("inf")])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"memory__kv_rows": 44}, {"heads": 2}),
        ({"memory__kv_rows": 15}, {"heads": 1}),
        ({"memory__norm_rows": 17}, {"norms": 2}),
        ({"memory__norm_rows": 31}, {"norms": 3}),
        ({"memory__activation_words": 104 + 700}, {"dense": 14, "routed": 26, "halves": 1}),
        ({"memory__activation_words": 104 + 610}, {"dense": 14, "routed": 14, "halves": 1}),
        ({"limits__routed": 8}, {"routed": 8, "halves": 2}),
        (
            {"limits__routed": 12, "memory__kv_rows": 44, "memory__norm_rows": 16},
            {"routed": 10, "heads": 2, "norms": 2},
        ),
    ],
)
def test_resident(changes: dict, expected: dict, threshold: float) -> None:
    """Groups of heads, tokens of the feed-forward part and norms' parameters, each cut."""
    config = preset("micro").but(**changes)
    network = random_network(3, LONG)
    tiling = plan(network, config).tiling
    assert expected.items() <= vars(tiling).items()
    check(network, config, threshold, seed=5)


SHORT = preset("micro").but(
    memory__activation_words=280, memory__residual_words=100, memory__kv_rows=40
)
"""Memories that hold some of :data:`LONG`'s tokens."""


@pytest.mark.parametrize("threshold", [0.0, float("inf")])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memory__kv_rows": 15, "memory__norm_rows": 16},
        {"memory__ring_rows": 64, "memory__param_rows": 32, "memory__demand_rows": 32},
        {"memory__residual_words": 48, "limits__routed": 6},
        {"memory__activation_words": 1000},
    ],
)
def test_passing(changes: dict, threshold: float) -> None:
    """Tokens that lie in memory and pass through the chip."""
    config = SHORT.but(**changes)
    network = random_network(3, LONG)
    assert plan(network, config).spill is not None
    check(network, config, threshold, seed=5)
