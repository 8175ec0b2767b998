"""A memory behind one AXI master for Amaranth's simulator, which checks the protocol as it serves.

Latency, stalls on each channel, interleaving of the beats of different IDs and error responses come
from a seed, so that a failure can be repeated.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BEAT", "AxiMemory", "get", "pulse", "put"]

BEAT = 16


async def put(ctx: Any, stream: Any, payload: Any) -> None:
    """Offers one payload until it is taken."""
    ctx.set(stream.payload, payload)
    ctx.set(stream.valid, 1)
    await ctx.tick().until(stream.ready)
    ctx.set(stream.valid, 0)


async def get(ctx: Any, stream: Any) -> Any:
    """Takes one payload."""
    ctx.set(stream.ready, 1)
    (payload,) = await ctx.tick().sample(stream.payload).until(stream.valid)
    ctx.set(stream.ready, 0)
    return payload


async def pulse(ctx: Any, signal: Any) -> None:
    """1 for one cycle."""
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)


@dataclass
class AxiMemory:
    """``read`` and ``write`` are interfaces of a unit (AxiRead, AxiWrite); either may be absent.

    ``latency``: shortest and longest number of cycles from an address to its first answer.
    ``stall``: probability of withholding a ready or a new valid in a cycle. ``faults``: ranges of
    addresses that answer with an error. Add :meth:`serve_reads` and :meth:`serve_writes` to a
    simulator as background test benches.
    """

    contents: bytearray
    read: Any = None
    write: Any = None
    base: int = 0
    latency: tuple[int, int] = (1, 1)
    stall: float = 0.0
    seed: int = 0
    faults: list[tuple[int, int]] = field(default_factory=list)
    bursts: list[tuple[int, int, int]] = field(default_factory=list)
    """(id, address, beats) of each read burst."""
    write_bursts: list[tuple[int, int]] = field(default_factory=list)
    open_reads: int = 0
    open_writes: int = 0

    def _response(self, address: int) -> int:
        if not self.base <= address <= self.base + len(self.contents) - BEAT:
            return 3
        return 2 if any(low <= address < high for low, high in self.faults) else 0

    @staticmethod
    def _check_burst(address: int, beats: int) -> None:
        if address % BEAT or address // 4096 != (address + beats * BEAT - 1) // 4096:
            raise AssertionError(f"Burst of {beats} beats at {address:#x} is illegal")

    async def serve_reads(self, ctx: Any) -> None:
        """Background test bench of the AR and R channels."""
        axi, rng = self.read, random.Random(self.seed)
        waiting: dict[int, deque] = {id_: deque() for id_ in range(4)}  # [cycle, address, beats]
        cycle, ready, offered, held = 0, 0, None, None
        while True:
            address_channel = (axi.arid, axi.araddr, axi.arlen)
            _, _, valid, *address, taken = await ctx.tick().sample(
                axi.arvalid, *address_channel, axi.rready
            )
            cycle += 1
            if held is not None and (not valid or held != tuple(address)):
                raise AssertionError(f"AR changed before it was accepted: {held} to {address}")
            held = tuple(address) if valid and not ready else None
            if valid and ready:
                id_, at, length = address
                self._check_burst(at, length + 1)
                self.bursts.append((id_, at, length + 1))
                waiting[id_].append([cycle + rng.randint(*self.latency), at, length + 1])
                self.open_reads += 1
            if offered is not None and taken:
                burst = waiting[offered][0]
                burst[1], burst[2] = burst[1] + BEAT, burst[2] - 1
                if burst[2] == 0:
                    waiting[offered].popleft()
                    self.open_reads -= 1
                offered = None
            if offered is None:
                due = [k for k in waiting if waiting[k] and waiting[k][0][0] <= cycle]
                if due and rng.random() >= self.stall:
                    offered = rng.choice(due)
                    _, at, left = waiting[offered][0]
                    low = at - self.base
                    ctx.set(axi.rid, offered)
                    ctx.set(axi.rdata, int.from_bytes(self.contents[low : low + BEAT], "little"))
                    ctx.set(axi.rresp, self._response(at))
                    ctx.set(axi.rlast, left == 1)
            ready = int(rng.random() >= self.stall)
            ctx.set(axi.arready, ready)
            ctx.set(axi.rvalid, offered is not None)

    async def serve_writes(self, ctx: Any) -> None:
        """Background test bench of the AW, W and B channels."""
        axi, rng = self.write, random.Random(self.seed + 1)
        waiting: deque = deque()  # [address, beats, error]
        answers: deque = deque()  # (cycle, response)
        cycle, aw_ready, w_ready, offered = 0, 0, 0, False
        held_aw = held_w = None
        while True:
            sample = await ctx.tick().sample(
                axi.awvalid, axi.awaddr, axi.awlen, axi.wvalid, axi.wdata, axi.wstrb, axi.wlast,
                axi.bready,
            )  # fmt: skip
            _, _, aw_valid, at, length, w_valid, data, strobe, last, taken = sample
            cycle += 1
            if held_aw is not None and (not aw_valid or held_aw != (at, length)):
                raise AssertionError("AW changed before it was accepted")
            if held_w is not None and (not w_valid or held_w != (data, strobe, last)):
                raise AssertionError("W changed before it was accepted")
            held_aw = (at, length) if aw_valid and not aw_ready else None
            held_w = (data, strobe, last) if w_valid and not w_ready else None
            if aw_valid and aw_ready:
                self._check_burst(at, length + 1)
                self.write_bursts.append((at, length + 1))
                waiting.append([at, length + 1, 0])
                self.open_writes += 1
            if w_valid and w_ready:
                if not waiting:
                    raise AssertionError("W beat without a burst")
                burst = waiting[0]
                burst[2] |= self._response(burst[0])
                low = burst[0] - self.base
                for i, byte in enumerate(data.to_bytes(BEAT, "little")):
                    if strobe >> i & 1 and not burst[2]:
                        self.contents[low + i] = byte
                burst[0], burst[1] = burst[0] + BEAT, burst[1] - 1
                if bool(last) != (burst[1] == 0):
                    raise AssertionError(f"wlast is {last} with {burst[1]} beats missing")
                if last:
                    answers.append((cycle + rng.randint(*self.latency), burst[2]))
                    waiting.popleft()
            if offered and taken:
                answers.popleft()
                self.open_writes -= 1
                offered = False
            if not offered and answers and answers[0][0] <= cycle and rng.random() >= self.stall:
                offered = True
                ctx.set(axi.bresp, answers[0][1])
            ctx.set(axi.bvalid, offered)
            aw_ready = int(rng.random() >= self.stall)
            w_ready = int(bool(waiting) and rng.random() >= self.stall)
            ctx.set(axi.awready, aw_ready)
            ctx.set(axi.wready, w_ready)
