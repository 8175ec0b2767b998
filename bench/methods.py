"""Quantisation methods side by side: scores, delta-m and routing agreement, with intervals.

The float model is scored once; every method then runs its integer reference on the same images.
What is found of a method is kept in the cache, so that an interrupted comparison goes on where it
stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moevit import model as model_package
from moevit import quant as quant_package
from moevit.quant.analysis.bootstrap import LEVEL, share
from moevit.quant.errors import UserError
from moevit.quant.float.network import FloatMoe, FloatNetwork
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.ptq.calibrate import Calibration, calibrate
from moevit.quant.ptq.methods import METHODS, about, method
from moevit.quant.typing import Report
from moevit.quantising import make_integers
from moevit.sim import cache
from moevit.workload import Workload

if TYPE_CHECKING:
    from moevit.model.datasets import Example
    from moevit.model.evaluation.tallies import Tallies
    from moevit.model.scenes.render import Sample
    from moevit.quant.ptq.options import Options

__all__ = [
    "BEGIN",
    "END",
    "chosen_methods",
    "compare_methods",
    "compare_options",
    "conditions",
    "markdown",
    "table",
]

BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
FORMATS = {8: "W8A8", 4: "W4A8"}

_BATCH = 20

Routing = dict[tuple[str, int], Any]
"""Chosen experts ``(images, tokens, k)`` by task and MoE layer."""


class _Floats:
    """The float network as a backend that remembers its routing."""

    def __init__(self, network: FloatNetwork) -> None:
        self.network = network
        self.layers = [i for i, b in enumerate(network.blocks) if isinstance(b.mlp, FloatMoe)]
        self.routing: dict[tuple[str, int], list[Any]] = {}
        self._images: Any = None
        self._found: dict[str, Any] = {}

    def __call__(self, images: Any, task: str) -> Any:
        if images is not self._images:
            self._images = images
            self._found = self.network.run(images, observe=self._observe)
        return self.network.planes(self._found[task], task)

    def _observe(self, name: str, rows: Any) -> None:
        if ".routing." in name:
            _, block, _, task = name.split(".", 3)
            chosen = rows.reshape(len(self._images), -1, rows.shape[-1])
            self.routing.setdefault((task, int(block)), []).append(chosen)


class _Integers:
    """The golden model as a backend that remembers its routing."""

    def __init__(self, network: Network) -> None:
        self.golden = Golden(network)
        self.routing: dict[tuple[str, int], list[Any]] = {}
        self._images: Any = None
        self._found: dict[str, Any] = {}

    def __call__(self, images: Any, task: str) -> Any:
        if images is not self._images:
            self._images, self._found = images, self.golden.run_batch(images)
            for name, results in self._found.items():
                for layer, about_layer in enumerate(results[0].routing):
                    chosen = np.stack([result.routing[layer].indices for result in results])
                    self.routing.setdefault((name, about_layer.block), []).append(chosen)
        output = np.stack([result.output for result in self._found[task]])
        return self.golden.dequantise(output, task)


def _joined(routing: dict[tuple[str, int], list[Any]]) -> Routing:
    return {key: np.concatenate(parts) for key, parts in routing.items()}


def chosen_methods(text: str) -> list[str]:
    """The methods in a list separated by commas; `UserError` for an unknown one."""
    if text == "all":
        return list(METHODS)
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names or [text]:
        if name not in METHODS:
            raise UserError(f"--compare: unknown method {name!r}; expected {', '.join(METHODS)}")
    return names


def compare_methods(
    workload: Workload,
    images: Any,
    *,
    methods: Sequence[str],
    scenes: int,
    seed: int = 0,
    report: Report,
) -> dict[str, Any]:
    """Every method at W8A8 and W4A8 on the first ``scenes`` validation images of the workload's
    source.

    ``images`` ``(N, H, W, 3)`` are calibrated on. Returns plain JSON types.
    """
    rows = [
        (FORMATS[bits], name, method(name, expert_bits=bits))
        for bits in FORMATS
        for name in methods
    ]
    return compare_options(workload, images, rows=rows, scenes=scenes, seed=seed, report=report)


def compare_options(
    workload: Workload,
    images: Any,
    *,
    rows: Sequence[tuple[str, str, Options]],
    scenes: int,
    seed: int = 0,
    report: Report,
) -> dict[str, Any]:
    """Like :func:`compare_methods`, of any options: a format and a name for each."""
    from moevit.model.config import KINDS
    from moevit.model.export.float_network import to_float_network

    config = workload.model_config
    for task in config.tasks:
        if task.kind not in KINDS:
            raise UserError(f"--compare: task {task.name} of kind {task.kind} has no score")
    network = to_float_network(workload.model.module)
    chosen, scenes, origin = workload.source.validation(config, scenes)
    folders = (Path(str(p.__file__)).parent for p in (model_package, quant_package))
    key = cache.digest(
        workload.model.content,
        cache.source_digest(*folders),
        np.ascontiguousarray(images).tobytes(),
        json.dumps([origin, scenes, seed]),
    )
    lazy = _Lazy(workload, network, images, seed)
    found = []
    for n, (form, name, options) in enumerate(rows):
        span = 0.85 / len(rows)

        def told(text: str, done: float, n: int = n, span: float = span) -> None:
            report(text, 0.15 + span * (n + done))

        def make(
            folder: Path,
            about_row: tuple[str, str, Options] = (form, name, options),
            told: Report = told,
        ) -> None:
            if lazy.exact is None:
                lazy.prepare(list(chosen), report)
            (folder / "row.json").write_text(json.dumps(lazy.row(*about_row, told)))

        path = cache.entry("methods", cache.digest(key, form, name, str(options)), make)
        found.append(json.loads((path / "row.json").read_text(encoding="utf-8")))
    return {
        "model": config.name,
        "images": scenes,
        "calibration_images": len(images),
        "interval": LEVEL,
        "rows": found,
    }


class _Lazy:
    """What all rows share, made when the first row that is not in the cache asks for it."""

    def __init__(self, workload: Workload, network: FloatNetwork, images: Any, seed: int) -> None:
        self.workload, self.config, self.network = workload, workload.model_config, network
        self.images, self.seed = images, seed
        self.exact: Tallies | None = None
        self.routing: Routing = {}
        self.scenes: list[Sample | Example] = []
        self.calibration: Calibration | None = None

    def prepare(self, scenes: list[Sample | Example], report: Report) -> None:
        from moevit.model.evaluation.tallies import tally

        total = len(scenes)
        self.calibration = calibrate(
            self.network,
            self.images,
            seed=self.seed,
            progress=lambda done: report("calibrating", 0.05 * done / len(self.images)),
        )
        exact = _Floats(self.network)
        self.scenes = scenes
        self.exact = tally(
            exact,
            self.config,
            scenes,
            batch=_BATCH,
            on_progress=lambda done: report(
                f"float model ({done}/{total})", 0.05 + 0.1 * done / total
            ),
        )
        self.routing = _joined(exact.routing)

    def row(self, form: str, name: str, options: Options, report: Report) -> dict[str, Any]:
        from moevit.model.evaluation.tallies import paired, tally

        if self.exact is None or self.calibration is None:
            raise RuntimeError("Rows are made after what they share")
        label, total = f"{form} {name}", len(self.scenes)
        network, _ = make_integers(
            self.workload.model.module,
            self.network,
            self.calibration,
            options,
            seed=self.seed,
            source=self.workload.source,
            report=lambda text, done: report(f"{label}: {text}", 0.5 * done),
        )
        backend, begun = _Integers(network), 0.5 if options.finetune else 0.1
        got = tally(
            backend,
            self.config,
            self.scenes,
            batch=_BATCH,
            on_progress=lambda done: report(
                f"{label} ({done}/{total})", begun + (1 - begun) * done / total
            ),
        )
        return {
            "method": name,
            "format": form,
            **paired(got, self.exact).to_dict(),
            "routing": _agreement(self.routing, _joined(backend.routing)),
        }


def _agreement(exact: Routing, got: Routing) -> dict[str, Any]:
    """Share of tokens with the same experts: over everything, and by task and MoE layer."""
    if not exact:
        return {}
    same = {
        key: np.all(np.sort(exact[key]) == np.sort(got[key]), axis=-1) for key in sorted(exact)
    }  # (images, tokens)
    hits = np.sum([s.sum(axis=1) for s in same.values()], axis=0)
    tokens = np.sum([np.full(len(s), s.shape[1]) for s in same.values()], axis=0)
    tasks: dict[str, dict[str, Any]] = {}
    for (task, block), s in same.items():
        found = share(s.sum(axis=1), np.full(len(s), s.shape[1]))
        tasks.setdefault(task, {})[str(block)] = found.to_dict(4)
    return {"all": share(hits, tokens).to_dict(4), "tasks": tasks}


# Tables ----------------------------------------------------------------------------------------
def markdown(found: dict[str, Any]) -> str:
    """The comparison as Markdown tables, one a format."""
    parts = [conditions(found)]
    for name in dict.fromkeys(row["format"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["format"] == name]
        parts += [f"### {name}", table(rows, "method")]
    lines = [
        f"- `{name}`: {about(name)}"
        for name in dict.fromkeys(row["method"] for row in found["rows"])
    ]
    return "\n\n".join([*parts, "\n".join(lines)])


def conditions(found: dict[str, Any]) -> str:
    """What the rows are scores of."""
    return (
        f"Model `{found['model']}`, {found['images']} validation scenes, calibrated on "
        f"{found['calibration_images']} others. Scores of the golden model, which the RTL equals "
        "bit for bit. In brackets: relative change against float in percent, above 0 is better. "
        f"Intervals hold {found['interval']:.0%} of 1,000 draws of images, float and integer on "
        "the same draw."
    )


def table(rows: Sequence[dict[str, Any]], what: str) -> str:
    """Rows as a Markdown table; ``what`` the first column is."""
    tasks = rows[0]["tasks"]
    heads = [f"{task} {about_task['metric']}" for task, about_task in tasks.items()]
    floats = [f"{about_task['float']:.4f}" for about_task in tasks.values()]
    routed = bool(rows[0]["routing"])
    lines = [[what, *heads, "delta-m, %", "interval", *(["same experts"] if routed else [])]]
    lines.append(["float", *floats, "", "", *([""] if routed else [])])
    for row in rows:
        delta = row["delta_m"]
        cells = [f"{t['integer']:.4f} ({t['change']['value']:+.2f})" for t in row["tasks"].values()]
        line = [row["method"], *cells, f"{delta['value']:+.3f}"]
        line.append(f"{delta['low']:+.3f} .. {delta['high']:+.3f}")
        if routed:
            agreed = row["routing"]["all"]
            line.append(f"{agreed['value']:.2%} ({agreed['low']:.2%} .. {agreed['high']:.2%})")
        lines.append(line)
    text = ["| " + " | ".join(line) + " |" for line in lines]
    text.insert(1, "|---" + "|---:" * (len(lines[0]) - 1) + "|")
    return "\n".join(text)
