"""What 4-bit weights cost in each class of layers: scores and delta-m with intervals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from moevit.quant.ptq.methods import DEFAULT, method
from moevit.quant.ptq.options import CLASSES, NARROW
from moevit.quant.typing import Report
from moevit.workload import Workload

from .methods import compare_options, conditions, table

__all__ = ["BEGIN", "END", "compare_classes", "markdown"]

BEGIN, END = "<!-- classes: begin -->", "<!-- classes: end -->"


def compare_classes(
    workload: Workload, images: Any, *, scenes: int, seed: int = 0, report: Report
) -> dict[str, Any]:
    """The default method with 4-bit weights in one class of layers after the other, and together.

    Parameters and result are those of :func:`~.methods.compare_methods`.
    """
    wide, narrow = method(DEFAULT), method(DEFAULT, expert_bits=4)
    found = [("none", wide)]
    found += [(name, replace(wide, narrow=(name,))) for name in CLASSES]
    found += [
        ("experts", narrow),
        ("experts and " + ", ".join(NARROW), replace(narrow, narrow=NARROW)),
        ("all", replace(narrow, narrow=CLASSES)),
    ]
    rows = [("classes", name, options) for name, options in found]
    return compare_options(workload, images, rows=rows, scenes=scenes, seed=seed, report=report)


def markdown(found: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    return f"{conditions(found)}\n\n{table(found['rows'], 'weights of 4 bits')}"
