"""The memory plan: where everything lies on the chip.

The activation memory has two regions. ``tokens`` holds norm outputs and attention outputs, ``work``
holds, one after another in time, pixel patches, queries, hidden activations and head outputs. What
replaces what is chosen so that engines hardly wait for it: attention outputs take the place of norm
outputs that have been read, a norm's tile lies within tiles of attention outputs that the
projection has read, and two halves of hidden activations let one expert fill one while another is
read from the other. That nothing is overwritten too early does not depend on it: credits are
derived from the words (:mod:`..passes.credits`). Maps of upsampling heads take the place of all.

Where keys and values are there for some heads at a time, attention output of a head replaces its
queries, and the norm output stays until the last head's queries are made. Where even one word for
each token is too much, tokens are streamed (:mod:`.spill`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from moevit.quant.network import Network

from .buffers import Buffers
from .layout import Shapes
from .limits import check_limits
from .maps import HeadMaps, Map, plan_maps
from .spill import Spill, plan_spill
from .tiling import Tiling, even

__all__ = ["MemoryPlan", "Region", "head_maps", "place", "plan_memory"]


@dataclass(frozen=True, kw_only=True)
class Region:
    """``size`` words (or rows) of ``memory`` from ``base`` on."""

    name: str
    memory: str
    base: int
    size: int

    @property
    def end(self) -> int:
        """First word behind the region."""
        return self.base + self.size


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """All regions, and the pitches that follow from them."""

    tiling: Tiling
    tokens: Region
    work: Region
    residual: Region
    keys: Region
    values: Region
    norms: Region
    ahead: Region
    """inputs of gates that read the residual stream in front of their block"""
    scales: Region
    """parameters of the NORMs that make them"""
    hidden_pitch: int
    """activation words from the first half of experts' hidden activations to the second"""
    inputs: Region | None = None
    """norm outputs on their way to attention, where they do not stay on the chip"""
    spill: Spill | None = None
    maps: dict[str, HeadMaps] = field(default_factory=dict)
    """of each task with an upsampling head: its maps take the place of everything else"""

    @property
    def regions(self) -> tuple[Region, ...]:
        """Every region."""
        every: tuple[Region, ...] = (
            self.tokens,
            self.work,
            self.residual,
            self.keys,
            self.values,
            self.norms,
        )
        if self.inputs is not None:
            every += (self.inputs,)
        return every + tuple(r for r in (self.ahead, self.scales) if r.size)

    @property
    def floor(self) -> int:
        """Activation words that all this takes, without maps."""
        return max(region.end for region in self.regions if region.memory == "A")


def plan_memory(network: Network, shapes: Shapes) -> MemoryPlan:
    """Place every buffer; raises ``ValueError`` naming what does not fit and what would hold it."""
    b = Buffers.of(network, shapes)
    check_limits(b)
    plan = _resident(b) or _spilled(b)
    if plan is None:
        raise AssertionError(f"no tiling of a network that fits: {b}")
    maps = head_maps(b, plan, b.config.memory.activation_words)
    if maps is None:
        raise AssertionError(f"no tiles of a head that fits: {b}")
    return replace(plan, maps=maps)


def head_maps(b: Buffers, plan: MemoryPlan, room: int) -> dict[str, HeadMaps] | None:
    """Places of upsampling heads' maps in the first ``room`` words, of which tokens are the first.

    None where not even the smallest tiles fit.
    """
    s, found = b.shapes, {}
    height, width = s.geometry.grid
    first = Map(height=height, width=width, words=s.chunks, base=plan.tokens.base)
    scratch = 0
    if plan.spill is not None:
        at = plan.spill.scratch
        address = at.norm + s.geometry.front * at.norm_pitch
        first = replace(first, words=plan.spill.norm, base=None, address=address)
        scratch = at.size
    for task, head in b.upsampling.items():
        maps = plan_maps(head, s, first, room=room, scratch=scratch)
        if maps is None:
            return None
        found[task] = maps
    return found


def _resident(b: Buffers) -> MemoryPlan | None:
    """Every token's residual and norm output on the chip, or None where they have no room."""
    s, n, memory = b.shapes, b.shapes.tokens, b.config.memory
    unit = b.config.array.tokens
    room = memory.activation_words - n * b.row - b.gate_inputs
    fixed = max(b.pixels, n * s.attention_chunks, b.head, b.map_tile)
    dense = even(n, room // b.hidden, unit) if b.hidden else n
    routed, halves = n, 2
    if b.expert:
        most = {h: min(room // (h * b.expert), b.config.limits.routed) for h in (2, 1)}
        pieces = {h: even(n, m, unit) for h, m in most.items()}
        halves = 2 if pieces[2] == pieces[1] else 1
        routed = pieces[halves]
    if room < fixed or n * s.words > memory.residual_words or not dense or not routed:
        return None
    tiling = Tiling(
        heads=b.heads_at_a_time,
        dense=dense,
        routed=routed,
        halves=halves,
        norms=min(b.norms, memory.norm_rows // s.words - b.scales),
    )
    work = max(fixed, dense * b.hidden, halves * routed * b.expert)
    residual = n * s.words
    return place(b, tiling, tokens=n * b.row, work=work, residual=residual, gate=b.gate_inputs)


def _spilled(b: Buffers) -> MemoryPlan | None:
    """Tokens pass through the chip; see :mod:`.spill`."""
    found = plan_spill(b)
    if found is None:
        return None
    tiling, spill = found
    n = b.shapes.tokens
    # Feed-forward: rows, then hidden activations. Before, in the same place: queries, then inputs.
    tokens = min(tiling.dense, tiling.routed) * spill.row
    queries = spill.queries * n * spill.group
    gate = tiling.routed * b.gate_row
    work = b.config.memory.activation_words - tokens - gate
    plan = place(
        b, tiling, tokens=tokens, work=work, residual=b.config.memory.residual_words, gate=gate
    )
    size = spill.buffers * spill.rows * spill.norm
    inputs = Region(name="inputs of attention", memory="A", base=queries, size=size)
    return replace(plan, inputs=inputs, spill=spill)


def place(
    b: Buffers, tiling: Tiling, *, tokens: int, work: int, residual: int, gate: int
) -> MemoryPlan:
    """Regions of these sizes, one behind the other."""
    s = b.shapes

    def region(name: str, memory: str, size: int, base: int = 0) -> Region:
        return Region(name=name, memory=memory, base=base, size=size)

    keys = tiling.heads * s.key_pitch
    return MemoryPlan(
        tiling=tiling,
        tokens=region("tokens", "A", tokens),
        work=region("work", "A", work, tokens),
        residual=region("residual", "X", residual),
        keys=region("keys", "KV", keys),
        values=region("values", "KV", tiling.heads * s.value_rows, keys),
        norms=region("norm parameters", "N", tiling.norms * s.words),
        ahead=region("gate inputs", "A", gate, tokens + work),
        scales=region("gate scales", "N", b.scales * s.words, tiling.norms * s.words),
        hidden_pitch=tiling.routed * b.expert if tiling.halves == 2 else 0,
    )
