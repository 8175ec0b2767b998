"""Upsampling heads in QDQ form: every window of a stage a product of what it reads side by side.

The weights are those of the integer network, window by window, so that nothing is rounded that the
accelerator does not round. Between stages a step is 1: each channel's scale is in its weights. What
a window reads is put together from codes, in front of their ``DequantizeLinear``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from moevit.quant.operators.linear import Linear
from moevit.quant.operators.upsampling import Stage, UpsamplingHead, Window

__all__ = ["upsampled"]


class _Graph(Protocol):
    """What of the builder is used."""

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any: ...
    def constant(self, value: Any, kind: Any = np.float32) -> str: ...
    def reshape(self, x: str, *shape: int) -> str: ...
    def qdq(self, x: str, scale: Any, zero: Any, kind: Any, axis: int | None = None) -> str: ...
    def codes(self, x: str, scale: float, zero: int = 0) -> str: ...
    def real(self, codes: str, scale: float, zero: int = 0) -> str: ...
    def linear(
        self,
        path: str,
        x: str,
        layer: Linear,
        out_scale: float,
        in_scale: float = 1.0,
        zero_point: int = 0,
    ) -> str: ...


def upsampled(graph: _Graph, path: str, x: str, head: UpsamplingHead) -> str:
    """Normalised patch tokens ``(B, patches, D)``, in steps, to planes ``(B, C, H, W)``."""
    first, zero = head.stages[0], 0
    x = graph.reshape(x, -1, first.height, first.width, first.channels)
    for n, stage in enumerate(head.stages):
        x = _stage(graph, f"{path}.stages.{n}", graph.codes(x, 1.0, zero), zero, stage)
        zero = stage.zero_point
    last = head.stages[-1]
    out: str = graph.qdq(x, last.linears[0].scale, 0, np.int16)
    return str(graph.add("Transpose", out, perm=[0, 3, 1, 2]))


def _stage(graph: _Graph, path: str, x: str, zero: int, stage: Stage) -> str:
    """Maps ``(B, h, w, C)`` of codes, 0 as ``zero``, to real outputs ``(B, f h, f w, O)``."""
    step = 1.0 if stage.relu else stage.linears[0].scale
    phases: dict[tuple[int, int], dict[int, list[str]]] = {}
    for w, (window, linear) in enumerate(stage.pieces):
        read = graph.real(_read(graph, x, window), 1.0, zero)
        out = graph.linear(f"{path}.windows.{w}", read, linear, step, 1.0, zero)
        lines = phases.setdefault((window.rows.phase, window.columns.phase), {})
        lines.setdefault(window.rows.start, []).append(out)
    maps = {
        phase: _joined(graph, [_joined(graph, line, 2) for line in lines.values()], 1)
        for phase, lines in phases.items()
    }
    return _woven(graph, maps, stage) if stage.doubling else maps[0, 0]


def _read(graph: _Graph, x: str, window: Window) -> str:
    """Codes that a window reads, ``(B, rows, columns, taps * C)``."""
    r, c = window.rows, window.columns
    taps = []
    for y in range(r.start + r.first, r.start + r.first + r.taps):
        for z in range(c.start + c.first, c.start + c.first + c.taps):
            bounds = ([y, z], [y + r.count, z + c.count], [1, 2])
            taps.append(graph.add("Slice", x, *(graph.constant(b, np.int64) for b in bounds)))
    return _joined(graph, taps, 3)


def _joined(graph: _Graph, parts: Sequence[str], axis: int) -> str:
    return parts[0] if len(parts) == 1 else str(graph.add("Concat", *parts, axis=axis))


def _woven(graph: _Graph, maps: dict[tuple[int, int], str], stage: Stage) -> str:
    """The four phases ``(B, h, w, O)`` as one map ``(B, 2 h, 2 w, O)``."""
    height, width, outputs = stage.height, stage.width, stage.outputs
    lines = []
    for y in (0, 1):
        pair = [graph.reshape(maps[y, x], -1, height, width, 1, outputs) for x in (0, 1)]
        joined = graph.add("Concat", *pair, axis=3)
        lines.append(graph.reshape(joined, -1, height, 1, 2 * width, outputs))
    return graph.reshape(graph.add("Concat", *lines, axis=2), -1, 2 * height, 2 * width, outputs)
