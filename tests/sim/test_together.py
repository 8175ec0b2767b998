"""All tasks of one image in one run: the same integers, whatever the order of the engines."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.programs import place, sizes

from moevit.compiler import Program, compile_network
from moevit.compiler.cost.estimate import estimate
from moevit.compiler.plan.layout import Shapes
from moevit.compiler.plan.placement import plan_memory
from moevit.compiler.program import ALL
from moevit.hw.config import preset
from moevit.hw.isa import Load, Store, Sync
from moevit.quant.golden import Golden
from moevit.quant.network import Moe, Network
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.sim.interleave import run_interleaved
from moevit.sim.interpreter import Interpreter
from moevit.sim.rtl import board_memory

MICRO = preset("micro")
NARROW = MICRO.but(memory__residual_words=100)
SHAPES = {
    "plain": Sizes(),
    "three tasks, two layers": Sizes(tasks=3, head_channels=(3, 1, 2), depth=4, moe=(1, 3)),
    "experts first": Sizes(moe=(0, 1)),
    "dense last": Sizes(tasks=3, head_channels=(1, 2, 1), moe=(0,)),
    "class head": Sizes(class_heads=True, head_channels=(37, 3), image_width=40),
    "one has no head": Sizes(head_channels=(3,)),
    "no norm": Sizes(head_channels=(), norm=False, tasks=3),
    "gates ahead": Sizes(tasks=3, head_channels=(3, 1, 2), depth=4, moe=(1, 3), ahead=True),
    "gate ahead, experts first": Sizes(moe=(0,), ahead=True, window=2),
}
TILES = {
    "heads": {"memory__kv_rows": 15},
    "tokens": {"limits__routed": 6},
    "both": {"memory__kv_rows": 15, "limits__routed": 4},
}


def outputs(program: Program, memory: np.ndarray, start: int) -> dict[str, np.ndarray]:
    together = program.together
    assert together is not None
    return {
        task: about.unpack(memory[start + about.address :][: about.size])
        for task, about in together.outputs.items()
    }


def check(network: Network, config, threshold: float, seed: int) -> Program:
    program = compile_network(network, config, threshold=threshold, together=True)
    image = random_images(seed, network.geometry)[0]
    base = program.together.base
    expected = {task: Golden(network).run(image, task) for task in network.tasks}
    memory, at = place(program, image)
    outcome = Interpreter(config).run(
        memory, program_base=base, image_base=at.image, output_base=at.output, poison=seed
    )
    assert outcome.credits == (0,) * 16
    assert outcome.rows_left == (0, 0, 0, 0)
    counts = [r.counts for task in network.tasks for r in expected[task].routing]
    pieces = len(outcome.queues) // len(counts)  # of each layer, where some tokens go at a time
    queues = [outcome.queues[n : n + pieces] for n in range(0, len(outcome.queues), pieces)]
    sums = [tuple(map(sum, zip(*parts, strict=True))) for parts in queues]
    assert [q[: len(c)] for q, c in zip(sums, counts, strict=True)] == [tuple(c) for c in counts]
    for task, found in outputs(program, memory, at.output).items():
        np.testing.assert_array_equal(found, expected[task].output)
    for n in range(2):
        memory, at = place(program, image)
        run_interleaved(
            config, memory, program_base=base, image_base=at.image, output_base=at.output,
            seed=seed + n, queue_depth=(9, 16)[n],
        )  # fmt: skip
        for task, found in outputs(program, memory, at.output).items():
            np.testing.assert_array_equal(found, expected[task].output, err_msg=f"{task}, {n}")
    return program


@pytest.mark.parametrize("config", [MICRO, NARROW], ids=["roomy", "one residual"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, config) -> None:
    network = random_network(7, SHAPES[name])
    for threshold in (0.0, float("inf")):
        program = check(network, config, threshold, seed=3)
    names = [region.name for region in program.regions]
    two = config is MICRO and all(task in network.heads for task in network.tasks)
    assert ("residual of odd tasks" in names) == two


@pytest.mark.parametrize(
    ("tiles", "residuals"),
    [("heads", {}), ("tokens", {}), ("both", {}), ("both", {"memory__residual_words": 100})],
)
@pytest.mark.parametrize("name", ["three tasks, two layers", "gates ahead", "class head"])
def test_tiles(name: str, tiles: str, residuals: dict) -> None:
    """Groups of heads, and some tokens at a time, on a chip that holds all tokens."""
    config = MICRO.but(**TILES[tiles], **residuals)
    network = random_network(7, SHAPES[name])
    tiling = plan_memory(network, Shapes(config=config, geometry=network.geometry)).tiling
    assert (tiling.heads < network.geometry.heads) == (tiles != "tokens")
    assert (tiling.routed < network.geometry.tokens) == (tiles != "heads")
    for threshold in (0.0, float("inf")):
        check(network, config, threshold, seed=4)


def test_what_all_tasks_cannot_have() -> None:
    network = random_network(7, SHAPES["three tasks, two layers"])
    for changes, reason in (
        ({"memory__norm_rows": 20}, "norms' parameters come one by one"),
        ({"memory__activation_words": 100}, "tokens pass through it"),
    ):
        with pytest.raises(ValueError, match=f"on preset 'micro' {reason}: run the tasks one by"):
            compile_network(network, MICRO.but(**changes), together=True)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=sizes(), seed=st.integers(0, 1000), threshold=st.sampled_from([0.0, 2.0, float("inf")])
)
def test_random_networks(shape: Sizes, seed: int, threshold: float) -> None:
    network = random_network(seed, replace(shape, tasks=2))
    first = next((b.mlp for b in network.blocks if isinstance(b.mlp, Moe)), None)
    if first is None or shape.decoder_width:
        need = "linear heads" if shape.decoder_width else "a block with experts"
        with pytest.raises(ValueError, match=f"need {need}"):
            compile_network(network, MICRO, together=True)
        return
    check(network, MICRO, threshold, seed)


def test_every_store_that_is_loaded_is_awaited() -> None:
    """The order that the plan relies on: a LOAD follows the credit of the STORE before it."""
    program = check(random_network(7, SHAPES["three tasks, two layers"]), MICRO, 2.0, 1)
    code = program.instructions(ALL)
    loads = [i for i in code if isinstance(i, Load) and i.stored]
    stores = [i for i in code if isinstance(i, Store)]
    assert len(loads) == 2 and len(stores) == 4
    assert all(load.address == stores[0].address and load.wait for load in loads)
    assert len({load.target for load in loads}) == 2
    waits = [i for i in code if isinstance(i, Sync) and i.wait == stores[0].signal]
    assert len(waits) == sum(store.signal != 0 for store in stores) == 3


def test_what_is_shared_counts_once() -> None:
    program = check(random_network(7, SHAPES["three tasks, two layers"]), MICRO, 2.0, 1)
    one_by_one = sum(task.useful_macs for task in program.tasks.values())
    assert program.together.useful_macs < one_by_one
    timing = board_memory(MICRO)
    whole = estimate(program, ALL, timing).cycles
    assert whole < sum(estimate(program, task, timing).cycles for task in program.tasks)


def test_a_file_keeps_it(tmp_path) -> None:
    program = check(random_network(7, Sizes()), MICRO, 2.0, 1)
    program.save(tmp_path / "p.moevit")
    again = Program.load(tmp_path / "p.moevit")
    assert again.together == program.together
    assert again.instructions(ALL) == program.instructions(ALL)


def test_refusals() -> None:
    network = random_network(7, Sizes())
    with pytest.raises(ValueError, match="two tasks or more"):
        compile_network(network, MICRO, ["task0"], together=True)
    end = max(r.end for r in compile_network(network, MICRO).regions if r.memory == "A")
    tight = MICRO.but(memory__activation_words=end + 1)
    with pytest.raises(ValueError, match=r"first router's input.*activation_words=\d+ would hold"):
        compile_network(network, tight, together=True)
