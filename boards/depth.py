"""Longest paths between registers of a mapped netlist, by the rules of thumb of boards/cells.py.

A netlist is a module of Yosys's JSON. Its cells are primitives or modules analysed before, so that
paths through several blocks are found although each was mapped on its own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from .cells import UNCERTAINTY, Arc, Cost, Timing, timing

__all__ = ["Analysis", "Path", "analyse"]


@dataclass(frozen=True)
class Path:
    """From a register, RAM or DSP block to another; ``marks`` are the blocks that it touches."""

    ns: float
    luts: int
    carries: int
    marks: tuple[str, ...]
    start: str
    end: str

    def slack(self, clock_mhz: float) -> float:
        """ns left at this clock; negative if the path is too long."""
        return 1e3 / clock_mhz - UNCERTAINTY - self.ns


@dataclass(frozen=True)
class Analysis:
    """``path``: the longest, ``None`` without any. ``outside``: what the module's ports see."""

    path: Path | None
    outside: Timing


class _Graph:
    """Nodes are the netlist's bits (positive), and one more (negative) where an arc has several
    sources and several targets."""

    def __init__(self, netlist: dict[str, Any], modules: dict[str, Timing]) -> None:
        self.before: dict[int, list[tuple[int, Cost, str]]] = defaultdict(list)
        self.after: dict[int, list[int]] = defaultdict(list)
        self.starts: dict[int, tuple[Cost, str]] = {}
        self.ends: dict[int, tuple[Cost, str, int]] = {}  # and the bit that names it
        self._joins = 0
        known: dict[Any, Timing] = {}
        for cell in netlist["cells"].values():
            kind, wires = cell["type"], cell["connections"]
            if kind.startswith("$"):
                continue  # $scopeinfo and its kin
            ports = {port: len(bits) for port, bits in wires.items()}
            if kind in modules:
                found = modules[kind]
            else:
                key = (kind, *sorted(ports.items()), *map(str, cell["parameters"].values()))
                if kind.startswith(("LUT", "FD")):
                    key = (kind, *ports)
                if key not in known:
                    known[key] = timing(kind, cell["parameters"], ports)
                found = known[key]
            self._add(found, wires)

    def _add(self, cell: Timing, wires: dict[str, list[Any]]) -> None:
        for port, cost in cell.starts.items():
            for bit in wires.get(port, ()):
                if isinstance(bit, int):
                    self.starts[bit] = (cost, cell.mark)
        for port, cost in cell.ends.items():
            for bit in wires.get(port, ()):
                if isinstance(bit, int) and (bit not in self.ends or self.ends[bit][0] < cost):
                    self.ends[bit] = (cost, cell.mark, wires["Q"][0] if "Q" in wires else bit)
        for arc in cell.arcs:
            sources, targets = self._bits(arc.sources, wires), self._bits(arc.targets, wires)
            if len(sources) > 1 and len(targets) > 1:
                self._joins -= 1
                for source in sources:
                    self._edge(source, self._joins, Cost(0.0), "")
                sources = [self._joins]
            for source in sources:
                for target in targets:
                    self._edge(source, target, arc.cost, arc.mark)

    @staticmethod
    def _bits(which: Any, wires: dict[str, list[Any]]) -> list[int]:
        found: list[Any] = []
        for port, bit in which:
            bits = wires.get(port, ())
            found += bits if bit is None else bits[bit : bit + 1]
        return [bit for bit in found if isinstance(bit, int)]

    def _edge(self, source: int, target: int, cost: Cost, mark: str) -> None:
        self.before[target].append((source, cost, mark))
        self.after[source].append(target)

    def order(self) -> list[int]:
        """All nodes with something in front of them, each after what it depends on.

        A loop, which blocks known by whole ports can seem to make, is cut where it closes, seen
        from a path's end.
        """
        done: dict[int, bool] = {}  # False while on the stack
        order: list[int] = []
        cut = []
        for root in (*self.ends, *list(self.before)):
            if root in done or root not in self.before:
                continue
            done[root] = False
            stack = [(root, iter(self.before[root]))]
            while stack:
                node, rest = stack[-1]
                for edge in rest:
                    source = edge[0]
                    if done.get(source) is False:
                        cut.append((node, edge))
                    elif source not in done and source in self.before:
                        done[source] = False
                        stack.append((source, iter(self.before[source])))
                        break
                else:
                    done[node] = True
                    order.append(node)
                    stack.pop()
        for node, edge in cut:
            self.before[node].remove(edge)
        return order

    def reached(self, sources: list[int]) -> set[int]:
        """Nodes behind ``sources``, and these."""
        found, todo = set(sources), list(sources)
        while todo:
            for node in self.after.get(todo.pop(), ()):
                if node not in found:
                    found.add(node)
                    todo.append(node)
        return found


