"""`moevit estimate`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moevit.compiler import Program, compile_network
from moevit.compiler.cost.estimate import estimate
from moevit.hw.config import preset as hardware_preset
from moevit.model.blank import blank_network
from moevit.model.config import preset as model_preset
from moevit.quant.network import Network
from moevit.sim.rtl import board_memory

from ..errors import UserError
from ..files import readable
from ..options import (
    ALL_TASKS,
    DEFAULT_EXPERTS,
    DEFAULT_PRESET,
    DEFAULT_SIZE,
    Experts,
    ImageSize,
    Json,
    Method,
    Model,
    Preset,
    Size,
    Task,
    chosen_tasks,
    expert_bits,
    parse_image_size,
)
from ..progress import progress
from ..settings import Settings, changed
from ..workload import Workload

__all__ = ["command"]

File = Annotated[
    Path | None,
    typer.Option(
        "--program",
        metavar="FILE",
        help="Program of `moevit compile` instead of a model.",
        show_default=False,
    ),
]


def command(
    size: Size = DEFAULT_SIZE,
    model: Model = None,
    experts: Experts = None,
    method: Method = None,
    image_size: ImageSize = None,
    settings: Settings = None,
    preset: Preset = DEFAULT_PRESET,
    task: Task = ALL_TASKS,
    program: File = None,
    as_json: Json = False,
) -> None:
    """Predict cycles, utilisation and bytes of a program, without simulating it.

    Tokens go to experts as in calibration; memory is the board's DDR4. With --image-size or --set
    the model is one of the size that need not exist, whose tokens go to all experts evenly. Cycles
    of an engine are those in which it works. With several tasks the figures of --json are those of
    all together, and `tasks` has each.
    """
    config = hardware_preset(preset)
    found, macs = {}, 0
    with progress("moevit estimate", quiet=as_json) as report:
        if program is not None:
            compiled = _program(
                program,
                model=model,
                experts=experts,
                method=method,
                image_size=image_size,
                set=settings,
            )
            config, tasks = compiled.config, chosen_tasks(task, list(compiled.tasks))
        else:
            if image_size is not None or settings:
                network = _blank(size, image_size, settings, experts, model=model, method=method)
            else:
                network = Workload(
                    size=size,
                    model=model,
                    preset=preset,
                    experts=experts,
                    method=method,
                    report=report,
                ).network
            tasks = chosen_tasks(task, network.tasks)
        timing = board_memory(config)
        for n, name in enumerate(tasks):  # one at a time: programs of large networks are large
            if program is None:
                report(f"compiling {name}", n / len(tasks))
                compiled = compile_network(network, config, [name])
            found[name] = estimate(compiled, name, timing)
            macs += compiled.task(name).useful_macs
    if as_json:
        cycles = sum(e.cycles for e in found.values())
        engines = {engine for e in found.values() for engine in e.by_engine}
        total = {
            "cycles": cycles,
            "mac_utilisation": macs / (cycles * config.array.macs),
            "bytes_read": sum(e.bytes_read for e in found.values()),
            "by_engine": {
                name: sum(e.by_engine.get(name, 0) for e in found.values())
                for name in sorted(engines)
            },
            "tasks": {name: e.to_dict() for name, e in found.items()},
        }
        typer.echo(json.dumps(total, indent=2))
        return
    clock = config.clock_mhz
    table = Table(
        title=f"estimate for preset {config.name}",
        caption=f"ms at the target clock of {clock:g} MHz",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("task")
    for heading in ("cycles", "ms", "MAC util.", "bytes read"):
        table.add_column(heading, justify="right")
    for name, e in found.items():
        ms = e.cycles / clock / 1e3
        table.add_row(
            name, f"{e.cycles:,}", f"{ms:.3f}", f"{e.mac_utilisation:.1%}", f"{e.bytes_read:,}"
        )
    Console().print(table)


def _blank(
    size: str,
    image_size: str | None,
    settings: list[str] | None,
    experts: str | None,
    **others: object,
) -> Network:
    """A network of the size without weights."""
    given = "--set" if image_size is None else "--image-size"
    for option, value in others.items():
        if value is not None:
            raise UserError(f"{given}: cannot be given together with --{option}")
    config, image = model_preset(size), parse_image_size(image_size)
    if image is not None:
        try:
            config = replace(config, image=image)
        except ValueError as error:
            raise UserError(f"--image-size: {error}") from None
    bits = expert_bits(experts or DEFAULT_EXPERTS)
    return blank_network(changed(config, settings), expert_bits=bits)


def _program(file: Path, **others: object) -> Program:
    """The program in a file, which is given alone."""
    for option, value in others.items():
        if value is not None:
            raise UserError(
                f"--program: cannot be given together with --{option.replace('_', '-')}"
            )
    return Program.load(readable(file, "a program of `moevit compile`"))
