"""Everything that a build needs, in a folder: whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from moevit.hw.config import AcceleratorConfig
from moevit.hw.verilog import TOP_NAME

from .. import platform as primitives_platform
from ..fit import shortage, suggestion
from ..targets.base import Board
from . import design, ipxact, overlay, rtl
from .versions import COMMAND, NEWEST, OLDEST

__all__ = ["DoesNotFitError", "write_inputs"]


class DoesNotFitError(ValueError):
    """The configuration is larger than the board's part."""


def write_inputs(
    target: Path,
    board: Board,
    config: AcceleratorConfig,
    *,
    programs: tuple[Path, ...] = (),
    jobs: int = 2,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
) -> dict[str, Any]:
    """Write a build's folder and return what its ``build.json`` says.

    ``target`` is replaced if it is a build's folder, and must be empty or absent otherwise.

    Raises
    ------
    DoesNotFitError
        If the part has less than the configuration takes.
    ValueError
        If the board lacks a port or a clock, or ``target`` is something else.
    """
    if lacks := shortage(config, board.part, board.primitives):
        best = suggestion(board.part, board.primitives)
        raise DoesNotFitError(
            f"configuration {config.name!r} does not fit {board.name}: {lacks}; "
            f"the largest preset that does is {best}"
        )
    if target.exists() and not (target.is_dir() and _replaceable(target)):
        raise ValueError(f"{target}: exists and is no build; expected an empty or new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        about = _fill(scratch, board, config, programs, jobs, progress)
        scratch.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return about


def _replaceable(target: Path) -> bool:
    return (target / "build.json").is_file() or not any(target.iterdir())


def _fill(
    folder: Path,
    board: Board,
    config: AcceleratorConfig,
    programs: tuple[Path, ...],
    jobs: int,
    progress: Callable[[str, float], None],
) -> dict[str, Any]:
    progress("Verilog", 0.0)
    vivado = folder / "vivado"
    sources = rtl.generate(config, board, folder, primitives_platform(board.primitives))
    (folder / f"{TOP_NAME}.v").unlink()
    progress("IP", 0.7)
    masters = sum(port.name.endswith("_araddr") for port in sources.top) - 1  # the slave has one
    accelerator = [f"src/{name}" for name in (f"{TOP_NAME}.v", f"{rtl.IP_NAME}.v")]
    component = ipxact.accelerator(
        sources.top, experts=config.limits.experts, register_bytes=board.register_bytes,
        files=accelerator,
    )  # fmt: skip
    _package(vivado, "moevit", component, sources.files, accelerator)
    if board.mmcm:
        own = [f"src/{rtl.CLOCKS_NAME}.v"]
        component = ipxact.clock_generator(sources.clocks, board.reference_mhz, own)
        _package(vivado, "moevit_clocks", component, sources.files, own)
    texts = {
        "design.tcl": design.block_design(board, clocks=sources.clocks, ports=masters),
        "moevit.xdc": design.constraints(board, sources.clocks),
        "settings.tcl": design.settings(board, jobs=jobs, oldest=OLDEST, newest=NEWEST),
        "build.tcl": (files(__package__) / "tcl" / "build.tcl").read_text(),
    }
    for name, text in texts.items():
        (vivado / name).write_text(text)
    for name in ("reports", "outputs"):
        (vivado / name).mkdir()
    (folder / "overlay").mkdir()
    (folder / "overlay" / "moevit.dtso").write_text(overlay.source(board, sources.clocks["clk"]))
    (folder / "programs").mkdir()
    for program in programs:
        shutil.copyfile(program, folder / "programs" / program.name)
    about = {
        "format": "moevit-build-1",
        "board": board.name,
        "part": board.part_name,
        "config": sources.about["config"],
        "hash": sources.about["hash"],
        "clocks": sources.clocks,
        "ports": masters,
        "primitives": board.primitives,
        "status": "inputs",
        "command": COMMAND,
    }
    (folder / "build.json").write_text(json.dumps(about, indent=2) + "\n")
    return about


def _package(
    vivado: Path, name: str, component: str, sources: dict[str, str], own: list[str]
) -> None:
    folder = vivado / "ip" / f"{name}_1_0"
    (folder / "src").mkdir(parents=True)
    (folder / "xgui").mkdir()
    (folder / "component.xml").write_text(component)
    (folder / "xgui" / f"{name}_v1_0.tcl").write_text(ipxact.xgui())
    for path in own:
        (folder / path).write_text(sources[Path(path).name])
