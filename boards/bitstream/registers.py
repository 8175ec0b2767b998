"""The accelerator's registers in the terms of IEEE 1685, from hw/registers.py."""

from __future__ import annotations

from dataclasses import dataclass

from moevit.hw.registers import (
    COUNTER_BASE,
    EXPERT_BASE,
    Access,
    Control,
    Counter,
    Register,
    Status,
)

__all__ = ["Field", "RegisterInfo", "register_map"]

_ACCESS = {
    Access.READ_ONLY: "read-only",
    Access.READ_WRITE: "read-write",
    Access.COMMAND: "write-only",
}
_BITS = (Control, Status)
"""Enumerations of bits; others are of values."""


@dataclass(frozen=True)
class Field:
    """A bit of a register."""

    name: str
    bit: int
    description: str


@dataclass(frozen=True)
class RegisterInfo:
    """A 32-bit register; ``access`` as in IEEE 1685; ``count`` of the same in a row."""

    name: str
    offset: int
    access: str
    description: str
    fields: tuple[Field, ...] = ()
    count: int = 1


def _fields(register: Register) -> tuple[Field, ...]:
    for kind in _BITS:
        if register.fields is kind:
            return tuple(Field(bit.name, int(bit), bit.meaning) for bit in kind)
    return ()


def register_map(experts: int) -> tuple[RegisterInfo, ...]:
    """All registers by address; ``experts``: as many token counters."""
    found = [
        RegisterInfo(r.name, int(r), _ACCESS[r.access], r.meaning, _fields(r)) for r in Register
    ]
    found += [
        RegisterInfo(c.name, COUNTER_BASE + 4 * int(c), "read-only", c.meaning) for c in Counter
    ]
    text = "tokens sent to an expert in this frame"
    found.append(RegisterInfo("EXPERT", EXPERT_BASE, "read-only", text, count=experts))
    return tuple(found)
