"""The semaphores against counters in Python, with gives and takes at random times."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import Simulator

from moevit.hw.control.semaphore import Semaphores
from moevit.hw.isa import SEMAPHORES


def run(seed: int, cycles: int = 400, givers: int = 4, takers: int = 3) -> None:
    """Each taker has semaphores of its own; givers give to all, sometimes to one together."""
    dut, rng = Semaphores(givers=givers, takers=takers), random.Random(seed)
    mine = [[i for i in range(SEMAPHORES) if i % takers == n] for n in range(takers)]
    asked: list[tuple[int, int, int] | None] = [None] * takers  # id, count, cycles asked

    async def process(ctx) -> None:
        taken = [0] * SEMAPHORES
        # Gives by cycle; those of the last `latency - 1` cycles cannot be taken yet.
        given_at = [[0] * SEMAPHORES for _ in range(Semaphores.latency)]
        takes = 0
        for cycle in range(cycles):
            one = rng.randrange(SEMAPHORES)
            gives = [0] * SEMAPHORES
            for give in dut.give:
                valid = rng.random() < (0.4 if cycle < cycles - 50 else 0.0)
                number = one if rng.random() < 0.3 else rng.randrange(SEMAPHORES)
                count = rng.choice([1, 1, 2, 300])
                ctx.set(give.valid, valid)
                ctx.set(give.id, number)
                ctx.set(give.count, count)
                gives[number] += valid * count
            for n, take in enumerate(dut.take):
                if asked[n] is None and rng.random() < 0.6:
                    asked[n] = (rng.choice(mine[n]), rng.choice([1, 2, 5, 700]), 0)
                number, count, since = asked[n] or (rng.randrange(SEMAPHORES), 1, 0)
                ctx.set(take.valid, asked[n] is not None)
                ctx.set(take.id, number)
                ctx.set(take.count, count)
            await ctx.delay(1e-7)
            for n, take in enumerate(dut.take):
                if asked[n] is None:
                    continue
                number, count, since = asked[n]
                there = (
                    sum(row[number] for row in given_at[: -(Semaphores.latency - 1)])
                    - taken[number]
                )
                if since < 2:
                    assert ctx.get(take.ready) == 0, (seed, cycle, n)
                else:
                    enough = number == 0 or there >= count
                    assert ctx.get(take.ready) == enough, (seed, cycle, n, there, count)
                if ctx.get(take.ready):
                    taken[number] += count if number else 0
                    takes += 1
                    asked[n] = None
                else:
                    asked[n] = (number, count, since + 1)
            given_at.append(gives)
            await ctx.tick()
        assert takes > 20

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(process)
    simulator.run()


@pytest.mark.parametrize("seed", range(4))
def test_random(seed: int) -> None:
    run(seed)
