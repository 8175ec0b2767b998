"""Memory behind the AXI channels of a unit, as agents: random stalls, order and delays, checked.

Reads of different IDs overtake and interleave one another, as AXI allows. A channel that changes
what it offers before it is taken, a burst across 4 KiB and a wrong ``wlast`` fail.
"""

import random
from collections import deque
from typing import Any

from support.agents import Sink

from moevit.hw.config import BEAT_BYTES

__all__ = ["Reads", "Writes"]


class _Channel(Sink):
    """A channel that the unit drives; ``got`` has the tuples of its signals."""

    def __init__(
        self, dut: Any, prefix: str, channel: str, names: tuple[str, ...], pause: float
    ) -> None:
        self.name, self.pause = f"{prefix}{channel}", pause
        self.valid, self.ready = (getattr(dut, f"{self.name}{n}") for n in ("valid", "ready"))
        self.signals = [getattr(dut, f"{self.name}{n}") for n in names]
        self.got: list[Any] = []
        self.held: Any = None

    def offered(self) -> tuple[int, ...]:
        return tuple(int(s.value) for s in self.signals)


def _check_burst(address: int, beats: int) -> None:
    last = address + beats * BEAT_BYTES - 1
    assert address % BEAT_BYTES == 0, f"burst at {address:#x}"
    assert address >> 12 == last >> 12, f"burst of {beats} beats at {address:#x}"


class Reads:
    """AR and R."""

    def __init__(self, dut: Any, prefix: str, contents: bytearray, pause: float = 0.3) -> None:
        self.asked = _Channel(dut, prefix, "ar", ("id", "addr", "len"), pause)
        self.dut, self.prefix, self.contents, self.pause = dut, prefix, contents, pause
        self.open: dict[int, deque[list[int]]] = {0: deque(), 1: deque()}  # id: [address, beats]
        self.offer: int | None = None

    def _set(self, name: str, value: int) -> None:
        getattr(self.dut, f"{self.prefix}r{name}").value = value

    def drive(self) -> None:
        self.asked.drive()
        waiting = [n for n, bursts in self.open.items() if bursts]
        if self.offer is None and waiting and random.random() >= self.pause:
            self.offer = random.choice(waiting)
            address, beats = self.open[self.offer][0]
            data = self.contents[address : address + BEAT_BYTES]
            self._set("id", self.offer)
            self._set("data", int.from_bytes(data, "little"))
            self._set("last", beats == 1)
            self._set("resp", 0)
        self._set("valid", self.offer is not None)

    def observe(self) -> None:
        if self.offer is not None and getattr(self.dut, f"{self.prefix}rready").value:
            burst = self.open[self.offer][0]
            burst[:] = burst[0] + BEAT_BYTES, burst[1] - 1
            if burst[1] == 0:
                self.open[self.offer].popleft()
            self.offer = None
        self.asked.observe()
        for n, address, length in self.asked.got:
            _check_burst(address, length + 1)
            self.open[n].append([address, length + 1])
        self.asked.got.clear()


class Writes:
    """AW, W and B."""

    def __init__(self, dut: Any, prefix: str, contents: bytearray, pause: float = 0.3) -> None:
        self.asked = _Channel(dut, prefix, "aw", ("addr", "len"), pause)
        self.data = _Channel(dut, prefix, "w", ("data", "strb", "last"), pause)
        self.contents, self.pause = contents, pause
        self.bvalid, self.bready = (getattr(dut, f"{prefix}b{n}") for n in ("valid", "ready"))
        self.bresp = getattr(dut, f"{prefix}bresp")
        self.open: deque[list[int]] = deque()
        self.answers, self.offered = 0, False

    def drive(self) -> None:
        self.asked.drive()
        self.data.drive()
        if not self.open:
            self.data.ready.value = 0
        self.offered = self.offered or (self.answers > 0 and random.random() >= self.pause)
        self.bvalid.value = self.offered
        self.bresp.value = 0

    def observe(self) -> None:
        if self.offered and self.bready.value:
            self.answers, self.offered = self.answers - 1, False
        self.data.observe()
        for data, strobe, last in self.data.got:
            burst = self.open[0]
            for n, byte in enumerate(data.to_bytes(BEAT_BYTES, "little")):
                if strobe >> n & 1:
                    self.contents[burst[0] + n] = byte
            burst[:] = burst[0] + BEAT_BYTES, burst[1] - 1
            assert bool(last) == (burst[1] == 0), f"wlast is {last}, {burst[1]} beats are missing"
            if last:
                self.open.popleft()
                self.answers += 1
        self.data.got.clear()
        self.asked.observe()
        for address, length in self.asked.got:
            _check_burst(address, length + 1)
            self.open.append([address, length + 1])
        self.asked.got.clear()
