"""Memory behind the output base: scratch, results, and what all tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from moevit.hw.config import BEAT_BYTES

from .all_tasks import AllTasksPlan
from .layout import Shapes, round_up
from .placement import MemoryPlan

__all__ = ["Outside"]


class Result(Protocol):
    """Rows of a result, ``pitch`` bytes each."""

    @property
    def rows(self) -> int: ...
    @property
    def pitch(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Outside:
    """``results``: byte offset of each task's result. ``regions``: each region's first beat.

    ``size``: bytes of all of it.
    """

    results: tuple[int, ...]
    regions: dict[str, int]
    size: int

    @classmethod
    def of(
        cls,
        plan: MemoryPlan,
        shapes: Shapes,
        results: Sequence[Result],
        shared: AllTasksPlan | None,
    ) -> Self:
        """Scratch comes first, then results one behind the other, then what tasks share."""
        maps = plan.maps if shared is None else shared.maps
        scratch = plan.spill.scratch.size if plan.spill else 0
        end = scratch + max((found.scratch for found in maps.values()), default=0)
        regions, found = {"scratch": 0, "results": end}, []
        for result in results:
            found.append(end)
            end += result.rows * result.pitch
        if shared is not None:
            row = shapes.norm_words * shapes.config.array.inputs
            sizes = {"shared residual": 2 * shapes.words * shapes.config.array.outputs}
            if shared.kept is None:
                sizes |= {"shared router input": row, "shared gate input": row}
            for name, pitch in sizes.items():
                regions[name] = end = round_up(end, 64)
                end += shapes.tokens * pitch
        beats = {name: address // BEAT_BYTES for name, address in regions.items()}
        return cls(results=tuple(found), regions=beats, size=end)
