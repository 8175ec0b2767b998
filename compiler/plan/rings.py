"""How much of a matrix a GEMM takes at a time: what the weight rings hold."""

from __future__ import annotations

from itertools import pairwise

from moevit.hw.config import AcceleratorConfig

from .layout import Matrix, ceil_div

__all__ = ["split"]


def split(
    matrix: Matrix,
    config: AcceleratorConfig,
    *,
    demand: bool,
    unit: int = 1,
    otiles: range | None = None,
) -> list[range]:
    """Output tiles in groups of multiples of ``unit``, as equal as possible.

    ``otiles``: some of the matrix (default: all).
    A group is what a GEMM holds of a ring until it is done. It gets at most half of the ring, so
    that the next group arrives meanwhile, unless a single unit needs more. Raises ``ValueError``
    where that does not fit the ring at all.
    """
    memory = config.memory
    rows = memory.demand_rows if demand else memory.ring_rows
    params = memory.demand_param_rows if demand else memory.param_rows
    if unit * matrix.depth > rows or unit > params:
        raise ValueError(
            f"A GEMM needs at least {unit * matrix.depth} weight rows and {unit} parameter rows, "
            f"the {'demand' if demand else 'weight'} ring has {rows} and {params}"
        )
    otiles = range(matrix.otiles) if otiles is None else otiles
    units = ceil_div(len(otiles), unit)
    most = max(min(rows // 2 // (unit * matrix.depth), params // 2 // unit), 1)
    groups = ceil_div(units, most)
    edges = [round(units * g / groups) * unit for g in range(groups)] + [len(otiles)]
    return [otiles[a:b] for a, b in pairwise(edges)]
