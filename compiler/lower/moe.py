"""Lowering of a mixture of experts: router, streamed experts, experts on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from moevit.hw.image import BlockHeader
from moevit.hw.isa import Destination, Sync
from moevit.quant.network import Moe

from ..plan.layout import Block, ceil_div
from ..plan.tiling import Span
from .block import gelu_fields
from .context import Context
from .emit import Semaphore, split

__all__ = ["FETCH_AHEAD", "lower_moe"]

FETCH_AHEAD = 8
"""FETCHes that may wait for room at a time, fewer than the weight engine's queue holds."""

_HALVES = (Semaphore.HIDDEN, Semaphore.HIDDEN_ODD)


@dataclass(frozen=True, kw_only=True)
class _Lot:
    """What one FETCH brings, and the GEMMs that use it up."""

    name: str
    expert: int
    block: Callable[[], Block]
    shape: BlockHeader
    run: Callable[[], None]


def lower_moe(
    c: Context,
    index: int,
    moe: Moe,
    span: Span,
    *,
    signal: int,
    credits: int,
    more: bool,
    wait: int = Semaphore.TOKENS,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Router, experts in the schedule's order, and ``credits`` for whoever reads the residual next.

    Streamed experts are interleaved so that an expert's second layer never has to wait for the
    pipeline to finish its first: fc1(0) fc1(1) fc2(0) fc1(2) fc2(1) ... Where hidden activations
    have no room for two experts, they follow one another. ``more``: another router follows (other
    tokens of the layer, another task) that may change the queues only when no FETCH looks at them
    any more. ``wait``: who completes the tokens. ``ready`` adds what experts have to wait for
    behind the router.
    """
    # The next block's router changes them as well.
    more = more or any(isinstance(block.mlp, Moe) for block in c.network.blocks[index + 1 :])
    code, name = c.code, f"block {index}"
    schedule = c.schedules[index]
    gate, ahead = moe.gate, moe.ahead is not None
    first = (span.residual - c.plan.residual.base) // c.shapes.words
    code.gemm(
        c.matrix(f"{name} router {c.task}", moe.routers[c.task]),
        f"{name} router",
        source=c.plan.ahead.base + first * c.shapes.chunks if ahead else span.tokens,
        stride=c.shapes.chunks if ahead else span.stride,
        tokens=span.count,
        mode=Destination.GATE,
        experts=gate.experts,
        shift=moe.window(c.task).start,
        top_k=gate.k,
        renormalise=int(gate.renormalise),
        mult=gate.least,
        wait=Semaphore.NONE if ahead else wait,
        signal=Semaphore.ROUTED,
    )
    if ahead and wait:  # the experts read any token
        tiles = ceil_div(span.count, c.config.array.tokens)
        code.add(Sync(wait=Semaphore.TOKENS, wait_count=tiles), f"{name} tokens complete")
    fetchable = {"signal": Semaphore.FETCHABLE, "count": 1} if schedule.on_demand else {}
    code.add(Sync(wait=Semaphore.ROUTED, wait_count=1, **fetchable), f"{name} queues complete")
    ready()

    lots = [lot for e in schedule.on_demand for lot in _lots(c, index, moe, e, span)]
    fetches = _Fetches(c, lots, signal=Semaphore.FETCHED if more else 0)
    fetches.issue(0)
    layers = [_Expert(c, index, moe, e, span) for e in schedule.streamed]
    overlap = c.plan.tiling.halves - 1
    for n, expert in enumerate(layers):
        if n == 0 or not overlap:
            expert.first()
        if overlap and n + 1 < len(layers):
            layers[n + 1].first()
        expert.second()
    for n, lot in enumerate(lots):
        lot.run()
        fetches.issue(n + 1)
    if credits:
        code.add(Sync(signal=signal, count=credits), f"{name} experts complete")
    if more and lots:
        code.add(Sync(wait=Semaphore.FETCHED, wait_count=1), f"{name} queues no longer needed")


class _Fetches:
    """Issues FETCHes as early as is safe.

    A FETCH waits in the weight engine until the demand rings have room. Instructions are handed out
    in order, so FETCHes that wait for room must not fill their queue and keep back the GEMMs that
    would make room: at most ``FETCH_AHEAD`` lots are fetched and not yet used in program order,
    unless they fit the rings together.
    """

    def __init__(self, c: Context, lots: list[_Lot], *, signal: int) -> None:
        self.c, self.lots, self.next, self.signal = c, lots, 0, signal

    def issue(self, used: int) -> None:
        """Lots before ``used`` have their GEMMs in the program."""
        memory = self.c.config.memory
        room = (memory.demand_param_rows, memory.demand_rows)
        while self.next < len(self.lots):
            lots = [lot.shape for lot in self.lots[used : self.next + 1]]
            held = [(shape.param_rows, shape.weight_rows) for shape in lots]
            if len(held) > FETCH_AHEAD and any(sum(r[n] for r in held) > room[n] for n in (0, 1)):
                return
            lot = self.lots[self.next]
            first = {"wait": Semaphore.FETCHABLE, "wait_count": 1} if self.next == 0 else {}
            self.next += 1
            signal = self.signal if self.next == len(self.lots) else 0
            self.c.code.fetch(
                lot.name, lot.block, lot.shape, queue=lot.expert, signal=signal, **first
            )


class _Expert:
    """The GEMMs of one expert; even and odd experts have a half of ``work`` each, or share it."""

    def __init__(
        self, c: Context, index: int, moe: Moe, expert: int, span: Span, *, demand: bool = False
    ) -> None:
        self.c, self.expert = c, expert
        mlp = moe.experts[expert]
        half = c.schedules[index].order.index(expert) % c.plan.tiling.halves
        name = f"block {index} expert {expert}"
        self.names = (f"{name} fc1", f"{name} fc2")
        self.matrices = (c.matrix(self.names[0], mlp.fc1), c.matrix(self.names[1], mlp.fc2))
        pitch = c.shapes.hidden_chunks(mlp.fc1.shape[0])
        hidden = span.work + half * c.plan.hidden_pitch
        queue = {"use_queue": 1, "queue": expert, "demand": int(demand)}
        self.fields = (
            {
                **queue,
                **gelu_fields(mlp.gelu),
                "source": span.tokens,
                "stride": span.stride,
                "gather": 1,
                "target": hidden,
                "target_stride": pitch,
            },
            {
                **queue,
                "mode": Destination.EXPERT,
                "source": hidden,
                "stride": pitch,
                "scatter": 1,
                "target": span.residual,
                "target_stride": c.shapes.words,
            },
        )
        self.semaphores = ({"signal": _HALVES[half]}, {"wait": _HALVES[half]})

    def first(self) -> None:
        """Gather the queue's tokens, fill the hidden activations."""
        self._layer(0)

    def second(self) -> None:
        """From the hidden activations to the tokens' residuals, weighted by their scores."""
        self._layer(1)

    def _layer(self, n: int) -> None:
        self.c.code.gemms(self.matrices[n], self.names[n], **self.semaphores[n], **self.fields[n])

    def group(self, layer: int, group: tuple[int, int], *, first: bool, last: bool) -> None:
        """One GEMM of one layer; the first of a layer waits, the last signals."""
        semaphores = {
            name: value
            for name, value in self.semaphores[layer].items()
            if (first if name == "wait" else last)
        }
        self.c.code.gemm(
            self.matrices[layer], self.names[layer], group=group, **semaphores, **self.fields[layer]
        )


def _lots(c: Context, index: int, moe: Moe, expert: int, span: Span) -> list[_Lot]:
    """How an expert is fetched: in one piece if the demand rings hold it, else GEMM by GEMM."""
    layers = _Expert(c, index, moe, expert, span, demand=True)
    memory, name = c.config.memory, f"block {index} expert {expert}"

    def run_all() -> None:
        for n, matrix in enumerate(layers.matrices):
            layers.group(n, (0, matrix.otiles), first=True, last=True)

    def both() -> Block:
        blocks = [m.block(0, m.otiles) for m in layers.matrices]
        return Block(
            params=np.concatenate([b.params for b in blocks]),
            weights=np.concatenate([b.weights for b in blocks]),
            packed=packed,
        )

    packed = all(m.packed for m in layers.matrices)
    params = sum(m.otiles for m in layers.matrices)
    weights = sum(m.otiles * m.depth for m in layers.matrices)
    if params <= memory.demand_param_rows and weights <= memory.demand_rows:
        whole = BlockHeader(param_rows=params, weight_rows=weights, packed=packed)
        return [_Lot(name=name, expert=expert, block=both, shape=whole, run=run_all)]
    lots = []
    for n, matrix in enumerate(layers.matrices):
        groups = split(matrix, c.config, demand=True)
        for group in groups:
            first, last = group == groups[0], group == groups[-1]
            lots.append(
                _Lot(
                    name=f"{layers.names[n]} [{group[0]}:{sum(group)}]",
                    expert=expert,
                    block=partial(matrix.block, *group),
                    shape=BlockHeader(
                        param_rows=group[1],
                        weight_rows=group[1] * matrix.depth,
                        packed=matrix.packed,
                    ),
                    run=partial(layers.group, n, group, first=first, last=last),
                )
            )
    return lots
