"""The proof's idea of reads and writes against the interpreter, which executes the same text."""

import copy
from typing import Any

import numpy as np
import pytest
from support.memories import random_program
from support.programs import place

from moevit.compiler import Program, compile_network
from moevit.compiler.check.accesses import Memory, accesses
from moevit.compiler.check.operands import used_inputs
from moevit.compiler.check.steps import make_steps
from moevit.hw.config import BEAT_BYTES, preset
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.sim.engines import Bases
from moevit.sim.interpreter import _Run, open_frame


def memories(run: _Run) -> dict[Memory, np.ndarray]:
    """The run's own arrays, a row a word."""
    chip = run.chip
    return {
        Memory.ACTIVATIONS: chip.activations,
        Memory.RESIDUAL: chip.residual,
        Memory.KEY_VALUES: chip.kv,
        Memory.NORMS: chip.norm_params,
    }


def follow(program: Program, image: np.ndarray, task: str) -> dict[Memory, int]:
    """Every instruction twice: with the memories as they are, and with noise wherever the model
    says that nothing is read. Returns the words that the second way had as noise."""
    config, memory, at = program.config, *place(program, image)
    base, header = program.task(task).base, program.header(task)
    frame = open_frame(
        config, memory, Bases(program=base, image=at.image, output=at.output), poison=1
    )
    steps = make_steps(config, program.instructions(task))
    stream = (header.stream_offset, header.stream_beats)
    used = used_inputs(config, steps, program.blocks(task), program.memory[base:], stream)
    run, rng, noisy = _Run(config, frame), np.random.default_rng(3), dict.fromkeys(Memory, 0)
    for step in steps:
        touched: dict[Memory, list[Any]] = {memory: [[], []] for memory in Memory}
        for access in accesses(config, step, used.get(step.index)):
            touched[access.memory][access.write].append(access.words.ravel())
        other = copy.deepcopy(run)
        where = f"instruction {step.index}, {step.instruction}"
        for kind, array in memories(other).items():
            free = np.ones(len(array), bool)
            for words in (w for both in touched[kind] for w in both):
                free[words] = False
            noisy[kind] += int(free.sum())
            raw = array.view(np.uint8)
            raw[free] = rng.integers(0, 256, raw[free].shape)
        before = {kind: array.copy() for kind, array in memories(run).items()}
        out = slice(at.output, None)
        stored = run.engines.memory.data[out].copy()
        run.execute(step.instruction)
        other.execute(step.instruction)
        for kind, array in memories(run).items():
            changed = np.flatnonzero((array != before[kind]).any(axis=1))
            written = np.unique(np.concatenate([[], *touched[kind][1]])).astype(int)
            assert set(changed.tolist()) <= set(written.tolist()), (where, kind)
            np.testing.assert_array_equal(
                array[written], memories(other)[kind][written], err_msg=f"{where}, {kind}"
            )
        changed = np.unique(np.flatnonzero(run.engines.memory.data[out] != stored) // BEAT_BYTES)
        beats = np.concatenate([[], *touched[Memory.OUTPUT][1]]).tolist()
        assert set(changed.tolist()) <= set(beats), where
        np.testing.assert_array_equal(
            run.engines.memory.data[out], other.engines.memory.data[out], err_msg=where
        )
        for mine, its in zip(run.chip.queues, other.chip.queues, strict=True):
            np.testing.assert_array_equal(mine.tokens, its.tokens, err_msg=where)
            np.testing.assert_array_equal(mine.scores, its.scores, err_msg=where)
    return noisy


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(),
        Sizes(ahead=True, moe=(0, 1), heads=2, dim=24),
        Sizes(mean_heads=True),
        Sizes(expert_bits=4, class_heads=True),
        Sizes(decoder_width=9, doublings=1),
    ],
    ids=["plain", "gates ahead", "mean", "4 bits", "upsampling"],
)
@pytest.mark.parametrize("threshold", [0.0, float("inf")])
def test_resident(sizes: Sizes, threshold: float) -> None:
    network = random_network(5, sizes)
    program = compile_network(network, preset("micro"), ["task0"], threshold=threshold)
    noisy = follow(program, random_images(5, network.geometry)[0], "task0")
    assert all(noisy[memory] for memory in (Memory.ACTIVATIONS, Memory.RESIDUAL, Memory.NORMS))


@pytest.mark.parametrize("seed", [1, 3, 5, 7, 9, 11])
def test_cramped(seed: int) -> None:
    """Tokens and maps that pass through memory, heads in groups, norms one by one."""
    made = random_program(seed)
    if made is None:
        pytest.skip("no program")
    network, program = made
    task = network.tasks[-1]
    follow(program, random_images(seed, network.geometry)[0], task)
