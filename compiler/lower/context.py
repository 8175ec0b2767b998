"""What every lowering pass needs to know about the network, the device and where things lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from moevit.hw.config import AcceleratorConfig
from moevit.hw.isa import Norm
from moevit.quant.network import Head, Network
from moevit.quant.operators.layernorm import LayerNorm
from moevit.quant.operators.linear import Linear
from moevit.quant.operators.rescale import Rescale
from moevit.quant.operators.upsampling import UpsamplingHead

from ..plan.layout import Ints, Matrix, Shapes, head_index, pack_linear, patch_index
from ..plan.placement import MemoryPlan
from ..plan.schedule import ExpertSchedule
from ..plan.tiling import Span, cut
from .emit import Code, split

__all__ = ["Context"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """One task of a network on its way into ``code``; a network's tasks share ``packed``.

    ``output``: byte offset of the result in the output area. ``stored``: semaphore that gets a
    credit when the result is in memory.
    """

    network: Network
    task: str
    config: AcceleratorConfig
    shapes: Shapes
    plan: MemoryPlan
    schedules: dict[int, ExpertSchedule]
    code: Code
    packed: dict[str, Matrix] = field(default_factory=dict)
    output: int = 0
    stored: int = 0

    @property
    def final_norm(self) -> LayerNorm | Rescale | None:
        """The norm behind the last block: the task's own, or the network's."""
        return self.network.final_norm(self.task)

    @property
    def linear_head(self) -> Head | None:
        """The task's head, if it is a linear one."""
        head = self.network.heads.get(self.task)
        return head if isinstance(head, Head) else None

    @property
    def upsampling(self) -> UpsamplingHead | None:
        """The task's head, if it is of that kind."""
        head = self.network.heads.get(self.task)
        return head if isinstance(head, UpsamplingHead) else None

    def matrix(
        self,
        name: str,
        linear: Linear,
        *,
        outputs: Ints | None = None,
        inputs: Ints | None = None,
        otiles: int = 0,
    ) -> Matrix:
        """The packed rows of a layer, packed once per ``name``."""
        return self._once(
            name,
            lambda: pack_linear(linear, self.config, outputs=outputs, inputs=inputs, otiles=otiles),
        )

    def patch_matrix(self) -> Matrix:
        """The patch embedding: its inputs in padded pixel rows."""
        inputs = patch_index(self.shapes)
        return self.matrix("patch embedding", self.network.patch_embed, inputs=inputs)

    def head_outputs(self, name: str, linear: Linear) -> Matrix:
        """A query, key or value layer: its outputs in padded heads."""
        return self._once(
            name,
            lambda: pack_linear(
                linear,
                self.config,
                outputs=head_index(self.shapes),
                otiles=self.shapes.geometry.heads * self.shapes.head_otiles,
            ),
        )

    def head_groups(self, matrix: Matrix, heads: tuple[int, int]) -> list[tuple[int, int]]:
        """Output tiles of ``heads`` (first, count) in groups of whole heads that fit the ring."""
        unit = self.shapes.head_otiles
        groups = split(matrix, self.config, demand=False, unit=unit, otiles=heads[1] * unit)
        return [(heads[0] * unit + first, count) for first, count in groups]

    def head_inputs(self, name: str, linear: Linear) -> Matrix:
        """The projection: its inputs in padded heads."""
        return self._once(
            name, lambda: pack_linear(linear, self.config, inputs=head_index(self.shapes))
        )

    def grouped_inputs(self, name: str, linear: Linear, heads: int, words: int) -> Matrix:
        """The projection: its inputs in groups of ``heads`` padded heads, ``words`` a group."""
        s, inputs = self.shapes, self.config.array.inputs
        at = head_index(s)
        group, rest = np.divmod(at, heads * s.head_chunks * inputs)
        return self._once(
            name, lambda: pack_linear(linear, self.config, inputs=group * words * inputs + rest)
        )

    def _once(self, name: str, pack: Callable[[], Matrix]) -> Matrix:
        if name not in self.packed:
            self.packed[name] = pack()
        return self.packed[name]

    def spans(self, size: int) -> list[Span]:
        """All tokens, ``size`` at a time, where the resident plan has them."""
        s, plan = self.shapes, self.plan
        return [
            Span(
                count=count,
                tokens=plan.tokens.base + first * s.chunks,
                stride=s.chunks,
                residual=plan.residual.base + first * s.words,
                work=plan.work.base,
            )
            for first, count in cut(s.tokens, size)
        ]

    def norm(
        self,
        norm: LayerNorm | Rescale,
        index: int,
        *,
        first: int = 0,
        tokens: int,
        stride: int = 0,
        skip: int = 0,
        wait: int,
        wait_count: int = 0,
        signal: int,
        note: str,
    ) -> None:
        """NORM ``index``: residual rows ``first ..`` to rows ``first - skip ..`` of ``tokens``."""
        s, stride = self.shapes, stride or self.shapes.chunks
        self.code.add(
            Norm(
                source=self.plan.residual.base + first * s.words,
                words=s.words,
                tokens=tokens,
                target=self.plan.tokens.base + (first - skip) * stride,
                stride=stride,
                params=self.plan.norm_row(index, s.words),
                dim=s.geometry.dim,
                eps=norm.eps if isinstance(norm, LayerNorm) else 0,
                plain=int(isinstance(norm, Rescale)),
                wait=wait,
                wait_count=wait_count,
                signal=signal,
            ),
            note,
        )
