"""Agents around a unit in a cocotb bench: streams, read ports and semaphores with random pauses.

All act in lock step: what they drive is set after a clock edge, what they see is what the next edge
will find. Names are those that Amaranth gives: member ``x`` of stream ``i`` is ``i__x``.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cocotb
from amaranth.hdl import Shape
from amaranth.lib.data import Layout
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

__all__ = [
    "PARAMETERS",
    "Bench",
    "Giver",
    "Lender",
    "ReadMemory",
    "Sink",
    "Source",
    "pack",
    "pauses",
    "reset",
    "unpack",
]

PARAMETERS = json.loads(os.environ.get("MOEVIT_BENCH", "{}"))


def pack(layout: Layout, values: Any) -> int:
    """A payload's bits from dictionaries and lists of integers."""
    return int(layout.const(values).as_bits())


def unpack(layout: Layout, bits: int) -> Any:
    """Dictionaries, lists and integers from a payload's bits."""
    if not isinstance(layout, Layout):
        shape = Shape.cast(layout)
        return bits - (1 << shape.width) if shape.signed and bits >> shape.width - 1 else bits
    parts = {
        key: unpack(field.shape, bits >> field.offset & (1 << field.width) - 1)
        for key, field in layout
    }
    return list(parts.values()) if 0 in parts else parts


def pauses(probability: float) -> Iterator[bool]:
    """For cocotbext-axi's ``set_pause_generator``."""
    while True:
        yield random.random() < probability


async def reset(dut: Any, cycles: int = 4) -> None:
    """Starts the clock and resets the design; reset falls with a rising edge of the clock."""
    cocotb.start_soon(Clock(dut.clk, 10, unit="ns").start())
    dut.rst.value = 1
    for _ in range(cycles):
        await RisingEdge(dut.clk)
    dut.rst.value = 0


class Bench:
    """A unit and its agents."""

    def __init__(self, dut: Any, agents: Iterable[Any]) -> None:
        self.dut, self.agents, self.cycles = dut, list(agents), 0

    async def run(self, done: Callable[[], Any], limit: int = 100_000) -> None:
        """Cycles until ``done`` holds in one of them."""
        for _ in range(limit):
            for agent in self.agents:
                agent.drive()
            await ReadOnly()
            ended = done()
            for agent in self.agents:
                agent.observe()
            await RisingEdge(self.dut.clk)
            self.cycles += 1
            if ended:
                return
        raise AssertionError(f"not done after {limit} cycles")


class _Stream:
    def __init__(self, dut: Any, name: str, pause: float) -> None:
        self.valid, self.ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self.payload = getattr(dut, f"{name}__payload")
        self.name, self.pause = name, pause


class Source(_Stream):
    """Offers payloads; once offered, one stays until it is taken."""

    def __init__(self, dut: Any, name: str, payloads: Iterable[int], pause: float = 0.3) -> None:
        super().__init__(dut, name, pause)
        self.left = list(payloads)
        self.offered = False

    def drive(self) -> None:
        if self.left and not self.offered and random.random() >= self.pause:
            self.offered = True
            self.payload.value = self.left[0]
        self.valid.value = self.offered

    def observe(self) -> None:
        if self.offered and self.ready.value:
            self.left.pop(0)
            self.offered = False


class Sink(_Stream):
    """Takes payloads, and checks that what is offered stays the same until it is taken."""

    def __init__(self, dut: Any, name: str, pause: float = 0.3) -> None:
        super().__init__(dut, name, pause)
        self.got: list[Any] = []
        self.held: Any = None

    def drive(self) -> None:
        self.ready.value = random.random() >= self.pause

    def offered(self) -> Any:
        """What is offered in this cycle."""
        return int(self.payload.value)

    def observe(self) -> None:
        offered = self.offered() if self.valid.value else None
        assert self.held is None or offered == self.held, f"{self.name} changed before it was taken"
        self.held = None
        if offered is None:
            return
        if self.ready.value:
            self.got.append(offered)
        else:
            self.held = offered


class ReadMemory:
    """Behind a synchronous read port; ``word`` maps an address to a word."""

    def __init__(
        self, dut: Any, name: str, word: Callable[[int], int], grant: str = "", pause: float = 0.3
    ) -> None:
        self.en, self.addr = getattr(dut, f"{name}__en"), getattr(dut, f"{name}__addr")
        self.data, self.word, self.pause = getattr(dut, f"{name}__data"), word, pause
        self.grant = getattr(dut, grant) if grant else None
        self.next: int | None = None
        self.reads: list[int] = []

    def drive(self) -> None:
        # What was not read is noise: a unit that looks at it will show.
        self.data.value = random.getrandbits(len(self.data)) if self.next is None else self.next
        if self.grant is not None:
            self.grant.value = random.random() >= self.pause

    def observe(self) -> None:
        self.next = None
        if self.en.value and (self.grant is None or self.grant.value):
            self.reads.append(int(self.addr.value))
            self.next = self.word(self.reads[-1])


class Lender:
    """Lets a unit take credits after random delays; ``taken`` has (id, count)."""

    def __init__(self, dut: Any, name: str = "take", pause: float = 0.5) -> None:
        self.valid, self.ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self.id, self.count = getattr(dut, f"{name}__id"), getattr(dut, f"{name}__count")
        self.pause = pause
        self.taken: list[tuple[int, int]] = []

    def drive(self) -> None:
        self.ready.value = random.random() >= self.pause

    def observe(self) -> None:
        if self.valid.value and self.ready.value:
            self.taken.append((int(self.id.value), int(self.count.value)))


class Giver:
    """Counts the credits that a unit gives; ``given`` has (id, count)."""

    def __init__(self, dut: Any, name: str = "give") -> None:
        self.valid = getattr(dut, f"{name}__valid")
        self.id, self.count = getattr(dut, f"{name}__id"), getattr(dut, f"{name}__count")
        self.given: list[tuple[int, int]] = []

    def drive(self) -> None:
        pass

    def observe(self) -> None:
        if self.valid.value:
            self.given.append((int(self.id.value), int(self.count.value)))
