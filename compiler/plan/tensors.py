"""Which tensor lies where: the planner's answers to the lowering, for every way to run a network.

Lowering asks for a tensor by what it is. Here is decided, from the memory plan, whether the chip
holds all of it, or a buffer has some of its rows at a time while the rest is in memory (it is
*streamed*), and in what pieces its rows go.
"""

from __future__ import annotations

from itertools import pairwise
from math import gcd

from moevit.hw.config import BEAT_BYTES
from moevit.quant.network import Mlp, Moe

from ..graph import Memory, Tensor
from .all_tasks import AllTasksPlan
from .layout import Shapes, ceil_div, round_up
from .maps import HeadMaps
from .placement import MemoryPlan
from .spill import Spill
from .tiling import cut

__all__ = ["Tensors", "outside"]

_GROUPS = 8
"""Groups of patch strips that a frame begins with: patch embedding starts after the first."""
_PIECES = 6
"""Pieces of the tokens of a feed-forward part: their LOADs and STOREs, two each, fit the queues."""


class Tensors:
    """Tensors and pieces of one program; ``shared`` is there if it is one of all tasks."""

    def __init__(
        self, plan: MemoryPlan, shapes: Shapes, shared: AllTasksPlan | None = None
    ) -> None:
        self.plan, self.shapes, self.shared = plan, shapes, shared
        self.everyone = range(shapes.tokens)
        self.patches = range(shapes.geometry.front, shapes.tokens)

    @property
    def streamed(self) -> bool:
        """Whether tokens lie in memory and pass through the chip."""
        return self.plan.spill is not None

    @property
    def _spill(self) -> Spill:
        if self.plan.spill is None:
            raise AssertionError("tokens are on the chip")
        return self.plan.spill

    # Pieces ------------------------------------------------------------------------------------
    def strip_batches(self) -> list[list[range]]:
        """Strips of patches that are embedded together; weights come once for each batch."""
        rows, columns = self.shapes.geometry.grid
        if self.streamed:
            return [[strips] for strips in cut(rows, self._spill.strips)]
        tokens = self.shapes.config.array.tokens
        unit = tokens // gcd(tokens, columns)  # strips that make whole tiles
        units = rows // unit
        groups = max(min(units, _GROUPS), 1)
        edges = [round(units * g / groups) * unit for g in range(groups)] + [rows]
        return [[range(a, b) for a, b in pairwise(edges)]]

    def head_groups(self) -> list[range]:
        """Attention heads whose keys and values are on the chip together."""
        return cut(self.shapes.geometry.heads, self.plan.tiling.heads)

    def inputs(self) -> list[range]:
        """Tokens of which keys, values and queries are made at a time."""
        return cut(self.everyone, self._spill.rows) if self.streamed else [self.everyone]

    def chunks(self, mlp: Mlp | Moe) -> list[range]:
        """Tokens that are on the chip together from the projection to the next norm."""
        return cut(self.everyone, self._most(mlp)) if self.streamed else [self.everyone]

    def spans(self, mlp: Mlp | Moe, chunk: range) -> list[range]:
        """Tokens of a chunk that go through the feed-forward part together."""
        return cut(chunk, self._most(mlp))

    def pieces(self, mlp: Mlp | Moe, chunk: range) -> list[range]:
        """Tokens of a chunk that come and go together."""
        if not self.streamed:
            return [chunk]
        size = ceil_div(min(self._most(mlp), self.shapes.tokens), _PIECES)
        return cut(chunk, round_up(size, self.shapes.config.array.tokens))

    def _most(self, mlp: Mlp | Moe) -> int:
        return self.plan.tiling.dense if isinstance(mlp, Mlp) else self.plan.tiling.routed

    # Residuals and norm outputs ----------------------------------------------------------------
    def pixels(self, number: int, patches: range) -> Tensor:
        """Pixels of the patches of group ``number`` of strips."""
        s, offset, rows = self.shapes, 0, range(self.shapes.geometry.patches)
        if self.streamed:
            rows = patches
            offset = number % self._spill.inputs * self._columns() * s.patch_chunks
        region = "activations" if self.streamed else "work"
        return _chip("pixels", region, s.patch_chunks, rows, offset)

    def embedded(self, number: int, tokens: range) -> tuple[Tensor, Tensor]:
        """Residuals and norm outputs of the tokens of group ``number`` of strips."""
        s = self.shapes
        if not self.streamed:
            return self.residual(self.everyone), self.normed(self.everyone)
        p = self._spill
        place = number % p.inputs
        most = s.geometry.front + self._columns()
        words = p.inputs * self._columns() * s.patch_chunks
        return (
            _residual(s.words, tokens, place * most * s.words),
            _chip("norm1", "activations", p.norm, tokens, words + place * most * p.norm),
        )

    def _columns(self) -> int:
        return self._spill.strips * self.shapes.geometry.grid[1]

    def residual(self, chunk: range, task: int = 0) -> Tensor:
        """The residual stream; ``task``: its number among all tasks, from their first router on."""
        if self.streamed:
            return _residual(self.shapes.words, chunk)
        odd = self.shared is not None and self.shared.double and task % 2
        region = "residual of odd tasks" if odd else "residual"
        return _residual(self.shapes.words, self.everyone, region=region)

    def normed(self, chunk: range, pitch: int = 0) -> Tensor:
        """Norm outputs of a feed-forward part, of the next block, or of the last tokens."""
        pitch = pitch or (self._spill.row if self.streamed else self.shapes.chunks)
        rows = chunk if self.streamed else self.everyone
        return _chip("norm outputs", "tokens", pitch, rows)

    def gate_input(self, chunk: range) -> Tensor:
        """What a gate reads of the residuals in front of its block."""
        rows = chunk if self.streamed else self.everyone
        return _chip("gate input", "gate inputs", self.shapes.norm_words, rows)

    def stored_norms(self) -> Tensor | None:
        """Norm outputs in memory, where they do not stay on the chip."""
        return self._scratch("stored norm outputs", "norm")

    def stored_residual(self) -> Tensor | None:
        """Residuals in memory, likewise."""
        return self._scratch("stored residual", "residual")

    def _scratch(self, name: str, kind: str) -> Tensor | None:
        if self.plan.spill is None:
            return None
        at = self.plan.spill.scratch
        start, pitch = getattr(at, kind), getattr(at, f"{kind}_pitch")
        return outside(name, "scratch", pitch, self.everyone, start)

    # Attention ---------------------------------------------------------------------------------
    def input(self, number: int, tokens: range) -> Tensor:
        """Place of the norm outputs of tokens that keys, values and queries are made of."""
        if not self.streamed:
            return self.normed(self.everyone)
        p = self._spill
        offset = number % p.buffers * p.rows * p.norm
        return _chip("norm1", "inputs of attention", p.norm, tokens, offset)

    def queries(self, group: int) -> Tensor:
        """Queries of a group of heads."""
        if self.streamed:
            p, n = self._spill, self.shapes.tokens
            offset = group % p.queries * n * p.group
            return _chip("queries", "activations", p.group, self.everyone, offset)
        return _chip("queries", "work", self.shapes.attention_chunks, self.everyone)

    def head_words(self, heads: range) -> range:
        """Words of a group of heads in rows of queries and attention outputs on the chip."""
        hc = self.shapes.head_chunks
        first = 0 if self.streamed else heads.start * hc
        return range(first, first + len(heads) * hc)

    def attended(self, group: int) -> Tensor:
        """Attention outputs of a group of heads.

        They take the place of norm outputs, which have been read, or of the queries, each of its
        own, where norm outputs are still needed.
        """
        if self.streamed or len(self.head_groups()) > 1:
            return self.queries(group)
        return _chip("attention", "tokens", self.shapes.attention_chunks, self.everyone)

    def attended_rows(self, chunk: range) -> Tensor:
        """Attention outputs of all heads, in front of the projection."""
        if not self.streamed:
            return self.attended(0)
        return _chip("attention", "tokens", self._spill.row, chunk)

    def stored_attention(self) -> Tensor | None:
        """Attention outputs in memory, a row of all groups' heads."""
        return self._scratch("stored attention", "attention")

    def group_words(self) -> int:
        """Words of a group of heads in a row of attention outputs of all heads."""
        return (
            self._spill.group
            if self.streamed
            else (self.plan.tiling.heads * self.shapes.head_chunks)
        )

    # Feed-forward part and heads ---------------------------------------------------------------
    def hidden(self, mlp: Mlp | Moe, span: range, pitch: int, half: int = 0) -> Tensor:
        """Hidden activations of a span; experts have one half or another."""
        offset = self._behind_rows(mlp) + half * self.plan.hidden_pitch
        region = "activations" if self.streamed else "work"
        return _chip(f"hidden {half}", region, pitch, range(len(span)), offset)

    def outputs(self, mlp: Mlp | Moe, pitch: int, rows: range, every: range) -> Tensor:
        """Results of a linear head for ``rows`` of ``every`` row of the result."""
        if self.streamed:
            return _chip("head outputs", "activations", pitch, rows, self._behind_rows(mlp))
        return _chip("head outputs", self._outputs, pitch, every)

    @property
    def _outputs(self) -> str:
        """Region of head outputs: one of its own if the next task's tokens need the place."""
        return "head outputs" if self.shared is not None and self.shared.double else "work"

    def patch_norms(self, chunk: range) -> Tensor:
        """Norm outputs of patches; on the chip the first patch has the first row."""
        if self.streamed:
            return self.normed(chunk)
        return _chip("patches", "tokens", self.shapes.chunks, self.patches)

    def patch_inputs(self) -> list[range]:
        """Patches that are averaged at a time."""
        return cut(self.patches, self._spill.rows) if self.streamed else [self.patches]

    def patch_input(self, number: int, rows: range) -> Tensor:
        """Their place."""
        return self.input(number, rows) if self.streamed else self.patch_norms(rows)

    def mean_rows(self, pitch: int, number: int) -> Tensor:
        """The query of a mean (``number`` 0), the mean (1), and what a head makes of it (2)."""
        s, start = self.shapes, 0
        if self.streamed:
            start = s.config.memory.activation_words - self._spill.mean
        offset = start + number * s.attention_chunks
        region = "activations" if self.streamed else self._outputs
        name = ("query of zeros", "mean", "head outputs")[number]
        return _chip(name, region, pitch, range(1), offset)

    def maps(self, task: str) -> HeadMaps:
        """Where the maps of a task's upsampling head lie."""
        maps = self.plan.maps if self.shared is None else self.shared.maps
        return maps[task]

    def _behind_rows(self, mlp: Mlp | Moe) -> int:
        """Words of a chunk's rows, behind which there is room for what is made of them."""
        return len(self.chunks(mlp)[0]) * self._spill.row if self.streamed else 0

    # All tasks ---------------------------------------------------------------------------------
    def router_input(self, chunk: range) -> Tensor:
        """Norm outputs that the first router of all tasks and its experts read."""
        if self.shared is not None and self.shared.kept is not None:
            return _chip("router input", "router input", self.shapes.norm_words, self.everyone)
        return self.normed(chunk, self.shapes.norm_words)

    def first_gate_input(self, chunk: range) -> Tensor:
        """What that router reads, where it is the residuals in front of the block."""
        if self.shared is not None and self.shared.gate is not None:
            return _chip("gate input", "first gate's input", self.shapes.norm_words, self.everyone)
        return self.gate_input(chunk)


def _chip(name: str, region: str, pitch: int, rows: range, offset: int = 0) -> Tensor:
    return Tensor(
        name=name, memory=Memory.ACTIVATIONS, region=region, pitch=pitch, rows=rows, offset=offset
    )


def _residual(words: int, rows: range, offset: int = 0, region: str = "residual") -> Tensor:
    return Tensor(
        name="residual",
        memory=Memory.RESIDUAL,
        region=region,
        pitch=words,
        rows=rows,
        offset=offset,
    )


def outside(name: str, region: str, pitch: int, rows: range, address: int = 0) -> Tensor:
    """Rows of ``pitch`` bytes in memory."""
    return Tensor(
        name=name,
        memory=Memory.OUTSIDE,
        region=region,
        pitch=pitch // BEAT_BYTES,
        rows=rows,
        offset=address // BEAT_BYTES,
    )
