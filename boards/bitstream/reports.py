"""What Vivado's text reports say, read by their headings so that versions do not matter.

Layouts: those of reports of 2018.2 to 2024.1 in public repositories, for Zynq UltraScale+ and
Zynq-7000. The utilisation table got a column ``Prohibited`` in 2021; rows are named by family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..parts import RESOURCES
from .rtl import ACCELERATOR

__all__ = [
    "Drc",
    "Power",
    "ReportError",
    "TimingPath",
    "TimingReport",
    "block_of",
    "read_drc",
    "read_hierarchy",
    "read_power",
    "read_timing",
    "read_utilisation",
    "version",
]


class ReportError(ValueError):
    """A report is missing or is not what was expected; the message names the file."""


_ROWS = {
    "LUT": ("CLB LUTs", "Slice LUTs"),
    "FF": ("CLB Registers", "Slice Registers"),
    "DSP": ("DSPs",),
    "BRAM36": ("Block RAM Tile",),
    "URAM": ("URAM",),
}


@dataclass(frozen=True)
class TimingPath:
    """A path of a timing report; ``levels``: of logic; ``blocks``: see :func:`block_of`."""

    slack: float
    kind: str
    start: str
    end: str
    group: str
    delay: float
    levels: int

    @property
    def blocks(self) -> tuple[str, ...]:
        """Blocks at both ends, each once."""
        return tuple(dict.fromkeys((block_of(self.start), block_of(self.end))))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "blocks": list(self.blocks)}


@dataclass(frozen=True)
class TimingReport:
    """Worst slack in ns of setup, hold and pulse width, and the paths that are listed.

    ``unclocked``: registers that no clock reaches, whose timing nobody checked.
    ``periods``: ns by clock.
    """

    wns: float
    whs: float
    wpws: float
    failing: int
    unclocked: int
    periods: dict[str, float]
    paths: tuple[TimingPath, ...]

    @property
    def met(self) -> bool:
        """Whether every constraint holds, and every register has one."""
        return min(self.wns, self.whs, self.wpws) >= 0 and not self.unclocked


@dataclass(frozen=True)
class Power:
    """Watts, and the junction's temperature in degrees Celsius; ``confidence`` as the tool says."""

    total: float
    dynamic: float
    static: float
    junction: float
    confidence: str


@dataclass(frozen=True)
class Drc:
    """Violations by severity, and those that stop a bitstream, as ``rule: description``."""

    violations: dict[str, int]
    errors: tuple[str, ...]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise ReportError(f"{path}: no such report") from None


_T = TypeVar("_T")


def _reader(read: Callable[[str], _T]) -> Callable[[Path], _T]:
    def reader(path: Path) -> _T:
        text = _text(path)
        try:
            return read(text)
        except (ValueError, KeyError, IndexError, StopIteration) as error:
            raise ReportError(f"{path}: is no report that is known ({error})") from None

    reader.__doc__ = read.__doc__
    return reader


def version(path: Path) -> str:
    """Version of the tool that wrote a report, such as 2023.2; raises ``ReportError``."""
    found = re.search(r"^\| Tool Version\s*: Vivado v\.(\S+)", _text(path), re.M)
    if found is None:
        raise ReportError(f"{path}: is no report of Vivado: it does not name a tool version")
    return found[1]


