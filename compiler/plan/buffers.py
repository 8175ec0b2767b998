"""What a network needs room for, in the units of one configuration's memories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from moevit.hw.config import AcceleratorConfig
from moevit.quant.network import Head, Mlp, Moe, Network
from moevit.quant.operators.rescale import Rescale
from moevit.quant.operators.upsampling import UpsamplingHead

from .layout import Shapes, ceil_div
from .maps import least_words, longest_window

__all__ = ["Buffers", "gates_ahead", "head_words"]


def gates_ahead(network: Network) -> dict[int, Rescale]:
    """The mixtures whose gate reads the residual stream in front of the block, by block."""
    found = {i: b.mlp.ahead for i, b in enumerate(network.blocks) if isinstance(b.mlp, Moe)}
    return {index: ahead for index, ahead in found.items() if ahead is not None}


def head_words(head: Head, row: int, s: Shapes) -> int:
    """Activation words of a head's outputs, ``row`` a row, and of what it makes first."""
    if head.mean is not None:
        return s.mean_words + row
    return row * (1 if head.class_token else s.geometry.patches)


@dataclass(frozen=True, kw_only=True)
class Buffers:
    """Sizes that follow from the network alone; activation words unless another unit is named.

    ``pixels``: of all patches. ``hidden``, ``expert``: hidden activations of a token in the widest
    dense part and the widest expert, 0 without one. ``head``, ``head_row``: outputs of the largest
    linear head, and of its widest row. ``map_tile``: the smallest tile of an upsampling head.
    ``norms``: number of norms. ``experts``, ``top_k``: largest. ``depth``: of the longest
    contraction. ``router_rows``: weight rows of the largest router. ``gates``: mixtures whose gate
    reads the residual stream in front of the block. ``entry``: 1 with a norm in front of the
    blocks. ``means``: whether a head reads the mean of the
    patches. ``upsampling``: heads of that kind, whose tiles are planned when the rest has its place
    (:mod:`.maps`).
    """

    shapes: Shapes
    pixels: int
    hidden: int
    expert: int
    head: int
    head_row: int
    map_tile: int
    norms: int
    experts: int
    top_k: int
    depth: int
    router_rows: int
    gates: int
    entry: int
    means: bool
    upsampling: dict[str, UpsamplingHead]

    @property
    def config(self) -> AcceleratorConfig:
        """The configuration."""
        return self.shapes.config

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.shapes.geometry.heads

    @property
    def head_rows(self) -> int:
        """Key and value rows of one attention head."""
        return self.shapes.key_pitch + self.shapes.value_rows

    @property
    def heads_at_a_time(self) -> int:
        """As few groups of heads as the key and value memory allows, of equal size; at least 1."""
        most = max(self.config.memory.kv_rows // self.head_rows, 1)
        return ceil_div(self.heads, ceil_div(self.heads, most))

    @property
    def row(self) -> int:
        """Words of a row of norm outputs; of attention outputs too if all heads go at once."""
        s = self.shapes
        if self.heads_at_a_time == self.heads:
            return max(s.norm_words, s.attention_chunks)
        return s.norm_words

    @property
    def scales(self) -> int:
        """Norms whose parameters are always there: gates' inputs, and that in front of all."""
        return self.gates + self.entry

    @property
    def gate_row(self) -> int:
        """Words of a token of what such a gate reads, 0 without one."""
        return self.shapes.norm_words if self.gates else 0

    @property
    def gate_inputs(self) -> int:
        """The same of all tokens."""
        return self.shapes.tokens * self.gate_row

    @classmethod
    def of(cls, network: Network, s: Shapes) -> Self:
        """Sizes of ``network``."""
        dense = [b.mlp for b in network.blocks if isinstance(b.mlp, Mlp)]
        moes = [b.mlp for b in network.blocks if isinstance(b.mlp, Moe)]
        hidden = max((s.hidden_chunks(m.fc1.shape[0]) for m in dense), default=0)
        expert = max((s.hidden_chunks(e.fc1.shape[0]) for m in moes for e in m.experts), default=0)
        upsampling = {t: h for t, h in network.heads.items() if isinstance(h, UpsamplingHead)}
        heads = [(h, s.stored_words(2 * h.linear.shape[0])) for h in network.linear_heads.values()]
        # A first map in memory has whole beats a pixel.
        pixel = s.norm_words
        logits = max((ceil_div(m.gate.experts, s.config.array.outputs) for m in moes), default=0)
        return cls(
            shapes=s,
            pixels=s.geometry.patches * s.patch_chunks,
            hidden=hidden,
            expert=expert,
            head=max((head_words(h, w, s) for h, w in heads), default=0),
            map_tile=max((least_words(h, s, pixel) for h in upsampling.values()), default=0),
            head_row=max((w for _, w in heads), default=0),
            norms=2 * len(network.blocks)
            + any(network.final_norm(task) is not None for task in network.tasks)
            + any(head.pooled is not None for head in network.linear_heads.values()),
            experts=max((len(m.experts) for m in moes), default=0),
            top_k=max((m.gate.k for m in moes), default=0),
            depth=max(
                *(s.patch_chunks, s.chunks, s.attention_chunks, hidden, expert),
                *(h.tokens * s.chunks for h, _ in heads),
                *(longest_window(h, s, pixel) for h in upsampling.values()),
            ),
            router_rows=logits * s.chunks,
            gates=len(gates_ahead(network)),
            entry=int(network.entry is not None),
            means=any(h.mean is not None for h, _ in heads),
            upsampling=upsampling,
        )