_Arrival = dict[int, tuple[Cost, int | None, str]]
"""By node: latest, from which node, through which kind of block."""


def _arrivals(graph: _Graph, order: list[int], begin: dict[int, tuple[Cost, str]]) -> _Arrival:
    at: _Arrival = {bit: (cost, None, mark) for bit, (cost, mark) in begin.items()}
    for node in order:
        best = at.get(node)
        for source, cost, mark in graph.before[node]:
            if source in at:
                total = at[source][0] + cost
                if best is None or total > best[0]:
                    best = (total, source, mark)
        if best is not None:
            at[node] = best
    return at


def analyse(netlist: dict[str, Any], modules: dict[str, Timing]) -> Analysis:
    """The longest path of ``netlist``, whose cells of a type in ``modules`` are known by ports."""
    graph = _Graph(netlist, modules)
    order = graph.order()
    at = _arrivals(graph, order, graph.starts)
    worst: tuple[Cost, int] | None = None
    for bit, (cost, _, _) in graph.ends.items():
        if bit in at and (worst is None or at[bit][0] + cost > worst[0]):
            worst = (at[bit][0] + cost, bit)
    path = None if worst is None else _trace(netlist, graph, at, *worst)
    return Analysis(path, _outside(netlist, graph, order, at))


def _trace(netlist: dict[str, Any], graph: _Graph, at: _Arrival, cost: Cost, end: int) -> Path:
    _, mark, last = graph.ends[end]
    marks = [mark]
    node: int | None = end
    first = end
    while node is not None:
        _, before, mark = at[node]
        marks.append(mark)
        first, node = node, before
    names: dict[int, str] = {}
    for name, net in netlist["netnames"].items():
        if not net.get("hide_name"):
            for index, bit in enumerate(net["bits"]):
                if bit in (first, last) and (bit not in names or len(name) < len(names[bit])):
                    names[bit] = f"{name}[{index}]" if len(net["bits"]) > 1 else name
    return Path(
        ns=round(cost.ns, 2),
        luts=cost.luts,
        carries=cost.carries,
        marks=tuple(mark for mark in reversed(marks) if mark),
        start=names.get(first, "?"),
        end=names.get(last, "?"),
    )


def _outside(netlist: dict[str, Any], graph: _Graph, order: list[int], at: _Arrival) -> Timing:
    ports = netlist["ports"]
    outputs = {p: v["bits"] for p, v in ports.items() if v["direction"] == "output"}
    inputs = {p: v["bits"] for p, v in ports.items() if v["direction"] == "input"}

    def latest(arrival: _Arrival, bits: list[Any]) -> Cost | None:
        return max((arrival[bit][0] for bit in bits if bit in arrival), default=None)

    starts = {p: cost for p, bits in outputs.items() if (cost := latest(at, bits)) is not None}
    ends: dict[str, Cost] = {}
    arcs = []
    for port, bits in inputs.items():
        begin = {bit: (Cost(0.0), "") for bit in bits if isinstance(bit, int)}
        cone = graph.reached(list(begin))
        through = _arrivals(graph, [node for node in order if node in cone], begin)
        last = [through[b][0] + graph.ends[b][0] for b in cone if b in graph.ends and b in through]
        if last:
            ends[port] = max(last)
        for name, out in outputs.items():
            if (cost := latest(through, out)) is not None:
                arcs.append(Arc(((port, None),), ((name, None),), cost))
    return Timing(starts, ends, tuple(arcs))
