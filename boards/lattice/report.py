"""What nextpnr says of a build: utilisation, the clock that it reaches, the critical path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["ReportError", "judge"]


class ReportError(ValueError):
    """nextpnr's report is missing or cannot be read."""


def judge(report: Path, mhz: float) -> dict[str, Any]:
    """The figures of a report.

    ``used`` and ``available`` by kind of cell; ``reached_mhz``; ``met``; ``path``: the critical
    path of the core's clock, step by step, in ns.

    Raises :class:`ReportError` naming the file.
    """
    try:
        about = json.loads(report.read_text())
    except FileNotFoundError:
        raise ReportError(f"{report}: no such file; nextpnr did not end") from None
    except ValueError as error:
        raise ReportError(f"{report}: is not JSON ({error})") from None
    try:
        kinds = {k: v for k, v in about["utilization"].items() if v["used"]}
        clocks = {name: value["achieved"] for name, value in about["fmax"].items()}
        paths = [p for p in about["critical_paths"] if _within(p)]
        slowest = min(clocks, key=lambda name: clocks[name])
        reached = clocks[slowest]
        worst: dict[str, Any] = max(
            (p for p in paths if _clock(p["from"]) == slowest), key=_length, default={"path": []}
        )
        return {
            "used": {kind: value["used"] for kind, value in kinds.items()},
            "available": {kind: value["available"] for kind, value in kinds.items()},
            "clock_mhz": mhz,
            "reached_mhz": round(reached, 2),
            "met": reached >= mhz,
            "path": [_step(part) for part in worst["path"]],
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(f"{report}: is no report of nextpnr ({error!r})") from None


def _clock(edge: str) -> str:
    """``posedge $glbnet$clk`` without its edge."""
    return edge.split(" ", 1)[-1]


def _within(path: dict[str, Any]) -> bool:
    return "<async>" not in (path["from"], path["to"])


def _length(path: dict[str, Any]) -> float:
    return float(sum(part["delay"] for part in path["path"]))


def _step(part: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": part["type"],
        "ns": round(part["delay"], 3),
        "net": part.get("net", ""),
        "to": part["to"]["cell"],
    }
