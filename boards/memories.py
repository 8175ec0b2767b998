"""The memories of the generated Verilog, as a vendor's synthesis sees them.

Vivado infers a RAM from a template (AMD UG901, "RAM HDL Coding Techniques"). Ours is the simple
dual-port RAM with one clock: a write with an enable in one block, a read with an enable into a
register in another. What follows from it, for every memory of block or ultra RAM:

- no byte writes: a memory of words with a mask is built of banks, each with its own enable;
- the read is registered once; a further register, where there is one, belongs to the pipeline
  behind it, and synthesis may move it into the RAM;
- a word that is written and read in the same cycle is never used, so nothing is said of it.

Tables are never written. Vivado has an attribute of its own for these, ``rom_style``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from moevit.hw.lib.storage import Bank

__all__ = ["VerilogMemory", "markdown", "memories", "vendor_text"]

_MEMORY = re.compile(
    r'^  \(\* ram_style = "(?P<style>\w+)"(?:, rom_style = "\w+")? \*\)\n'
    r"  reg (?:\[(?P<high>\d+):0\] )?(?P<name>\\?\S+) +\[(?P<last>\d+):0\];\n",
    re.M,
)
_ULTRA_WORDS, _BLOCK_WORDS = 4096, 4096


@dataclass(frozen=True)
class VerilogMemory:
    """``depth`` words of ``width`` bits; ``style`` as named to synthesis.

    ``writes``, ``reads``: ports, each with an enable; ``clocked``: whether all reads end in a
    register; ``initialised``: whether it has contents; ``count``: of the same.
    """

    module: str
    name: str
    style: str
    width: int
    depth: int
    writes: int
    reads: int
    clocked: bool
    initialised: bool
    count: int = 1

    @property
    def bank(self) -> Bank:
        """As hw/footprint.py counts it."""
        return Bank(self.width, self.depth, self.count, self.initialised)

    @property
    def template(self) -> str:
        """Name of the template in UG901 that it follows, or an empty string for none.

        Memories of look-up tables and plain logic may be read without a clock.
        """
        if self.style in ("distributed", "registers"):
            return "distributed RAM" if self.writes else "table of logic"
        if not self.clocked or self.writes > 1:
            return ""
        if not self.writes:
            return "ROM" if self.reads == 1 else "dual-port ROM" if self.reads == 2 else ""
        if self.initialised and self.style == "ultra":
            return ""  # ultra RAM has no contents to begin with
        return "simple dual-port RAM, one clock" if self.reads == 1 else ""

    @property
    def cascade(self) -> int:
        """RAMs one behind the other."""
        words = {"ultra": _ULTRA_WORDS, "block": _BLOCK_WORDS}.get(self.style)
        return -(-self.depth // words) if words else 1


def _modules(text: str) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"^module (\\?\S+?)\s*\(.*?^endmodule", text, re.M | re.S):
        yield match[1].removeprefix("\\"), match[0]


def memories(text: str) -> list[VerilogMemory]:
    """Every memory of Yosys's Verilog that names its kind of RAM.

    Raises
    ------
    ValueError
        If one is used in a way that is none of a port's.
    """
    found = []
    for module, body in _modules(text):
        for match in _MEMORY.finditer(body):
            name = match["name"]
            uses = re.findall(rf"^.*(?<![\w$]){re.escape(name)}\s*\[.*$", body, re.M)
            writes = clocked = loose = initial = 0
            for line in uses:
                left, arrow, _ = line.partition("<=")
                if re.match(r"\s*reg ", line):
                    continue
                if arrow and re.search(rf"{re.escape(name)}\s*\[", left):
                    writes += 1
                elif arrow:
                    clocked += 1
                elif re.match(rf"\s*{re.escape(name)}\s*\[\d+\] = ", line):
                    initial += 1
                elif re.match(r"\s*assign ", line):
                    loose += 1
                else:
                    raise ValueError(f"{module}: {name}: no port: {line.strip()}")
            found.append(
                VerilogMemory(
                    module=module,
                    name=name,
                    style=match["style"],
                    width=int(match["high"] or 0) + 1,
                    depth=int(match["last"]) + 1,
                    writes=writes,
                    reads=clocked + loose,
                    clocked=not loose,
                    initialised=initial > 0,
                )
            )
    return found


def vendor_text(text: str, *, ultra: bool) -> str:
    """The same Verilog for Vivado: tables named to it as such, and without ultra RAM where the part
    has none."""
    tables = {(m.module, m.name) for m in memories(text) if not m.writes and m.style == "block"}

    def change(module: str, body: str) -> str:
        def attribute(match: re.Match[str]) -> str:
            style = "block" if match["style"] == "ultra" and not ultra else match["style"]
            rom = ', rom_style = "block"' if (module, match["name"]) in tables else ""
            rest = match[0].partition("\n")[2]
            return f'  (* ram_style = "{style}"{rom} *)\n{rest}'

        return _MEMORY.sub(attribute, body)

    parts, at = [], 0
    for module, body in _modules(text):
        start = text.index(body, at)
        parts += [text[at:start], change(module, body)]
        at = start + len(body)
    return "".join([*parts, text[at:]])


def _grouped(found: list[VerilogMemory]) -> list[VerilogMemory]:
    """Equal ones of a module as one, named without their numbers."""
    groups: dict[VerilogMemory, int] = {}
    for memory in found:
        module = re.sub(r"\$\d+|(?<=port)\d+", "", memory.module)
        plain = re.sub(r"(_?\d+)+(\$\d+)?$", "", memory.name.strip("\\ "))
        key = replace(memory, module=module, name=plain)
        groups[key] = groups.get(key, 0) + 1
    return [replace(memory, count=count) for memory, count in groups.items()]


def markdown(text: str) -> str:
    """A table of the memories of block and ultra RAM, for the docs."""
    head = ("memory", "banks", "words", "bits", "primitive", "ports", "RAMs in a row", "template")
    rows = [head, tuple("---" for _ in head)]
    for m in _grouped(memories(text)):
        if m.style not in ("block", "ultra"):
            continue
        where = m.module.removeprefix("moevit.").removeprefix("core.")
        kind = "ultra RAM" if m.style == "ultra" else "block RAM"
        ports = f"{m.writes} write, {m.reads} read" if m.writes else f"{m.reads} read"
        rows.append(
            (f"{where}.{m.name}", str(m.count), f"{m.depth:,}", str(m.width), kind, ports,
             str(m.cascade), m.template)
        )  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


if __name__ == "__main__":  # python -m moevit.boards.memories moevit.v: the table of docs/build.md
    sys.stdout.write(markdown(Path(sys.argv[1]).read_text()))
