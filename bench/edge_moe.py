"""Integers of real trained weights: Edge-MoE's, the only public ones of this family.

    python -m moevit.bench.edge_moe FOLDER [--methods NAMES] [--json]

FOLDER is ``weights/`` of https://github.com/sharc-lab/Edge-MoE (Sarkar et al. 2023), which has no
licence: nothing is fetched, and nothing of it is kept here. It holds the dense parts, gates,
position embedding and one street picture of a model with two tasks; the experts' matrices are
missing, so they are drawn from a seed with deviation 0.04. What is compared are the tokens before
the final norm, which is missing as well.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from moevit.quant.float.network import FloatNetwork
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.ptq.methods import METHODS, method
from moevit.quant.ptq.quantize import quantise
from moevit.quant.typing import Array

__all__ = ["Measured", "command", "filled", "measure", "picture", "views"]

DEVIATION = 0.04
_EXPERTS, _DIM, _HIDDEN = 16, 192, 384
_LAYERS = range(1, 12, 2)
_SIZE = (128, 256)
_SCENES = 64
_METHODS = "minmax,default,all,balance,compensate"

Measured = dict[str, Any]


@contextmanager
def filled(folder: Path, seed: int = 0) -> Iterator[Path]:
    """A copy of the weights' folder with experts' matrices drawn from ``seed``, while it lasts."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        there = Path(name)
        for file in folder.glob("*.float32.bin"):
            (there / file.name).symlink_to(file.resolve())
        for layer in _LAYERS:
            for part, shape in (
                ("htoh4", (_EXPERTS, _HIDDEN, _DIM)),
                ("h4toh", (_EXPERTS, _DIM, _HIDDEN)),
            ):
                target = there / f"l{layer}_{part}_weight.float32.bin"
                values = rng.normal(0, DEVIATION, shape).astype("<f4")
                if not target.exists():
                    target.write_bytes(values.tobytes())
        yield there


def picture(folder: Path) -> Array:
    """The street picture ``(1, 128, 256, 3)`` uint8."""
    values = np.frombuffer((folder / "image.float32.bin").read_bytes(), "<f4")
    return np.round(values * 256).astype(np.uint8).reshape(1, 3, *_SIZE).transpose(0, 2, 3, 1)


def views(image: Array) -> Array:
    """The picture mirrored, in half the light, and shifted by half a patch, ``(3, H, W, 3)``."""
    (one,) = image
    moved = np.roll(one, (8, 8), axis=(0, 1))
    return np.stack([one[:, ::-1], one // 2, moved])


def measure(network: FloatNetwork, integers: Network, images: Array) -> Measured:
    """Relative RMS error of each task's tokens on ``images (N, H, W, 3)``, and the share of tokens
    with the same experts in the worst layer."""
    routing: dict[str, Array] = {}

    def observe(name: str, rows: Any) -> None:
        if ".routing." in name:
            routing[name] = rows

    exact = network.run(images, observe=observe)
    found = Golden(integers).run_batch(images)
    errors, same = {}, {}
    for task in network.tasks:
        tokens = np.stack([r.output for r in found[task]]) * integers.residual_scale
        errors[task] = float(
            np.sqrt(np.mean((tokens - exact[task]) ** 2) / np.mean(exact[task] ** 2))
        )
        shares = []
        for n, first in enumerate(found[task][0].routing):
            got = np.concatenate([r.routing[n].indices for r in found[task]])
            want = routing[f"blocks.{first.block}.routing.{task}"]
            shares.append(float((np.sort(got) == np.sort(want)).all(axis=1).mean()))
        same[task] = min(shares)
    return {"error": errors, "same_experts": same}


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Edge-MoE's weights/.")],
    methods: Annotated[
        str, typer.Option(metavar="NAMES")
    ] = "minmax,default,all,balance,compensate",
    as_json: Annotated[bool, typer.Option("--json", help="Results as JSON.")] = False,
) -> None:
    """Integers of Edge-MoE's weights by each method, on their picture and on views of it."""
    from moevit.model.export.float_network import to_float_network
    from moevit.model.importers.edge_moe import import_edge_moe
    from moevit.model.scenes.render import scene

    if not (folder / "image.float32.bin").is_file():
        raise typer.BadParameter(f"{folder}: no image.float32.bin; expected Edge-MoE's weights/")
    names = methods.split(",")
    if unknown := sorted(set(names) - set(METHODS)):
        raise typer.BadParameter(f"unknown {unknown[0]}; expected {', '.join(METHODS)}")
    with filled(folder) as there:
        network = to_float_network(import_edge_moe(there).model)
        image = picture(there)
    scenes = np.stack([scene("calibration", n, *_SIZE).image for n in range(_SCENES)])
    rows: list[Measured] = []
    for about, images in (("the picture", image), (f"{_SCENES} rendered scenes", scenes)):
        statistics = calibrate(network, images)
        for name in names:
            integers = quantise(network, statistics, method(name))
            row = {
                "calibrated": about,
                "method": name,
                "picture": measure(network, integers, image),
                "views": measure(network, integers, views(image)),
            }
            rows.append(row)
            typer.echo(json.dumps(row), err=True)
    typer.echo(json.dumps(rows, indent=2) if as_json else _table(rows, network.tasks))


def _table(rows: list[Measured], tasks: Sequence[str]) -> str:
    def both(values: dict[str, float]) -> str:
        return " / ".join(f"{100 * values[task]:.1f} %" for task in tasks)

    lines = [
        "| calibrated on | method | error on the picture | same experts, worst layer | its views |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows:
        here, others = row["picture"], row["views"]
        lines.append(
            f"| {row['calibrated']} | {row['method']} | {both(here['error'])} "
            f"| {both(here['same_experts'])} | {both(others['error'])} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(command)
