"""Whole random networks on the accelerator: RTL, interpreter and golden model agree bit for bit.

Frames of two networks and all their tasks alternate on one device that is never reset, behind
memories that stall, reorder, are narrow or far away. A failure says everything that repeats it.
"""

from typing import Any

import numpy as np
import pytest
from support.programs import AWKWARD, run_program
from support.rtl import CONFIGS, TIMINGS, Board, mismatch, random_dial, random_sizes

from moevit.compiler import Program, compile_network
from moevit.compiler.plan.schedule import DEFAULT_THRESHOLD
from moevit.hw.config import AcceleratorConfig
from moevit.hw.registers import Counter, Error
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.random_network import Sizes, random_images, random_network

pytestmark = pytest.mark.slow  # the first use of a configuration builds its simulator

SEEDS = {"micro": 20, "small": 20, "odd": 10}
THRESHOLDS = (0.0, DEFAULT_THRESHOLD, 3.0, float("inf"))  # infinity fetches every expert on demand


class Case:
    """A network, its program, an image, and what must come out of each task."""

    def __init__(self, seed: int, sizes: Sizes, program: Program, network: Network) -> None:
        self.about = f"seed {seed}, {sizes}, threshold {program.meta['threshold']}"
        self.program = program
        self.image = random_images(seed, network.geometry)[0]
        self.network = network
        self.tasks = network.tasks

    def check(
        self, board: Board, task: str, timing: str, seed: int, dial: Dial = AS_COMPILED
    ) -> None:
        """One frame."""
        where = f"{self.about}, {board.config.name}, {task}, memory {timing}, {dial}"
        want = Golden(self.network.dialled(dial)).run(self.image, task)
        output, outcome = run_program(self.program, self.image, task, poison=seed, dial=dial)
        assert not mismatch(output, want.output), f"interpreter: {where}"
        assert not any(outcome.credits), where
        assert not any(outcome.rows_left), where

        board.sim.configure(TIMINGS[timing].but(seed=seed))
        frame = board.run(self.program, self.image, task, dial=dial)
        assert frame.error == Error.NONE, f"{frame.error.name}: {where}"
        assert not (wrong := mismatch(frame.output, want.output)), f"{wrong}: {where}"
        self.check_counters(frame, outcome, want, task, where)

    def check_counters(self, frame: Any, outcome: Any, want: Any, task: str, where: str) -> None:
        """Counters tell what happened."""
        c = frame.counters
        limit = len(frame.expert_tokens)
        counts = np.zeros((1, limit), int)
        for routing in want.routing:
            counts = np.vstack([counts, routing.counts + (0,) * (limit - routing.experts)])
        assert frame.expert_tokens == counts.sum(axis=0).tolist(), where
        assert c[Counter.MISSES] == outcome.misses, where
        assert c[Counter.EMPTY_QUEUES] == outcome.empty_queues, where
        stream = self.program.header(task).stream_beats * self.program.config.memory.ports
        assert c[Counter.WEIGHT_BEATS] == stream + c[Counter.DEMAND_BEATS], where
        array = (
            Counter.ARRAY_BUSY,
            Counter.STALL_OPERAND,
            Counter.STALL_WEIGHT,
            Counter.STALL_DRAIN,
            Counter.STALL_SOFTMAX,
            Counter.NO_WORK,
        )
        assert abs(sum(c[n] for n in array) - c[Counter.CYCLES]) <= 2, f"{c}: {where}"


def draw(seed: int, config: AcceleratorConfig) -> Case:
    """The first random network that fits the configuration."""
    rng = np.random.default_rng([seed, config.array.macs])
    for _ in range(50):
        sizes = random_sizes(rng, config)
        threshold = float(rng.choice(THRESHOLDS))
        network = random_network(seed, sizes)
        try:
            program = compile_network(network, config, threshold=threshold)
        except ValueError as error:
            assert "does not fit" in str(error), f"seed {seed}, {sizes}"
            continue
        return Case(seed, sizes, program, network)
    raise AssertionError(f"seed {seed}: no network of 50 fits {config.name}")


@pytest.mark.parametrize(
    ("name", "seed"), [(name, seed) for name in CONFIGS for seed in range(SEEDS[name])]
)
def test_random_networks(name: str, seed: int) -> None:
    config = CONFIGS[name]
    rng = np.random.default_rng(seed)
    cases = [draw(2 * seed + n, config) for n in range(2)]
    frames = [(case, task) for case in cases for task in case.tasks]
    order = rng.permutation(np.tile(np.arange(len(frames)), 2))
    with Board(config) as board:
        for n, index in enumerate(order.tolist()):
            timing = str(rng.choice(list(TIMINGS)))
            case, task = frames[index]
            dial = random_dial(rng, case.program.dial)
            case.check(board, task, timing, seed + n, dial)


@pytest.mark.parametrize("shape", AWKWARD)
@pytest.mark.parametrize("name", CONFIGS)
def test_awkward_shapes(name: str, shape: str) -> None:
    config, sizes = CONFIGS[name], AWKWARD[shape]
    network = random_network(5, sizes)
    with Board(config) as board:
        for threshold in (DEFAULT_THRESHOLD, float("inf")):
            program = compile_network(network, config, threshold=threshold)
            case = Case(5, sizes, program, network)
            for n, task in enumerate(case.tasks):
                case.check(board, task, "stalls" if n else "ideal", n)
