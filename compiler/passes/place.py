"""Second pass: every tensor gets its words, as the plan has them."""

from __future__ import annotations

from moevit.hw.config import BEAT_BYTES

from ..graph import Graph, Memory
from ..plan.all_tasks import AllTasksPlan
from ..plan.outside import Outside
from ..plan.placement import MemoryPlan

__all__ = ["place"]


def place(
    graph: Graph, plan: MemoryPlan, outside: Outside, shared: AllTasksPlan | None = None
) -> None:
    """Give the graph's regions their first words; ``outside`` are those behind the output base.

    Raises ``AssertionError`` where an operand lies outside its memory, which is a mistake of the
    planner.
    """
    chip = (*plan.regions, *(shared.regions if shared else ()))
    bases = {region.name: region.base for region in chip}
    graph.regions = {"activations": 0, "queues": 0, **outside.regions, **bases}
    memory = graph.config.memory
    graph.sizes = {
        Memory.ACTIVATIONS: memory.activation_words,
        Memory.RESIDUAL: memory.residual_words,
        Memory.KEYS_VALUES: memory.kv_rows,
        Memory.NORMS: memory.norm_rows,
        Memory.QUEUES: 1,
        Memory.OUTSIDE: outside.size // BEAT_BYTES,
    }
    for op in graph.ops:
        for operand in (*op.reads, *op.writes):
            start, size = graph.address(operand), graph.sizes[operand.tensor.memory]
            if start < 0 or start + operand.span() > size:
                raise AssertionError(f"{op.note}: {operand} lies outside its memory")
