"""What came back from Vivado: read, compared with our estimate, and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..parts import RESOURCES
from ..resources import Report
from . import reports
from .reports import Drc, Power, ReportError, TimingPath, TimingReport
from .rtl import ACCELERATOR

__all__ = ["RESULTS", "Judgement", "TimingNotMetError", "judge", "table", "worst_by_block"]

RESULTS = ("moevit.bit", "moevit.hwh", "moevit.xsa")
"""What a build leaves in ``outputs``."""


class TimingNotMetError(RuntimeError):
    """The implementation missed its timing; the message names blocks and slack."""


@dataclass(frozen=True)
class Judgement:
    """Everything that the reports say, and what we had estimated (``None`` without an estimate).

    ``blocks``: resources by block of the accelerator. ``worst``: the worst setup path by block.
    """

    version: str
    used: dict[str, float]
    available: dict[str, float]
    blocks: dict[str, dict[str, float]]
    timing: TimingReport
    worst: dict[str, TimingPath]
    power: Power
    drc: Drc
    estimate: Report | None

    def require_timing(self) -> None:
        """Raises :class:`TimingNotMetError` if any constraint is missed."""
        timing = self.timing
        if timing.met:
            return
        if timing.unclocked:
            raise TimingNotMetError(f"{timing.unclocked} registers have no clock")
        late = sorted((p for p in self.worst.values() if p.slack < 0), key=lambda p: p.slack)
        names = dict.fromkeys(f"{' to '.join(p.blocks)} {p.slack:+.3f}" for p in late)
        where = f"; worst: {', '.join(list(names)[:6])}" if names else ""
        raise TimingNotMetError(
            f"slack is {timing.wns:+.3f} ns (setup), {timing.whs:+.3f} (hold), "
            f"{timing.wpws:+.3f} (pulse width) on {timing.failing} endpoints{where}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        timing, estimate = self.timing, self.estimate
        return {
            "vivado": self.version,
            "used": self.used,
            "available": self.available,
            "blocks": self.blocks,
            "timing": {
                "met": timing.met, "wns_ns": timing.wns, "whs_ns": timing.whs,
                "wpws_ns": timing.wpws, "failing_endpoints": timing.failing,
                "unclocked": timing.unclocked, "periods_ns": timing.periods,
                "worst": {block: path.to_dict() for block, path in self.worst.items()},
            },
            "power": asdict(self.power),
            "drc": asdict(self.drc),
            "estimate": None if estimate is None else _estimated(estimate),
        }  # fmt: skip


def _estimated(report: Report) -> dict[str, Any]:
    return {
        "used": report.uses,
        "blocks": {
            b.name: {**b.uses, "path_ns": b.path.ns if b.path else None} for b in report.blocks
        },
    }


def worst_by_block(timing: TimingReport) -> dict[str, TimingPath]:
    """The setup path with the least slack that begins or ends in each block, worst first."""
    found: dict[str, TimingPath] = {}
    for path in sorted(timing.paths, key=lambda p: p.slack):
        if path.kind == "setup":
            for block in path.blocks:
                found.setdefault(block, path)
    return found


def _by_block(hierarchy: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Resources of the blocks that `moevit resources` counts; a parent without its children."""
    total: dict[str, dict[str, float]] = {}
    for path, amounts in hierarchy.items():
        inside = path.split("/")
        if ACCELERATOR not in inside:
            continue
        # A row is an instance: as the path of a pin of a cell in it.
        block = reports.block_of(f"{path}/cell/pin")
        parent = reports.block_of(f"{path.rpartition('/')[0]}/cell/pin")
        if inside[-1] != ACCELERATOR and block == parent:
            continue  # counted in the row above
        into = total.setdefault(block, dict.fromkeys(RESOURCES, 0.0))
        for resource, amount in amounts.items():
            into[resource] += amount
            if inside[-1] != ACCELERATOR:
                total.setdefault(parent, dict.fromkeys(RESOURCES, 0.0))[resource] -= amount
    return total


def judge(folder: Path, estimate: Report | None) -> Judgement:
    """Read the reports in ``folder`` (a build's ``vivado``).

    Raises
    ------
    ReportError
        If one is missing or cannot be read.
    """
    where = folder / "reports"
    utilisation = reports.read_utilisation(where / "utilization.rpt")
    timing = reports.read_timing(where / "timing.rpt")
    for name in RESULTS:
        if not (folder / "outputs" / name).is_file():
            raise ReportError(f"{folder / 'outputs' / name}: no such file; the build is incomplete")
    return Judgement(
        version=reports.version(where / "utilization.rpt"),
        used=utilisation["used"],
        available=utilisation["available"],
        blocks=_by_block(reports.read_hierarchy(where / "hierarchy.rpt")),
        timing=timing,
        worst=worst_by_block(timing),
        power=reports.read_power(where / "power.rpt"),
        drc=reports.read_drc(where / "drc.rpt"),
        estimate=estimate,
    )


def table(found: Judgement) -> list[tuple[str, ...]]:
    """By block what Vivado took and what we had estimated, the heading first.

    Slack is of the worst path that begins or ends in the block; the estimate's path in ns.
    """
    rows: list[tuple[str, ...]] = [
        ("block", *(f"{r} (est.)" for r in RESOURCES), "slack ns", "est. path ns")
    ]
    guessed = {b.name: b for b in found.estimate.blocks} if found.estimate else {}

    def pair(ours: float | None, theirs: float | None) -> str:
        left = "-" if theirs is None else f"{theirs:g}"
        return left if ours is None else f"{left} ({ours:g})"

    names = sorted(found.blocks.keys() | guessed.keys())
    for name in names:
        block, theirs = guessed.get(name), found.blocks.get(name, {})
        path = found.worst.get(name)
        rows.append(
            (
                name,
                *(pair(block.uses[r] if block else None, theirs.get(r)) for r in RESOURCES),
                f"{path.slack:+.3f}" if path else "-",
                f"{block.path.ns:.2f}" if block and block.path else "-",
            )
        )
    whole = found.estimate.uses if found.estimate else {}
    rows.append(
        ("whole design", *(pair(whole.get(r), found.used[r]) for r in RESOURCES),
         f"{found.timing.wns:+.3f}", "-")
    )  # fmt: skip
    return rows
