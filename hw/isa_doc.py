"""``docs/isa.md`` from the instruction set itself: ``python -m moevit.hw.isa_doc docs/isa.md``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from dataclasses import fields
from enum import IntEnum
from pathlib import Path

from .isa import INSTRUCTION_BYTES, OPCODES, SEMAPHORES, Destination, Instruction, LoadKind
from .registers import Access, Control, Counter, Error, Register, Status

__all__ = ["render"]


def _source_docs(kind: type) -> dict[str, str]:
    """The string under each member of an enumeration, from its source."""
    lines = inspect.getsource(kind).splitlines()
    docs: dict[str, str] = {}
    name = ""
    for line in lines[2:]:
        text = line.strip()
        if "=" in text and not text.startswith('"'):
            name = text.split("=")[0].strip()
        elif text.startswith('"""') and name:
            docs[name] = text.strip('"')
    return docs


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A table; ``head`` is its first line."""
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return [head, "|" + "---|" * (head.count("|") - 1), *lines, ""]


def _enum(kind: type[IntEnum]) -> list[str]:
    docs = _source_docs(kind) if not hasattr(next(iter(kind)), "meaning") else {}
    return _table(
        "| value | name | meaning |",
        (
            (f"{int(m)}", f"`{m.name}`", str(docs.get(m.name) or getattr(m, "meaning", "")))
            for m in kind
        ),
    )


def _access_docs() -> Iterable[tuple[Access, str]]:
    docs = _source_docs(Access)
    return ((access, docs[access.name]) for access in Access)


def _registers() -> list[str]:
    return _table(
        "| offset | name | access | meaning |",
        (
            (
                f"{int(r):#04x}",
                f"`{r.name}`",
                r.access.value,
                r.meaning + (f"; a multiple of {r.alignment}" if r.alignment else ""),
            )
            for r in Register
        ),
    )


def _instruction(kind: type[Instruction]) -> list[str]:
    doc = inspect.cleandoc(kind.__doc__ or "")
    out = [f"## {kind.OPCODE.name} ({int(kind.OPCODE)})", "", doc, "", "| bits | field | meaning |"]
    out.append("|---|---|---|")
    position = 0
    for f in fields(kind):
        width = f.metadata["width"]
        sign = ", signed" if f.metadata["signed"] else ""
        last = position + width - 1
        where = f"{position}" if width == 1 else f"{position}-{last}"
        out.append(f"| {where} | `{f.name}` | {f.metadata['doc']}{sign} |")
        position += width
    return [*out, ""]


def render() -> str:
    """The page as Markdown."""
    common = inspect.cleandoc(Instruction.__doc__ or "")
    lines = [
        "# Instruction set",
        "",
        "Made by `python -m moevit.hw.isa_doc docs/isa.md` from `hw/isa.py`, `hw/codes.py` and "
        "`hw/registers.py`.",
        "",
        f"An instruction has {INSTRUCTION_BYTES} bytes, little endian; there are {SEMAPHORES} "
        "semaphores (0 is none). `T, I, O`: tokens, inputs, outputs of the array. `A[w]`, `X[w]`: "
        "words of the activation (I int8) and residual (O int16) memories; `KV[r]`: a key/value "
        "row; `W`, `P`: weight and parameter rings.",
        "",
        common,
        "",
    ]
    for kind in OPCODES.values():
        lines += _instruction(kind)
    access = [f"`{a.value}`: {text}" for a, text in _access_docs()]
    lines += ["## Registers (AXI4-Lite, byte offsets)", "", f"{'; '.join(access)}.", ""]
    lines += _registers()
    for title, names in (
        ("Destinations of a GEMM", Destination),
        ("Kinds of LOAD", LoadKind),
        ("Bits of CONTROL", Control),
        ("Bits of STATUS", Status),
        ("Error codes", Error),
        ("Performance counters", Counter),
    ):
        lines += [f"## {title}", "", *_enum(names)]
    return "\n".join(lines).replace("::\n", ":\n").rstrip() + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render())
