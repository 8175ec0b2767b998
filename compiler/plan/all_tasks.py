"""The plan of a program of all tasks: what they share, and room for two of them at a time.

What the first router and its experts read stays on the chip where there is room for it beside
everything else, or goes to memory. Where the chip has room for two residual streams, and for head
outputs beside what the next task computes, a task begins while results of the one before it are
stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from moevit.quant.network import Moe, Network

from .buffers import Buffers, gates_ahead, head_words
from .layout import Shapes
from .maps import HeadMaps
from .placement import MemoryPlan, Region, head_maps

__all__ = ["AllTasksPlan", "plan_all_tasks"]


@dataclass(frozen=True, kw_only=True)
class AllTasksPlan:
    """Regions beside those of a single task's plan.

    ``kept``: what the first router and its experts read, and ``gate``: what that router reads where
    it is the residual in front of the block; None where memory holds them. ``double``: two tasks'
    residual streams, and ``outputs``, fit the chip. ``maps``: of upsampling heads, in what is left.
    """

    kept: Region | None
    gate: Region | None
    residual: Region | None
    outputs: Region | None
    maps: dict[str, HeadMaps]

    @property
    def double(self) -> bool:
        """Whether residual streams of two tasks have a place."""
        return self.residual is not None

    @property
    def regions(self) -> tuple[Region, ...]:
        """All of them."""
        found = (self.kept, self.gate, self.residual, self.outputs)
        return tuple(region for region in found if region is not None)


def plan_all_tasks(network: Network, shapes: Shapes, plan: MemoryPlan) -> AllTasksPlan:
    """Places; raises ``ValueError`` for a network whose tasks share all or nothing."""
    if not any(isinstance(block.mlp, Moe) for block in network.blocks):
        raise ValueError("All tasks in one run need a block with experts; the network has none")
    buffers, memory = Buffers.of(network, shapes), shapes.config.memory
    nothing = AllTasksPlan(kept=None, gate=None, residual=None, outputs=None, maps=plan.maps)
    if plan.spill is not None:
        return nothing
    end = plan.floor
    rows = shapes.tokens * shapes.norm_words
    first = next(i for i, block in enumerate(network.blocks) if isinstance(block.mlp, Moe))
    kept = Region(name="router input", memory="A", base=end, size=rows)
    ahead = first in gates_ahead(network)
    gate = Region(name="first gate's input", memory="A", base=kept.end, size=rows * ahead)
    if gate.end > memory.activation_words:
        return nothing
    room = memory.activation_words - (gate.end - end)
    maps = head_maps(buffers, plan, room) if plan.maps else {}
    if maps is None:
        return nothing
    if plan.maps:  # they take all that is left
        shift = room - end
        kept, gate = (replace(region, base=region.base + shift) for region in (kept, gate))
    found = replace(nothing, kept=kept, gate=gate if ahead else None, maps=maps)
    widths = [shapes.stored_words(2 * h.linear.shape[0]) for h in network.linear_heads.values()]
    heads = zip(network.linear_heads.values(), widths, strict=True)
    size = max((head_words(head, row, shapes) for head, row in heads), default=0)
    outputs = Region(name="head outputs", memory="A", base=gate.end, size=size)
    other = replace(plan.residual, name="residual of odd tasks", base=plan.residual.end)
    double = (
        network.norm is not None
        and not plan.maps
        and all(task in network.heads for task in network.tasks)
        and outputs.end <= memory.activation_words
        and other.end <= memory.residual_words
    )
    return replace(found, residual=other, outputs=outputs) if double else found
