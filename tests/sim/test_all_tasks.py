"""All tasks of one image in one run: the same integers, whatever the order of the engines."""

import os
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.programs import place, sizes
from support.rtl import TIMINGS, Board, mismatch

from moevit.compiler import Program, compile_network
from moevit.compiler.cost.estimate import estimate
from moevit.compiler.plan.layout import Shapes
from moevit.compiler.plan.placement import plan_memory
from moevit.compiler.program import ALL
from moevit.hw.config import preset
from moevit.hw.registers import Error
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
    "upsampling": Sizes(decoder_width=12, dim=16),
    "upsampling, gates ahead": Sizes(decoder_width=9, dim=16, moe=(0, 1), ahead=True),
}
TILES = {
    "heads": {"memory__kv_rows": 15},
    "tokens": {"limits__routed": 6},
    "both": {"memory__kv_rows": 15, "limits__routed": 4},
    "norms": {"memory__norm_rows": 32},
}

# Every combination of routing, heads, and where tokens lie.
LONG = Sizes(
    image_height=40, image_width=40, heads=4, depth=3, hidden=40, expert_hidden=30, experts=3,
    moe=(1,), tasks=3, head_channels=(3, 1, 2),
)  # fmt: skip
ROUTING = {
    "all experts": {},
    "gates ahead": {"ahead": True, "moe": (0, 2)},
    "windows": {"experts": 5, "window": 2, "renormalise": True, "moe": (1, 2)},
    "pruned": {"threshold": 0.3, "ahead": True},
    "norm in front": {"entry": True, "ahead": True, "registers": 2},
}
HEADS = {
    "patches": {},
    "class token": {"class_heads": True},
    "mean": {"mean_heads": True},
    "norm behind the mean": {"mean_heads": True, "pool_norm": True, "norm": False},
    "upsampling": {"decoder_width": 9, "doublings": 2, "dim": 16},
    "upsampling, own norm": {"decoder_width": 5, "norm": False, "doublings": 1, "dim": 16},
    "none": {"head_channels": ()},
    "no norm": {"head_channels": (), "norm": False},
}
MEMORIES = {
    "chip": {},
    "streamed": {
        "memory__activation_words": 300,
        "memory__residual_words": 100,
        "memory__kv_rows": 40,
        "limits__routed": 12,
    },
}
THRESHOLDS = (0.0, 3.0, float("inf"))
COMBINATIONS = {
    f"{routing}, {heads}, {memory}": (
        replace(LONG, **{**ROUTING[routing], **HEADS[heads]}),
        MICRO.but(**MEMORIES[memory]),
        THRESHOLDS[n % 3],
    )
    for n, (routing, heads, memory) in enumerate(product(ROUTING, HEADS, MEMORIES))
}


def outputs(program: Program, memory: np.ndarray, start: int) -> dict[str, np.ndarray]:
    whole = program.all_tasks
    assert whole is not None
    return {
        task: about.unpack(memory[start + about.address :][: about.size])
        for task, about in whole.outputs.items()
    }


def check(network: Network, config, threshold: float, seed: int) -> Program:
    program = compile_network(network, config, threshold=threshold, all_tasks=True)
    image = random_images(seed, network.geometry)[0]
    base = program.all_tasks.base
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
    two = config is MICRO and len(network.linear_heads) == len(network.tasks)
    assert ("residual of odd tasks" in names) == two


@pytest.mark.parametrize(
    ("tiles", "residuals"),
    [*((name, {}) for name in TILES), ("both", {"memory__residual_words": 100})],
)
@pytest.mark.parametrize("name", ["three tasks, two layers", "gates ahead", "class head"])
def test_tiles(name: str, tiles: str, residuals: dict) -> None:
    """Groups of heads, some tokens at a time, norms one by one, on a chip with all tokens."""
    config = MICRO.but(**TILES[tiles], **residuals)
    network = random_network(7, SHAPES[name])
    tiling = plan_memory(network, Shapes(config=config, geometry=network.geometry)).tiling
    assert (tiling.heads < network.geometry.heads) == (tiles in ("heads", "both"))
    assert (tiling.routed < network.geometry.tokens) == (tiles in ("tokens", "both"))
    for threshold in (0.0, float("inf")):
        check(network, config, threshold, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMBINATIONS)[1::4])  # all of them in RTL, below
