"""Networks in tiles: whatever is cut, the integers are those of the golden model."""

from dataclasses import replace

import numpy as np
import pytest
from support.memories import cramped
from support.programs import place, run_program
from support.rtl import CONFIGS, SMALL, TIMINGS, Board, mismatch, random_sizes

from moevit.compiler import Program, compile_network
from moevit.compiler.disasm import disassemble
from moevit.compiler.plan.layout import Shapes
from moevit.compiler.plan.placement import MemoryPlan, plan_memory
from moevit.hw.config import AcceleratorConfig, preset
from moevit.hw.registers import Error
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


def test_a_final_norm_with_wider_rows() -> None:
    """It must not reach into norm outputs of tokens whose experts are still to come."""
    sizes = Sizes(image_width=64, dim=24, heads=3, head_channels=(), class_token=False)
    network = random_network(1, replace(sizes, depth=1, moe=(0,)))
    config = preset("micro").but(limits__routed=8)
    assert plan(network, config).tiling.routed == 8
    program = compile_network(network, config)
    image = random_images(1, network.geometry)[0]
    want = Golden(network).run(image, "task0").output
    for seed in range(6):
        np.testing.assert_array_equal(interleaved(program, image, "task0", seed), want)


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
def test_streamed(changes: dict, threshold: float) -> None:
    """Tokens that lie in memory and are streamed."""
    config = SHORT.but(**changes)
    network = random_network(3, LONG)
    assert plan(network, config).spill is not None
    check(network, config, threshold, seed=5)


@pytest.mark.parametrize("threshold", [0.0, float("inf")])
@pytest.mark.parametrize(
    ("changes", "routed"),
    [
        ({}, 8),
        ({"memory__residual_words": 48}, 6),
        ({"memory__activation_words": 232, "memory__kv_rows": 22}, 6),  # over inputs of attention
        ({"memory__activation_words": 700, "memory__kv_rows": 15, "memory__norm_rows": 36}, 14),
    ],
)
@pytest.mark.parametrize("moe", [(0, 2), (1,)])
def test_gates_in_front_of_blocks(
    moe: tuple[int, ...], changes: dict, routed: int, threshold: float
) -> None:
    """They read residuals that came in before the projection adds to them."""
    config = SHORT.but(**{"memory__residual_words": 200} | changes)
    network = random_network(3, replace(LONG, ahead=True, moe=moe))
    found = plan(network, config)
    assert found.spill is not None and found.ahead.end <= config.memory.activation_words
    assert found.tiling.routed == routed
    check(network, config, threshold, seed=5)


@pytest.mark.parametrize("seed", range(20))
def test_random(seed: int) -> None:
    """Any network in memories that just hold it."""
    rng = np.random.default_rng(seed)
    config = CONFIGS[("micro", "small")[seed % 2]]
    sizes = replace(random_sizes(rng, config), mean_heads=False)
    network = random_network(seed, sizes)
    config = cramped(network, config, rng)
    check(network, config, float(rng.choice([0.0, 3.0, float("inf")])), seed=seed)


def test_listing_and_file() -> None:
    """A program whose tokens are streamed can be listed and read back."""
    program = compile_network(random_network(3, LONG), SHORT)
    text = "\n".join(disassemble(program, ["task0"]))
    for words in ("ACTIVATION A[", "<- output+", "inputs of attention", "give 1 store->load"):
        assert words in text
    again = Program.from_bytes(program.to_bytes())
    assert (again.tasks, again.regions) == (program.tasks, program.regions)
    assert program.task("task0").output.address > 0


RTL = {
    "micro": SHORT.but(memory__norm_rows=24, limits__routed=12),
    "small": SMALL.but(
        memory__activation_words=330,
        memory__residual_words=160,
        memory__kv_rows=48,
        memory__norm_rows=36,
        limits__routed=20,
    ),
}


FIRST = {
    "micro": replace(LONG, channels=4),
    "small": replace(LONG, dim=48, hidden=190, expert_hidden=180, ahead=True),
}
"""The network that each begins with: it must be streamed."""

MAPS = {
    "micro": replace(LONG, decoder_width=9, doublings=3, dim=16, hidden=20),
    "small": replace(LONG, decoder_width=20, doublings=2, hidden=20),
}
"""The second: maps of its heads must be streamed."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RTL)
def test_rtl(name: str) -> None:
    """The accelerator, behind memories that stall; frames of several networks in turn."""
    config, rng = RTL[name], np.random.default_rng(1)
    cases, kinds = [], set()
    while len(cases) < 6 or len(kinds) < 2:
        seed = int(rng.integers(1000))
        sizes = replace(random_sizes(rng, config), mean_heads=False)
        if len(cases) < 2:
            sizes = (FIRST, MAPS)[len(cases)][name]
        network = random_network(seed, sizes)
        try:
            found = plan(network, config)
        except ValueError as error:
            assert cases, error
            assert "does not fit" in str(error)
            continue
        whole = found.spill is None and found.tiling.heads == network.geometry.heads
        if len(cases) == 1:
            assert any(m.base is None for maps in found.maps.values() for m in maps.maps[1:-1])
        elif whole and found.tiling.dense == found.tiling.routed == network.geometry.tokens:
            assert cases, "the first network fits whole"
            continue
        kinds.add("streamed" if found.spill else "resident")
        program = compile_network(network, config, threshold=float(rng.choice([0.0, 5.0])))
        cases.append((seed, network, program))
    assert kinds == {"streamed", "resident"}
    with Board(config) as board:
        for n, (seed, network, program) in enumerate(cases):
            image = random_images(seed, network.geometry)[0]
            for task in network.tasks:
                timing = list(TIMINGS)[n % len(TIMINGS)]
                board.sim.configure(TIMINGS[timing].but(seed=seed))
                frame = board.run(program, image, task)
                where = f"network {seed}, {task}, memory {timing}"
                assert frame.error == Error.NONE, f"{frame.error.name}: {where}"
                want = Golden(network).run(image, task).output
                assert not (wrong := mismatch(frame.output, want)), f"{wrong}: {where}"


@pytest.mark.parametrize("seed", range(3))
def test_a_norm_in_front_of_tokens_that_pass(seed: int) -> None:
    config = SMALL.but(memory__activation_words=400, memory__residual_words=400)
    sizes = Sizes(
        entry=True,
        registers=seed,
        class_token=seed > 0,
        image_height=35,
        image_width=49,
        patch=7,
        dim=64,
        hidden=100,
        moe=(1,),
        head_channels=(3, 2),
    )
    network = random_network(seed, sizes)
    assert plan(network, config).spill is not None
    check(network, config, 2.0, seed=seed)
