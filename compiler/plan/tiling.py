"""Tiles of a network: how much of it goes through the chip at a time.

What fits as a whole is one tile. The numbers that come out are the same however a network is cut:
tokens are independent of one another everywhere but in attention, and heads are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from .layout import ceil_div, round_up

__all__ = ["Tiling", "cut", "even"]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """What is on the chip at a time.

    ``heads``: attention heads with keys and values. ``dense``, ``routed``: tokens of a dense
    feed-forward part and of a mixture of experts; each has its weights streamed once for so many
    tokens. ``halves``: experts that have hidden activations (1 or 2). ``norms``: norms that have
    their parameters.
    """

    heads: int
    dense: int
    routed: int
    halves: int
    norms: int


def cut(rows: range | int, size: int) -> list[range]:
    """Rows in pieces of ``size``; the last may be shorter."""
    rows = range(rows) if isinstance(rows, int) else rows
    return [rows[n : n + size] for n in range(0, len(rows), size)]


def even(total: int, most: int, unit: int) -> int:
    """Rows of a piece, when ``total`` go in as few pieces as possible, of at most ``most`` each.

    Pieces are multiples of ``unit`` (but for the last, or a single one); 0 if none fits.
    """
    if most >= total:
        return total
    most = most // unit * unit
    if most < 1:
        return 0
    return round_up(ceil_div(total, ceil_div(total, most)), unit)