def test_combinations(name: str) -> None:
    """Whatever the router, the head and the place of the tokens."""
    shape, config, threshold = COMBINATIONS[name]
    network = random_network(len(name), shape)
    plan = plan_memory(network, Shapes(config=config, geometry=network.geometry))
    assert (plan.spill is not None) == name.endswith("streamed")
    check(network, config, threshold, seed=len(name))


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
def test_combinations_in_rtl(memory: str) -> None:
    """The same on the accelerator, each task by itself and all of them, one frame after another.

    Each router with each head on one of the memories; on both with MOEVIT_LONG_TESTS=1.
    """
    first, every = list(MEMORIES).index(memory), len(MEMORIES)
    if os.environ.get("MOEVIT_LONG_TESTS"):
        first, every = 0, 1
    names = [name for name in COMBINATIONS if name.endswith(memory)][first::every]
    with Board(COMBINATIONS[names[0]][1]) as board:
        for n, name in enumerate(names):
            shape, config, threshold = COMBINATIONS[name]
            network = random_network(n, shape)
            program = compile_network(network, config, threshold=threshold, all_tasks=True)
            image = random_images(n, network.geometry)[0]
            board.sim.configure(list(TIMINGS.values())[n % len(TIMINGS)].but(seed=n))
            wanted = {task: Golden(network).run(image, task).output for task in network.tasks}
            task = network.tasks[n % len(network.tasks)]
            frame = board.run(program, image, task)
            assert frame.error == Error.NONE, f"{name}: {frame.error.name}"
            assert not (wrong := mismatch(frame.output, wanted[task])), f"{name}, {task}: {wrong}"
            board.place(program, image)
            board.start(board.program_base + program.all_tasks.base)
            frame = board.wait()
            assert frame.error == Error.NONE, f"{name}, all: {frame.error.name}"
            found = np.frombuffer(board.sim.read(board.output_base, program.output_bytes), np.uint8)
            for task, output in outputs(program, found, 0).items():
                assert not (wrong := mismatch(output, wanted[task])), (
                    f"{name}, all, {task}: {wrong}"
                )


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=sizes(), seed=st.integers(0, 1000), threshold=st.sampled_from([0.0, 2.0, float("inf")])
)
def test_random_networks(shape: Sizes, seed: int, threshold: float) -> None:
    count = 2 if shape.head_channels else 0
    channels = tuple(shape.head_channels[n % len(shape.head_channels)] for n in range(count))
    network = random_network(seed, replace(shape, tasks=2, head_channels=channels))
    if not any(isinstance(block.mlp, Moe) for block in network.blocks):
        with pytest.raises(ValueError, match="need a block with experts"):
            compile_network(network, MICRO, all_tasks=True)
        return
    check(network, MICRO, threshold, seed)


def test_what_is_shared_counts_once() -> None:
    program = check(random_network(7, SHAPES["three tasks, two layers"]), MICRO, 2.0, 1)
    one_by_one = sum(task.useful_macs for task in program.tasks.values())
    assert program.all_tasks.useful_macs < one_by_one
    timing = board_memory(MICRO)
    whole = estimate(program, ALL, timing).cycles
    assert whole < sum(estimate(program, task, timing).cycles for task in program.tasks)


def test_what_is_shared_goes_to_memory_where_it_must() -> None:
    """The first router's input too, if the chip has no room for it beside everything else."""
    network = random_network(7, SHAPES["three tasks, two layers"])
    end = max(r.end for r in compile_network(network, MICRO).regions if r.memory == "A")
    rooms = []
    for words in (end, MICRO.memory.activation_words):
        program = check(network, MICRO.but(memory__activation_words=words), 2.0, 1)
        rooms.append(program.all_tasks.room)
    assert rooms[0] > rooms[1]


def test_a_file_keeps_it(tmp_path) -> None:
    program = check(random_network(7, Sizes()), MICRO, 2.0, 1)
    program.save(tmp_path / "p.moevit")
    again = Program.load(tmp_path / "p.moevit")
    assert again.all_tasks == program.all_tasks
    assert again.instructions(ALL) == program.instructions(ALL)


def test_refusal() -> None:
    network = random_network(7, Sizes())
    with pytest.raises(ValueError, match="two tasks or more"):
        compile_network(network, MICRO, ["task0"], all_tasks=True)
