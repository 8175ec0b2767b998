"""`moevit quantize --report`: where a network loses accuracy, as images and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moevit.files import atomic_path, write_json
from moevit.quant.analysis.bootstrap import LEVEL
from moevit.quant.analysis.report import Comparison, compare
from moevit.quant.analysis.sensitivity import KINDS, WHOLE, Part, parts, simulate
from moevit.quant.float.network import Edit, FloatNetwork
from moevit.quant.network import Network
from moevit.quant.ptq.layers import Layers
from moevit.quant.typing import Report

if TYPE_CHECKING:
    from moevit.model.config import ModelConfig
    from moevit.model.datasets import Example
    from moevit.model.scenes.render import Sample

__all__ = ["Picture", "draw_report", "measure_report"]


_BATCH = 16
_LOUD, _QUIET = 30, 65
"""Ends of the colours, in decibels: 8 bits everywhere are about 30 at the heads."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """``image`` ``(H, W, 3)`` uint8, of which nothing else is known."""

    image: Any


def measure_report(
    network: FloatNetwork,
    quantised: Network,
    made: Layers,
    config: ModelConfig,
    scenes: Sequence[Sample | Example | Picture],
    report: Report,
) -> dict[str, Any]:
    """Sensitivity of each part and the integers against float, on ``scenes``; plain JSON types.

    ``scenes`` may be mere :class:`Picture`, without a truth: then nothing is scored.

    ``made`` is what the integers of ``quantised`` stand for.
    ``sensitivity`` has for every part (and ``all`` together) the signal to noise ratio of the
    outputs in decibels (mean over tasks of ``10 log10(variance / mean squared change)``) and, where
    tasks have scores, the change of delta-m in percent. ``comparison`` is the real integer network:
    noise along the network and routing agreement with intervals over images.
    """
    images = np.stack([sample.image for sample in scenes])
    scored = _Scores(network, config, scenes)
    everything: list[Part | None] = [*parts(network), None]
    sensitivity = {}
    for n, part in enumerate(everything):
        name = part.name if part else WHOLE
        report(f"sensitivity of {name} ({n}/{len(everything)})", 0.7 * n / len(everything))
        sensitivity[name] = {
            "kind": part.kind if part else WHOLE,
            "block": part.block if part else None,
            **scored.change(*simulate(network, quantised, made, part)),
        }
    comparison = compare(
        network,
        quantised,
        images,
        progress=lambda done: report(
            f"integers against float ({done}/{len(images)})", 0.7 + 0.3 * done / len(images)
        ),
    )
    return {
        "model": config.name,
        "images": len(images),
        "calibration_images": quantised.meta["quantisation"]["images"],
        "options": quantised.meta["quantisation"],
        "interval": LEVEL,
        "sensitivity": sensitivity,
        "comparison": comparison.to_dict(),
        "scored": scored.kinds is not None,
        "order": _order(comparison),
    }


def _order(comparison: Comparison) -> list[str]:
    """Sites in the order of execution."""
    return list(next(iter(comparison.noise.values())))


class _Scores:
    """Outputs and, where tasks have scores, delta-m of a changed network against the float one."""

    def __init__(
        self,
        network: FloatNetwork,
        config: ModelConfig,
        scenes: Sequence[Sample | Example | Picture],
    ) -> None:
        from moevit.model.config import KINDS as IMAGE_KINDS

        self.network, self.config, self.scenes = network, config, scenes
        kinds = {task.name: task.kind for task in config.tasks}
        known = not any(isinstance(scene, Picture) for scene in scenes)
        known = known and all(kind in IMAGE_KINDS for kind in kinds.values())
        self.kinds = kinds if known else None
        self.exact = self.outputs(network, None)
        self.reference = self.results(self.exact)

    def outputs(self, network: FloatNetwork, edit: Edit | None) -> dict[str, Any]:
        found = [
            network.run(np.stack([s.image for s in self.scenes[start : start + _BATCH]]), edit=edit)
            for start in range(0, len(self.scenes), _BATCH)
        ]
        return {task: np.concatenate([f[task] for f in found]) for task in network.tasks}

    def results(self, outputs: dict[str, Any]) -> Any:
        from moevit.model.evaluation.evaluate import truth_of
        from moevit.model.evaluation.metrics import scorer
        from moevit.model.tasks import predict

        if self.kinds is None:
            return None
        results = {}
        for task in self.config.tasks:
            tally = scorer(task.kind, task.channels)
            raw = self.network.planes(outputs[task.name], task.name)
            known = [scene for scene in self.scenes if not isinstance(scene, Picture)]
            truth = np.stack([truth_of(scene, task.kind) for scene in known])
            tally.update(predict(task.kind, raw, self.config.image), truth)
            results[task.name] = tally.result()
        return results

    def change(self, network: FloatNetwork, edit: Edit) -> dict[str, Any]:
        from moevit.model.evaluation.metrics import delta_m

        outputs = self.outputs(network, edit)
        ratios = []
        for task, exact in self.exact.items():
            noise = float(np.mean((outputs[task] - exact) ** 2))
            ratios.append(10 * np.log10(float(np.var(exact)) / max(noise, 1e-30)))
        found: dict[str, Any] = {"sqnr_db": round(float(np.mean(ratios)), 2)}
        if self.kinds is not None:
            results = self.results(outputs)
            found["delta_m"] = round(delta_m(results, self.reference, self.kinds), 4)
        return found


# Images --------------------------------------------------------------------------------------
def draw_report(folder: Path, found: dict[str, Any]) -> list[Path]:
    """Writes ``report.json`` and the images into ``folder``; returns the files."""
    files = [folder / "report.json", folder / "sensitivity.png", folder / "noise.png"]
    write_json(files[0], found)
    _sensitivity(files[1], found)
    _noise(files[2], found)
    if any(found["comparison"]["tasks"][task]["routing"] for task in found["comparison"]["tasks"]):
        files.append(folder / "routing.png")
        _routing(files[-1], found)
    return files


def _figure(width: float, height: float) -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=130)
    pyplot.close(figure)


def _heading(found: dict[str, Any]) -> str:
    bits = found["options"]["expert_bits"]
    return f"{found['model']}, experts of {bits} bits, {found['images']} validation scenes"


def _sensitivity(path: Path, found: dict[str, Any]) -> None:
    """A table of parts by block, coloured by their noise; quiet parts are light."""
    entries = found["sensitivity"]
    blocks = sorted({e["block"] for e in entries.values() if e["block"] is not None})
    kinds = [kind for kind in KINDS if any(e["kind"] == kind for e in entries.values())]
    columns: list[int | None] = [*blocks, None]
    values = np.full((len(kinds), len(columns)), np.nan)
    texts = [["" for _ in columns] for _ in kinds]
    for entry in entries.values():
        if entry["kind"] == WHOLE:
            continue
        row, column = kinds.index(entry["kind"]), columns.index(entry["block"])
        values[row, column] = entry["sqnr_db"]
        text = f"{entry['sqnr_db']:.0f} dB"
        if "delta_m" in entry:
            text += f"\n{round(entry['delta_m'], 2) + 0.0:+.2f} %"  # no negative zero
        texts[row][column] = text
    figure, axes = _figure(3.4 + 0.85 * len(columns), 1.6 + 0.42 * len(kinds))
    image = axes.imshow(values, cmap="YlOrRd_r", aspect="auto", vmin=_LOUD, vmax=_QUIET)
    for row, column in np.ndindex(values.shape):
        if texts[row][column]:
            dark = values[row, column] < _LOUD + 8
            axes.text(
                column,
                row,
                texts[row][column],
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if dark else "black",
            )
    axes.set_xticks(range(len(columns)), [*(f"block {b}" for b in blocks), "network"])
    axes.set_yticks(range(len(kinds)), [KINDS[kind] for kind in kinds])
    axes.tick_params(length=0, labelsize=8.5)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(kinds) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    whole = entries[WHOLE]
    text = f"All together: {whole['sqnr_db']:.1f} dB"
    if "delta_m" in whole:
        text += f", delta-m {whole['delta_m']:+.2f} %"
    axes.set_title(
        f"Each part alone in integers ({_heading(found)})\n"
        "signal to noise at the heads"
        + (", change of delta-m" if "delta_m" in whole else "")
        + f". {text}",
        fontsize=10,
        loc="left",
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.015)
    bar.set_label("signal to noise, dB", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    _save(figure, path)


def _noise(path: Path, found: dict[str, Any]) -> None:
    """Signal to noise of the residual stream along the network, a line a task."""
    order = [name for name in found["order"] if not name.endswith(".logits")]
    figure, axes = _figure(max(7.0, 2.5 + 0.5 * len(order)), 4.2)
    for task, about in found["comparison"]["tasks"].items():
        values = [about["decibels"].get(name, np.nan) for name in order]
        axes.plot(range(len(order)), values, marker="o", markersize=4, linewidth=1.5, label=task)
    labels = [name.removeprefix("blocks.").replace(".", " ") for name in order]
    axes.set_xticks(range(len(order)), labels, rotation=45, ha="right", fontsize=8.5)
    axes.set_ylabel("signal to noise, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8.5, frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"Integers against float along the network ({_heading(found)})", fontsize=10, loc="left"
    )
    _save(figure, path)


def _routing(path: Path, found: dict[str, Any]) -> None:
    """Tokens that go to the same experts: groups of bars by MoE layer, a bar a task."""
    tasks = found["comparison"]["tasks"]
    layers = list(next(iter(tasks.values()))["routing"])
    figure, axes = _figure(max(6.5, 2.0 + 1.6 * len(layers)), 4.0)
    width = 0.8 / len(tasks)
    lowest = 100.0
    for n, (task, about) in enumerate(tasks.items()):
        places = np.arange(len(layers)) + (n - (len(tasks) - 1) / 2) * width
        values = np.array([100 * about["routing"][layer]["same_set"] for layer in layers])
        ends = np.array([about["routing"][layer]["same_set_interval"] for layer in layers]) * 100
        errors = np.maximum([values - ends[:, 0], ends[:, 1] - values], 0)
        axes.bar(places, values, width * 0.92, yerr=errors, label=task, capsize=2.5,
                 error_kw={"linewidth": 1})  # fmt: skip
        lowest = min(lowest, float(ends.min()))
    axes.set_ylim(max(0.0, np.floor(lowest - 1.0)), 100)
    axes.set_xticks(range(len(layers)), [f"block {layer}" for layer in layers])
    axes.set_ylabel("tokens with the same experts, %")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8.5, frameon=False, ncols=len(tasks), loc="upper center",
                bbox_to_anchor=(0.5, -0.08))  # fmt: skip
    axes.set_title(
        f"Routing in integers and in float ({_heading(found)})\n"
        f"whiskers: {found['interval']:.0%} interval over images; the axis does not start at 0",
        fontsize=10,
        loc="left",
    )
    _save(figure, path)