def _tables(text: str) -> Iterator[list[dict[str, str]]]:
    """Tables drawn with + and |, each as rows by heading."""
    heading: list[str] | None = None
    rows: list[dict[str, str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("+--"):
            continue
        if line.startswith("|") and not line.startswith("| --"):
            # A hierarchy's depth is the indent of its first cell.
            cells = [cell[1:].rstrip() for cell in line.strip().strip("|").split("|")]
            if heading is None:
                heading = [cell.strip() for cell in cells]
            elif len(cells) == len(heading):
                rows.append(dict(zip(heading, cells, strict=True)))
        else:
            if heading is not None and rows:
                yield rows
            heading, rows = None, []


def _number(cell: str) -> float:
    return float(cell.strip().strip("<") or 0)


def _utilisation(text: str) -> dict[str, dict[str, float]]:
    used: dict[str, float] = {}
    available: dict[str, float] = {}
    for table in _tables(text):
        if "Used" not in table[0] or "Available" not in table[0]:
            continue
        label = next(iter(table[0]))
        for row in table:
            name = row[label].strip().rstrip("*")
            for resource, names in _ROWS.items():
                if name in names and resource not in used:
                    used[resource] = _number(row["Used"])
                    available[resource] = _number(row["Available"])
    for resource in ("URAM",):  # families without it have no such row
        used.setdefault(resource, 0.0)
        available.setdefault(resource, 0.0)
    missing = [resource for resource in RESOURCES if resource not in used]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    return {
        "used": {r: used[r] for r in RESOURCES},
        "available": {r: available[r] for r in RESOURCES},
    }


def _hierarchy(text: str) -> dict[str, dict[str, float]]:
    table = next(t for t in _tables(text) if "Instance" in t[0])
    names = {
        "LUT": ("Total LUTs",), "FF": ("FFs",), "DSP": ("DSP Blocks", "DSP48 Blocks"),
        "RAMB36": ("RAMB36",), "RAMB18": ("RAMB18",), "URAM": ("URAM",),
    }  # fmt: skip
    columns = {key: next((n for n in ns if n in table[0]), "") for key, ns in names.items()}
    stack: list[tuple[int, str]] = []
    found: dict[str, dict[str, float]] = {}
    for row in table:
        cell = row["Instance"]
        depth, name = len(cell) - len(cell.lstrip()), cell.strip()
        if name.startswith("("):
            continue  # a module's own logic, without its children
        while stack and stack[-1][0] >= depth:
            stack.pop()
        stack.append((depth, name))
        amounts = {k: _number(row[c]) if c else 0.0 for k, c in columns.items()}
        ram = amounts["RAMB36"] + amounts["RAMB18"] / 2
        found["/".join(n for _, n in stack)] = {
            "LUT": amounts["LUT"], "FF": amounts["FF"], "DSP": amounts["DSP"], "BRAM36": ram,
            "URAM": amounts["URAM"],
        }  # fmt: skip
    if not found:
        raise ValueError("no rows")
    return found


_SUMMARY = ("WNS(ns)", "WHS(ns)", "WPWS(ns)", "TNS Failing Endpoints", "THS Failing Endpoints",
            "TPWS Failing Endpoints")  # fmt: skip


def _columns(heading: str, rule: str, line: str) -> dict[str, str]:
    """Cells of a table whose columns are underlined."""
    spans = [m.span() for m in re.finditer(r"-+", rule)]
    names = [heading[a:b].strip() for a, b in spans]
    # Numbers may be wider than their heading, but are set apart by blanks.
    values = re.split(r"\s{2,}", line.strip())
    if len(values) != len(names):
        raise ValueError(f"{len(values)} numbers below {len(names)} headings")
    return dict(zip(names, values, strict=True))


def _timing(text: str) -> TimingReport:
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| Design Timing Summary"))
    at = next(n for n in range(start, len(lines)) if "WNS(ns)" in lines[n])
    row = _columns(lines[at], lines[at + 1], lines[at + 2])
    missing = [name for name in _SUMMARY if name not in row]
    if missing:
        raise ValueError(f"no {', '.join(missing)} in its summary")

    def slack(name: str) -> float:
        return float("inf") if row[name] in ("NA", "inf") else float(row[name])

    failing = sum(
        int(row[name]) for name in _SUMMARY if name.endswith("Endpoints") and row[name] != "NA"
    )
    unclocked = re.search(r"checking no_clock \((\d+)\)", text)
    periods = {
        name: float(period)
        for name, period in re.findall(
            r"^\s*(\S+)\s+\{[\d. ]+\}\s+([\d.]+)\s+[\d.]+\s*$", text, re.M
        )
    }
    return TimingReport(
        wns=slack("WNS(ns)"),
        whs=slack("WHS(ns)"),
        wpws=slack("WPWS(ns)"),
        failing=failing,
        unclocked=int(unclocked[1]) if unclocked else 0,
        periods=periods,
        paths=tuple(_paths(text)),
    )


_PATH = re.compile(
    r"^Slack(?: \((?:MET|VIOLATED)\))?\s*:\s+(?P<slack>-?[\d.]+|inf)(?:ns)?.*?\n"
    r"\s+Source:\s+(?P<start>\S+)\n(?:.*\n)*?"
    r"\s+Destination:\s+(?P<end>\S+)\n(?:.*\n)*?"
    r"(?:\s+Path Group:\s+(?P<group>\S+)\n)?"
    r"\s+Path Type:\s+(?P<kind>\S+).*\n"
    r"(?P<rest>(?:\s+\S.*\n){1,4})",
    re.M,
)


def _paths(text: str) -> Iterator[TimingPath]:
    for match in _PATH.finditer(text):
        rest = match["rest"]
        delay = re.search(r"Data Path Delay:\s+([\d.]+)ns", rest)
        levels = re.search(r"Logic Levels:\s+(\d+)", rest)
        yield TimingPath(
            slack=float(match["slack"]),
            kind=match["kind"].lower(),
            start=match["start"],
            end=match["end"],
            group=match["group"] or "",
            delay=float(delay[1]) if delay else 0.0,
            levels=int(levels[1]) if levels else 0,
        )


def _power(text: str) -> Power:
    cells = dict(re.findall(r"^\| ([^|\n]+?)\s*\| ([^|\n]+?)\s*\|$", text, re.M))

    def watts(name: str) -> float:
        return float(cells[name].split()[0])

    return Power(
        total=watts("Total On-Chip Power (W)"),
        dynamic=watts("Dynamic (W)"),
        static=watts("Device Static (W)"),
        junction=watts("Junction Temperature (C)"),
        confidence=cells["Confidence Level"],
    )


def _drc(text: str) -> Drc:
    if not re.search(r"Violations found:|Report DRC", text):
        raise ValueError("no count of violations")
    violations: dict[str, int] = {}
    errors = []
    for table in _tables(text):
        if "Severity" not in table[0]:
            continue
        for row in table:
            severity = row["Severity"].strip()
            count = int(_number(row.get("Violations", row.get("Checks", "1"))))
            violations[severity] = violations.get(severity, 0) + count
            if severity in ("Error", "Fatal"):
                errors.append(f"{row['Rule'].strip()}: {row['Description'].strip()}")
    return Drc(violations, tuple(errors))


read_utilisation = _reader(_utilisation)
"""``{"used": {resource: amount}, "available": ...}`` of a report of utilisation."""
read_hierarchy = _reader(_hierarchy)
"""``{path of instances: {resource: amount}}`` of a hierarchical report of utilisation."""
read_timing = _reader(_timing)
"""A timing summary with its paths."""
read_power = _reader(_power)
"""The summary of a report of power."""
read_drc = _reader(_drc)
"""Counts of a report of design rules."""


_PIECE = re.compile(r"DSP_\w+|RAM[A-H]\w*|[SD]P")
"""Pieces of a primitive, which stand in its cell: of a DSP slice, of a memory of look-up tables."""


def block_of(pin: str) -> str:
    """The block of the accelerator that a cell's pin is in, named as `moevit resources` does.

    ``.../accelerator/core/compute/array/dot/...`` is ``array.dot``; logic of the core between its
    blocks is ``core``, that of the top ``moevit``; anything outside is named by its cell.
    """
    parts = pin.split("/")
    if ACCELERATOR not in parts:
        return parts[1] if len(parts) > 2 else parts[0]
    inner = parts[parts.index(ACCELERATOR) + 1 : -2]  # without cell and pin
    if inner and _PIECE.fullmatch(parts[-2]):
        inner.pop()
    if not inner:
        return "moevit"
    # As boards/blocks.py cuts: the children of the top, of the core and of the compute engine.
    block = inner.pop(0)
    for parent in ("core", "compute"):
        if block == parent and inner:
            block = inner.pop(0)
    return "array.dot" if [block, *inner[:1]] == ["array", "dot"] else re.sub(r"\$\d+$", "", block)
