"""The proof of a whole program (what it proves, and why that is enough: docs/verification.md)."""

from __future__ import annotations

from collections.abc import Iterator

from moevit.hw.config import BEAT_BYTES
from moevit.hw.image import HEADER_BYTES
from moevit.hw.isa import INSTRUCTION_BYTES

from ..program import ALL, Program
from .accesses import memory_words
from .addresses import Areas, check_fields
from .findings import EntryReport, Finding, Report, Unproven
from .order import order
from .outputs import check_outputs
from .races import races
from .steps import Step, make_steps
from .weights import check_demand, check_stream, check_values

__all__ = ["prove", "verify"]


def verify(program: Program) -> Report:
    """Every entry of ``program``: its findings, none where all is proven."""
    names = [*program.tasks, *([ALL] if program.together else ())]
    return Report(entries=tuple(_Entry(program, name).report() for name in names))


def prove(program: Program) -> None:
    """Raise :class:`UnprovenError` unless every entry of ``program`` is proven."""
    verify(program).require()


class _Entry:
    """One entry under proof."""

    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name, self.config = program, name, program.config
        self.notes = program.entry(name).notes
        self.code = program.instructions(name)
        self.steps: list[Step] = []

    def report(self) -> EntryReport:
        findings = []
        try:
            findings += self.check()
        except Unproven as stop:
            findings.append(stop.finding)
        return EntryReport(
            name=self.name,
            instructions=len(self.code),
            operations=sum(step.operations for step in self.steps),
            findings=tuple(findings),
        )

    def check(self) -> Iterator[Finding]:
        """All properties; those that rest on others only if these hold."""
        program, config = self.program, self.config
        bad = list(check_fields(config, self.code, self.areas()))
        if bad:
            yield from bad
            return
        self.steps = steps = make_steps(config, self.code)
        header, base = program.header(self.name), program.entry(self.name).base
        blocks = program.blocks(self.name)
        yield from check_stream(config, steps, blocks)
        yield from check_values(
            config,
            steps,
            blocks,
            program.memory[base:],
            (header.stream_offset, header.stream_beats),
        )
        yield from check_demand(config, steps)
        yield from check_outputs(config, steps, program, self.name)
        try:
            orders, ledger = order(steps)
        except Unproven as stop:
            yield stop.finding
            return
        sizes = memory_words(config, program.output_bytes)
        yield from races(config, steps, orders, sizes, self.describe)
        yield from ledger.finish()

    def describe(self, index: int) -> str:
        """An instruction in a message: number, mnemonic, note."""
        name = type(self.code[index]).__name__.upper()
        return f"instruction {index} ({name}, {self.notes[index]})"

    def areas(self) -> Areas:
        """What addresses of this entry may point to."""
        program, base = self.program, self.program.entry(self.name).base
        reserved = []
        for name in (*program.tasks, *([ALL] if program.together else ())):
            header, start = program.header(name), program.entry(name).base - base
            size = header.stream_beats * BEAT_BYTES * self.config.memory.ports
            code = start + header.code_offset
            stream = start + header.stream_offset
            reserved += [
                range(start, start + HEADER_BYTES),
                range(code, code + header.code_count * INSTRUCTION_BYTES),
                range(stream, stream + size),
            ]
        return Areas(
            image=program.image.size,
            output=program.output_bytes,
            program=len(program.memory) - base,
            reserved=tuple(reserved),
        )
