"""Lowering of a mixture of experts: router, streamed experts, experts on demand.

Experts follow one another here; :mod:`..passes.order` interleaves them, and fetches ahead.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from moevit.hw.image import BlockHeader
from moevit.hw.isa import Destination, Fetch
from moevit.quant.network import Expert, Moe

from ..graph import Lot, Memory, Op, Operand, Tensor, Weights
from ..plan.layout import Block
from ..plan.rings import split
from .context import Context, hidden_fields

__all__ = ["lower_mixture"]

QUEUES = Tensor(name="queues", memory=Memory.QUEUES, region="queues", pitch=1, rows=range(1))


def lower_mixture(
    c: Context, index: int, moe: Moe, span: range, normed: Tensor, gate: Tensor, residual: Tensor
) -> None:
    """A span of tokens through the experts of the task's schedule."""
    s, words = c.shapes, range(c.shapes.chunks)
    schedule, name = c.schedules[c.task][index], f"block {index}"
    router = c.matrix(f"{name} router {c.task}", moe.routers[c.task])
    c.gemm(
        Weights(matrix=router, otiles=range(router.otiles)),
        (gate if moe.ahead is not None else normed).at(span, words),
        _queues(),
        f"{name} router of {c.task}",
        mode=Destination.GATE,
        experts=moe.gate.experts,
        shift=moe.window(c.task).start,
        top_k=moe.gate.k,
        renormalise=int(moe.gate.renormalise),
        mult=moe.gate.least,
        target=moe.gate.enough,
    )
    for place, number in enumerate(schedule.order):
        expert = moe.experts[number]
        pitch = s.hidden_chunks(expert.fc1.shape[0])
        half = place % c.tensors.plan.tiling.halves
        hidden = c.tensors.hidden(moe, span, pitch, half)
        _Expert(
            c,
            f"{name} expert {number}",
            number,
            expert,
            normed.at(span, words, whole=True),
            hidden.at(hidden.rows, whole=True),
            residual.at(span, whole=True),
        ).lower(fetched=number in schedule.on_demand)


def _queues() -> Operand:
    return QUEUES.at(QUEUES.rows, whole=True)


class _Expert:
    """One expert: tokens of its queue to hidden activations, and those onto the residuals."""

    def __init__(
        self,
        c: Context,
        name: str,
        number: int,
        mlp: Expert,
        tokens: Operand,
        hidden: Operand,
        residual: Operand,
    ) -> None:
        self.c, self.name, self.number = c, name, number
        self.names = (f"{name} fc1", f"{name} fc2")
        self.matrices = (c.matrix(self.names[0], mlp.fc1), c.matrix(self.names[1], mlp.fc2))
        self.operands = ((tokens, hidden), (hidden, residual))
        self.fields = (
            {**hidden_fields(mlp.hidden), "gather": 1},
            {"mode": int(Destination.EXPERT), "scatter": 1},
        )

    def lower(self, *, fetched: bool) -> None:
        """Its products, of weights from the stream or of FETCHes."""
        config = self.c.shapes.config
        parts = [split(m, config, demand=fetched) for m in self.matrices]
        if not fetched:
            for layer in (0, 1):
                for group in parts[layer]:
                    self._product(layer, group)
            return
        whole, memory = self._lot(range(2)), config.memory
        rows = whole.shape
        if rows.param_rows <= memory.demand_param_rows and rows.weight_rows <= memory.demand_rows:
            self._fetch(whole)
            for layer, matrix in enumerate(self.matrices):
                self._product(layer, range(matrix.otiles), whole)
            return
        for layer in (0, 1):
            for group in parts[layer]:
                lot = self._lot(range(layer, layer + 1), group)
                self._fetch(lot)
                self._product(layer, group, lot)

    def _product(self, layer: int, group: range, lot: Lot | None = None) -> None:
        source, target = self.operands[layer]
        op = self.c.gemm(
            Weights(matrix=self.matrices[layer], otiles=group, fresh=lot is None),
            source,
            target,
            self.names[layer],
            use_queue=1,
            demand=int(lot is not None),
            **self.fields[layer],
        )
        op.queue, op.lot, op.reads = self.number, lot, (source, _queues())

    def _lot(self, layers: range, group: range | None = None) -> Lot:
        """A FETCH's rows: both layers whole, or a group of output tiles of one."""
        chosen = [
            Weights(matrix=m, otiles=group or range(m.otiles))
            for m in self.matrices[layers.start : layers.stop]
        ]
        name = self.name
        if group is not None:
            name = f"{self.names[layers.start]} [{group.start}:{group.stop}]"
        return Lot(
            name=name,
            shape=BlockHeader(
                param_rows=sum(len(w.otiles) for w in chosen),
                weight_rows=sum(len(w.otiles) * w.matrix.depth for w in chosen),
                packed=all(w.matrix.packed for w in chosen),
            ),
            block=partial(_block, chosen),
        )

    def _fetch(self, lot: Lot) -> None:
        config = self.c.shapes.config
        self.c.graph.table(lot.name, lambda: lot.block().striped(config, header=False))
        fields = {
            "param_rows": lot.shape.param_rows,
            "weight_rows": lot.shape.weight_rows,
            "packed": int(lot.shape.packed),
        }
        self.c.graph.add(
            Op(
                kind=Fetch,
                note=lot.name,
                reads=(_queues(),),
                fields=fields,
                queue=self.number,
                table=lot.name,
                lot=lot,
            )
        )


def _block(chosen: list[Weights]) -> Block:
    blocks = [w.block() for w in chosen]
    return Block(
        params=np.concatenate([b.params for b in blocks]),
        weights=np.concatenate([b.weights for b in blocks]),
        packed=all(b.packed for b in blocks),
    )
