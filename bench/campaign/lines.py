"""Which lines of the RTL ran, and which bits changed, in every simulation of a machine.

Verilator counts in the Verilog that `moevit verilog` writes: each line of a combinational process,
and each bit of each signal, up and down. Configurations differ in their Verilog, so a line is named
by what it is of: the component, the signal's line in `hw/`, and its place in the process. A line
that ran in any instance on any machine has run. Everything else in that Verilog is continuous
assignment, registers and memories, which have no lines that could fail to run.
"""

from __future__ import annotations

import re
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from moevit.hw import verilog
from moevit.hw.config import AcceleratorConfig
from moevit.quant.typing import Report, silent
from moevit.sim import cache
from moevit.sim.native_library import build_native

__all__ = ["Branch", "Lines", "build_counting", "read_lines"]

Branch = tuple[str, str, int, str]
"""A line of the Verilog: its component, the `hw/` file and line of the signal that it assigns, its
place in the process, and its text."""


def build_counting(
    config: AcceleratorConfig, *, toggles: bool = False, report: Report = silent
) -> Path:
    """The simulator of ``config`` that counts lines, of plain Verilog; cached.

    ``toggles``: and which bits change, which makes the build three times as long.

    Raises as :func:`moevit.sim.rtl.build_simulator`.
    """
    return build_native(
        _text(config),
        top=verilog.TOP_NAME,
        label=f"coverage {config.hash:016x}",
        coverage=("line", "toggle") if toggles else ("line",),
        report=report,
    )


def _text(config: AcceleratorConfig) -> str:
    return _cached(config, "v", lambda: verilog.generate(config))


def _rtlil(config: AcceleratorConfig) -> str:
    return _cached(config, "il", lambda: verilog.located_rtlil(config))


def _cached(config: AcceleratorConfig, kind: str, make_text: Callable[[], str]) -> str:
    from moevit import hw, quant

    folders = [Path(str(module.__file__)).parent for module in (hw, quant)]
    key = cache.digest(repr(config.to_dict()), kind, cache.source_digest(*folders))

    def make(folder: Path) -> None:
        (folder / "text").write_text(make_text(), encoding="utf-8")

    return (cache.entry("verilog", key, make) / "text").read_text(encoding="utf-8")


@dataclass(kw_only=True)
class Lines:
    """Counts of branches by name, and of toggles by component: bits that changed, and all.

    Sums of several machines' are what any of them has done.
    """

    branches: Tally[Branch] = field(default_factory=Tally)
    seen: set[Branch] = field(default_factory=set)
    toggled: set[tuple[str, str]] = field(default_factory=set)
    toggles: set[tuple[str, str]] = field(default_factory=set)

    def add(self, other: Lines) -> None:
        """Another machine's."""
        self.branches.update(other.branches)
        self.seen |= other.seen
        self.toggled |= other.toggled
        self.toggles |= other.toggles

    @property
    def missing(self) -> list[Branch]:
        """Branches that never ran, in the order of files."""
        return sorted((b for b in self.seen if not self.branches[b]), key=lambda b: (b[1], b[2]))

    @property
    def lines(self) -> tuple[int, int]:
        """Lines that ran, and all."""
        return len(self.seen) - len(self.missing), len(self.seen)


def read_lines(data: Path, config: AcceleratorConfig) -> Lines:
    """What a file of Verilator's counters says of the machine ``config``."""
    places, modules = _places(_text(config), _signals(_rtlil(config)))
    found = Lines()
    for point, count in _points(data):
        kind = point["page"].split("/", 1)[0]
        if kind in ("v_line", "v_branch"):
            for line in _numbers(point.get("S", "")):
                if (branch := places.get(line)) is not None:
                    found.seen.add(branch)
                    found.branches[branch] += count
        elif kind == "v_toggle":
            name = (modules.get(int(point["l"]), ""), point["o"])
            found.toggles.add(name)
            if count:
                found.toggled.add(name)
    return found


def _points(data: Path) -> Iterator[tuple[dict[str, str], int]]:
    """Verilator's records: keys and values between control characters, then the count."""
    for text in data.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"C '(.*)' (\d+)", text)
        if match:
            pairs = (tuple(item.split("\2", 1)) for item in match[1].split("\1") if "\2" in item)
            yield dict(pairs), int(match[2])


def _numbers(text: str) -> Iterator[int]:
    """The lines that a record is of, written as 7,9-11."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _signals(rtlil: str) -> dict[tuple[str, str], str]:
    """From a module and a signal that it assigns to the `hw/` file and line that it comes from."""
    found: dict[tuple[str, str], str] = {}
    module = source = ""
    waiting = False
    for line in rtlil.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "module":
            module = words[1].removeprefix("\\")
        elif words[0] == "attribute" and words[1] == "\\src":
            source = words[2].strip('"')
        elif words[0] == "process":
            waiting = True
        elif waiting and words[0] == "assign":
            found.setdefault((module, words[1].removeprefix("\\")), _short(source))
            waiting = False
    return found


def _short(source: str) -> str:
    """From `hw/` on, or the package's name, whatever the checkout is called."""
    parts = Path(source.split("|")[0]).parts
    for anchor in ("hw", "amaranth"):
        if anchor in parts:
            return "/".join(parts[len(parts) - 1 - parts[::-1].index(anchor) :])
    return source


def _places(
    text: str, signals: dict[tuple[str, str], str]
) -> tuple[dict[int, Branch], dict[int, str]]:
    """Each line of a combinational assignment as a branch, and each line's module."""
    branches: dict[int, Branch] = {}
    modules: dict[int, str] = {}
    module, block, start, target = "", False, 0, ""
    pending: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("module "):
            module = bare.split()[1].split("(")[0].removeprefix("\\")
        modules[number] = _component(module)
        if bare.startswith("always @*"):
            block, start, target, pending = True, number, "", []
        elif block and line == "  end":
            source = signals.get((module, target), "")
            for at, words in pending:
                branches[at] = (_component(module), source, at - start, words)
            block = False
        elif block:
            if not target and (match := re.match(r"\\?(\S+)\s+(\[[^]]*\]\s+)?=", bare)):
                target = match[1]
            if "dump_module" not in bare:
                pending.append((number, _plain(bare)))
    return branches, modules


def _component(module: str) -> str:
    """A module without the numbers that tell instances and ports apart."""
    return re.sub(r"\$\d+|\d+", "", module).strip("._")


def _plain(line: str) -> str:
    """A line of Verilog without the numbers that Yosys gives to unnamed signals and constants."""
    line = re.sub(r"\\?\$\d+\s?", "$", line)
    line = re.sub(r"\d+'[hbd][0-9a-fx]+", "#", line)
    return re.sub(r"\[\d+(:\d+)?\]", "", line).strip()
