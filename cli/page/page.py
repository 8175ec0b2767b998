"""The page put together: one file, with the charts' library within."""

from __future__ import annotations

import base64
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from moevit.bench.explain import Explanation
from moevit.hw.config import BEAT_BYTES
from moevit.hw.registers import Counter
from moevit.model.config import TOKEN_KINDS
from moevit.version import about, shipped_models

from ..report import write_panel
from .charts import accuracy, costs, memories, traffic
from .experts import expert_maps, queues
from .timeline import timeline

__all__ = ["render"]


@dataclass(kw_only=True)
class _Table:
    rows: list[list[str]]
    head: list[str] = field(default_factory=list)
    about: bool = False


@dataclass(kw_only=True)
class _Section:
    """``chart``: a model of Bokeh, and later its place in the page."""

    id: str
    title: str
    text: str = ""
    image: str = ""
    chart: Any = None
    tables: list[_Table] = field(default_factory=list)


def render(found: Explanation, command: str) -> str:
    """The page; ``command`` made it."""
    sections = [s for s in _sections(found, command) if s.chart or s.image or s.tables]
    drawn = {s.id: s.chart for s in sections if s.chart is not None}
    script, places = components(drawn)
    for section in sections:
        section.chart = Markup(places[section.id]) if section.id in places else ""
    library = Resources(mode="inline", components=["bokeh"]).render_js()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    config = found.workload.config
    return environment.get_template("page.html").render(
        title=f"{found.workload.model_config.name} on {config.name}: {found.image.name}",
        lead="Cycles are simulated, of the accelerator's RTL with the board's memory; times are at "
        f"a target clock of {config.clock_mhz:g} MHz, which no place and route has confirmed. "
        "Drag to zoom, scroll with the wheel, point for details.",
        scripts=Markup(library + script),
        sections=sections,
    )


def _sections(found: Explanation, command: str) -> list[_Section]:
    return [
        _Section(id="tasks", title="Predictions", image=_panel(found)),
        _Section(
            id="timeline", title="Timeline", chart=timeline(found),
            text="A bar is an instruction on a unit, coloured by what it is for. The chart below "
            "adds up what the array does in short times; every cycle by itself is in the trace of "
            "moevit run --trace.",
        ),
        _Section(
            id="costs", title="Where the cycles went", chart=costs(found), tables=[_costs(found)],
            text="What the array did until each part's last instruction had ended; “end” is what "
            "came behind the last of all.",
        ),
        _Section(id="bytes", title="Where the bytes went", chart=traffic(found)),
        _Section(
            id="maps", title="Which expert sees which patch", chart=expert_maps(found),
            text="The number and colour of the expert that each patch's highest score chose; "
            "pointing shows all of them.",
        ),
        _Section(id="queues", title="Experts’ queues and scores", chart=queues(found)),
        _Section(id="accuracy", title="Sensitivity and integer error", chart=accuracy(found)),
        _Section(
            id="memory", title="Memories over time", chart=memories(found),
            text="A box is what an instruction wrote, until it was last read.",
        ),
        _Section(id="about", title="What made this", tables=[_about(found, command)]),
    ]  # fmt: skip


def _panel(found: Explanation) -> str:
    """The panel of all tasks that can be shown, as PNG in base64."""
    if all(outcome.kind in TOKEN_KINDS for outcome in found.outcomes):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panel.png"
        write_panel(path, found.image, found.outcomes, found.workload, "sim")
        return base64.b64encode(path.read_bytes()).decode()


def _costs(found: Explanation) -> _Table:
    head = ["task", "cycles", "estimate", "difference", "ms", "MAC util.", "bytes read",
            "estimate", "bytes written", "misses", "empty queues", "bit exact"]  # fmt: skip
    rows = []
    for cost, outcome in zip(found.costs, found.outcomes, strict=True):

        def count(counter: Counter, of: dict[str, int] = cost.counters) -> int:
            return of[counter.name.lower()]

        made, expected = outcome.performance, cost.expected
        assert made is not None  # the RTL counts
        rows.append([
            cost.task,
            f"{made.cycles:,}",
            f"{expected.cycles:,}",
            f"{expected.cycles / made.cycles - 1:+.1%}",
            f"{made.ms:.3f}",
            f"{made.mac_utilisation:.1%}",
            f"{made.bytes_read:,}",
            f"{expected.bytes_read:,}",
            f"{count(Counter.DATA_WRITE_BEATS) * BEAT_BYTES:,}",
            f"{count(Counter.MISSES):,}",
            f"{count(Counter.EMPTY_QUEUES):,}",
            {True: "yes", False: "NO", None: "-"}[outcome.bit_exact],
        ])  # fmt: skip
    return _Table(head=head, rows=rows)


def _about(found: Explanation, command: str) -> _Table:
    workload, program = found.workload, found.real.program
    config = workload.config
    rows = [
        ["command", command],
        ["version", about()],
        ["model", f"{workload.name}; experts {workload.experts}, method {workload.method}"],
        ["model's configuration", workload.model_config.to_json()],
        ["accelerator", f"{config.name} {config.hash:016x}"],
        ["its configuration", json.dumps(config.to_dict())],
        ["program", f"{len(program.memory):,} bytes, tasks {', '.join(program.tasks)}"],
        ["shipped models", ", ".join(f"{n} sha256 {d}" for n, d in shipped_models().items())],
    ]
    if found.accuracy is not None:
        rows.append(["quantisation", json.dumps(found.accuracy["options"])])
    return _Table(rows=rows, about=True)
