"""What a check found: the statement that could not be proven, the two instructions, the words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moevit.quant.errors import CheckFailedError

__all__ = ["EntryReport", "Finding", "Report", "UnprovenError"]


class UnprovenError(CheckFailedError):
    """A program that could not be proven, a fault of whoever made it; names the first finding."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A statement about a program that does not hold, or could not be shown to hold.

    ``kind``: the property (``order``, ``credits``, ``deadlock``, ``address``, ``field``,
    ``weights``, ``check``, ``output``, ``undefined``). ``instructions``: their numbers in the
    program, the one that comes too early or reads wrongly first. ``memory``, ``words``: what is in
    dispute (``A``, ``X``, ``KV``, ``N``: words or rows as in docs/isa.md; ``queue``: experts;
    ``output``: beats of 16 bytes from the output base on), first and last word.
    """

    kind: str
    message: str
    instructions: tuple[int, ...] = ()
    memory: str = ""
    words: tuple[int, int] | None = None


class Unproven(Exception):  # noqa: N818  (carries a finding out of a pass, never leaves the package)
    """Ends a pass whose further results would follow from the first."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


@dataclass(frozen=True, kw_only=True)
class EntryReport:
    """One entry of a program (a task, or all of them together): what was looked at and found."""

    name: str
    instructions: int
    operations: int
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """All entries of a program."""

    entries: tuple[EntryReport, ...] = field(default=())

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """(entry, finding), in the order of the file."""
        return [(entry.name, f) for entry in self.entries for f in entry.findings]

    @property
    def proven(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def require(self, what: str = "program") -> None:
        """Raise :class:`UnprovenError` with the first finding and the number of others in
        ``what``."""
        found: Sequence[tuple[str, Finding]] = self.findings
        if found:
            name, first = found[0]
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise UnprovenError(f"{what}: task {name!r}: {first.kind}: {first.message}{more}")
