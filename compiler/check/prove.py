"""The proof of a whole program (what it proves, and why that is enough: docs/verification.md)."""

from __future__ import annotations

from collections.abc import Iterator

from moevit.hw.checks import code_bytes
from moevit.hw.config import BEAT_BYTES
from moevit.hw.image import HEADER_BYTES

from ..program import ALL, Output, Program, TaskProgram
from .accesses import Access, Memory, accesses, memory_words
from .addresses import Areas, check_fields
from .contents import Contents
from .findings import EntryReport, Finding, Report, Unproven
from .operands import Inputs, used_inputs
from .order import Order, order
from .races import Races
from .steps import Step, make_steps
from .sums import check_sums
from .weights import check_demand, check_stream, check_values

__all__ = ["prove", "verify"]


def verify(program: Program) -> Report:
    """Every entry of ``program``: its findings, none where all is proven."""
    names = [*program.tasks, *([ALL] if program.all_tasks else ())]
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
        findings: list[Finding] = []
        try:
            for finding in self.check():
                findings.append(finding)
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
        blocks, memory = program.blocks(self.name), program.memory[base:]
        stream = (header.stream_offset, header.stream_beats)
        bad = [*check_stream(config, steps, blocks), *check_demand(config, steps)]
        yield from bad
        used: dict[int, Inputs] = {}
        if not bad:
            yield from check_values(config, steps, blocks, memory, stream)
            used = used_inputs(config, steps, blocks, memory, stream)
        yield from check_sums(config, self.code, blocks, memory, stream)
        orders, ledger = order(steps)
        yield from self.accesses(orders, used)
        yield from ledger.finish()

    def accesses(self, orders: list[Order], used: dict[int, Inputs]) -> Iterator[Finding]:
        """Every word that is read or written: its address, its order, its content."""
        config, sizes = self.config, memory_words(self.config, self.program.output_bytes)
        races = Races(sizes=sizes, describe=self.describe)
        contents = Contents(config, sizes, used, self.describe) if used else None
        for step, found in zip(self.steps, orders, strict=True):
            touched = list(accesses(config, step, used.get(step.index)))
            outside = [f for access in touched for f in self.outside(step, access, sizes)]
            yield from outside
            if outside:
                continue
            yield from races.step(step, found, touched)
            if contents:
                yield from contents.step(step, touched)
        if contents:
            for task, output in self.results().items():
                yield from contents.result(task, output)

    def results(self) -> dict[str, Output]:
        """What a caller reads when the frame has ended."""
        entry = self.program.entry(self.name)
        return {self.name: entry.output} if isinstance(entry, TaskProgram) else entry.outputs

    def outside(self, step: Step, access: Access, sizes: dict[Memory, int]) -> Iterator[Finding]:
        """Words that are not there."""
        size, name = sizes[access.memory], access.memory.value
        low, high = int(access.words.min()), int(access.words.max())
        if low < 0 or high >= size:
            yield Finding(
                kind="address",
                message=f"{self.describe(step.index)} touches {name}[{low}..{high}], outside its "
                f"{size} words",
                instructions=(step.index,),
                memory=name,
                words=(low, high),
            )

    def describe(self, index: int) -> str:
        """An instruction in a message: number, mnemonic, note."""
        name = type(self.code[index]).__name__.upper()
        return f"instruction {index} ({name}, {self.notes[index]})"

    def areas(self) -> Areas:
        """What addresses of this entry may point to."""
        program, base = self.program, self.program.entry(self.name).base
        reserved = []
        for name in (*program.tasks, *([ALL] if program.all_tasks else ())):
            header, start = program.header(name), program.entry(name).base - base
            size = header.stream_beats * BEAT_BYTES * self.config.memory.ports
            code = start + header.code_offset
            stream = start + header.stream_offset
            reserved += [
                range(start, start + HEADER_BYTES),
                range(code, code + code_bytes(header.code_count)),
                range(stream, stream + size),
            ]
        return Areas(
            image=program.image.size,
            output=program.output_bytes,
            program=len(program.memory) - base,
            reserved=tuple(reserved),
        )
