"""Signals of a design brought out of it, for who watches it in simulation.

The hardware knows nothing of it: the components' own interfaces are looked up in the elaborated
design by their places, and led to one port for each group. Nothing else of the design changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Signal, Value

__all__ = ["Field", "bring_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Bits ``offset`` to ``offset + width - 1`` of a group's port."""

    name: str
    offset: int
    width: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def bring_out(
    fragment: Any, groups: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, Signal], dict[str, list[Field]]]:
    """Adds a signal for each of ``groups`` to an elaborated design.

    Parameters
    ----------
    fragment:
        The design's top, elaborated (``amaranth.hdl.Fragment``).
    groups:
        By the name of the port: the places of its fields by their names. A place is the path of
        a component through ``m.submodules`` and a member of its interface, as in
        ``core.compute.loader:take.valid``.

    Returns
    -------
    The signals, to be made ports, and the fields of each. Fields begin at multiples of 32 bits if
    they do not fit in what is left of a 32-bit word, so that none lies across two unless it is
    wider than one.

    Raises
    ------
    ValueError
        Naming a place that the design does not have.
    """
    signals, layout = {}, {}
    for port, places in groups.items():
        parts: list[Any] = []
        fields: list[Field] = []
        end = 0
        for name, place in places.items():
            value = _find(fragment, place)
            gap = -end % 32
            if 0 < gap < len(value):
                parts.append(Const(0, gap))
                end += gap
            fields.append(Field(name=name, offset=end, width=len(value)))
            parts.append(value)
            end += len(value)
        signals[port] = Signal(end, name=port)
        layout[port] = fields
        fragment.add_statements("comb", signals[port].eq(Cat(*parts)))
    return signals, layout


def _find(fragment: Any, place: str) -> Value:
    path, _, member = place.partition(":")
    at = fragment
    try:
        for name in path.split("."):
            at = at.find_subfragment(name)
        # The component itself is among what was elaborated, whatever a reset or a renaming made
        # of it.
        owners = at.origins[::-1]
        first, *rest = re.findall(r"\w+", member)
        found: Any = next(getattr(owner, first) for owner in owners if hasattr(owner, first))
        for name in rest:
            found = found[int(name)] if name.isdecimal() else getattr(found, name)
    except (NameError, AttributeError, IndexError, StopIteration):
        raise ValueError(f"The design has no {place}") from None
    return Value.cast(found)
