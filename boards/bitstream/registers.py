"""The accelerator's registers with their descriptions, from hw/registers.py."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from moevit.hw import registers
from moevit.hw.registers import COUNTER_BASE, EXPERT_BASE, Control, Counter, Register, Status

__all__ = ["Field", "RegisterInfo", "descriptions", "register_map"]


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


def descriptions(kind: type[IntEnum]) -> dict[str, str]:
    """The text below each member of an enumeration of hw/registers.py, or an empty one."""
    tree = ast.parse(inspect.getsource(registers))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    body = classes[kind.__name__].body
    found = dict.fromkeys((member.name for member in kind), "")
    for before, after in pairwise(body):
        if isinstance(before, ast.Assign) and isinstance(after, ast.Expr):
            target, text = before.targets[0], after.value
            if isinstance(target, ast.Name) and isinstance(text, ast.Constant):
                found[target.id] = " ".join(str(text.value).split())
    return found


def _fields(kind: type[IntEnum]) -> tuple[Field, ...]:
    texts = descriptions(kind)
    return tuple(Field(member.name, int(member), texts[member.name]) for member in kind)


def _access(text: str) -> str:
    if text.startswith("rw"):
        return "read-write"
    return "write-only" if text.startswith("write") else "read-only"


def register_map(experts: int) -> tuple[RegisterInfo, ...]:
    """All registers by address; ``experts``: as many token counters."""
    fields = {Register.CONTROL: _fields(Control), Register.STATUS: _fields(Status)}
    texts, counted = descriptions(Register), descriptions(Counter)
    found = [
        RegisterInfo(r.name, int(r), _access(texts[r.name]), texts[r.name], fields.get(r, ()))
        for r in Register
    ]
    found += [
        RegisterInfo(c.name, COUNTER_BASE + 4 * int(c), "read-only", counted[c.name])
        for c in Counter
    ]
    text = "tokens sent to an expert in this frame"
    found.append(RegisterInfo("EXPERT", EXPERT_BASE, "read-only", text, count=experts))
    return tuple(found)
