"""`moevit estimate`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from moevit.errors import UserError
from moevit.files import writable
from moevit.model.config import preset as model_preset
from moevit.networks import Network, blank_network
from moevit.programs import Program, estimate, load_program

from ..console import plain_console
from ..options import (
    ALL_TASKS,
    DEFAULT_EXPERTS,
    DEFAULT_SIZE,
    Config,
    Experts,
    ImageSize,
    Json,
    Method,
    Model,
    Preset,
    Size,
    Task,
    Trace,
    chosen_tasks,
    expert_bits,
    parse_image_size,
)
from ..progress import progress
from ..settings import Settings, changed
from ..workload import alone, hardware, open_workload

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
    preset: Preset = None,
    config: Config = None,
    task: Task = ALL_TASKS,
    program: File = None,
    trace: Trace = None,
    as_json: Json = False,
) -> None:
    """Predict cycles, utilisation and bytes of a program, without simulating it.

    Tokens go to experts as in calibration; memory is the board's DDR4. With --image-size or --set
    the model is one of the size that need not exist, whose tokens go to all experts evenly. Cycles
    of an engine are those in which it works. With several tasks the figures of --json are those of
    all together, and `tasks` has each.
    """
    writable(trace)
    hardware_config = hardware(preset, config)
    with progress("moevit estimate", quiet=as_json) as report:
        subject: Program | Network
        if program is not None:
            given: dict[str, object] = {"model": model, "experts": experts, "method": method}
            given |= {"image-size": image_size, "set": settings, "config": config}
            alone("--program", {f"--{name}": value for name, value in given.items()})
            subject = load_program(program)
            hardware_config = subject.config
        elif image_size is not None or settings:
            subject = _blank(size, image_size, settings, experts, model=model, method=method)
        else:
            subject = open_workload(
                hardware_config,
                size=size,
                model=model,
                experts=experts,
                method=method,
                report=report,
            ).quantised_network
        tasks = chosen_tasks(task, subject.tasks)
        found = estimate(
            subject,
            tasks,
            preset=hardware_config,
            timelines=trace is not None,
            report=report,
        )
        if trace is not None:
            from moevit.traces import save_trace

            save_trace(trace, found.timelines)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    clock = hardware_config.clock_mhz
    table = Table(
        title=f"estimate for preset {hardware_config.name}",
        caption=f"ms at the target clock of {clock:g} MHz",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("task")
    for heading in ("cycles", "ms", "MAC util.", "bytes read"):
        table.add_column(heading, justify="right")
    for name, e in found.tasks.items():
        ms = e.cycles / clock / 1e3
        table.add_row(
            name, f"{e.cycles:,}", f"{ms:.3f}", f"{e.mac_utilisation:.1%}", f"{e.bytes_read:,}"
        )
    plain_console().print(table)
    if trace is not None:
        typer.echo(f"trace: {trace}")


def _blank(
    size: str,
    image_size: str | None,
    settings: list[str] | None,
    experts: str | None,
    **others: object,
) -> Network:
    """A network of the size without weights."""
    given = "--set" if image_size is None else "--image-size"
    alone(given, {f"--{name}": value for name, value in others.items()})
    config, image = model_preset(size), parse_image_size(image_size)
    if image is not None:
        try:
            config = replace(config, image=image)
        except ValueError as error:
            raise UserError(f"--image-size: {error}") from None
    expert_bits(experts or DEFAULT_EXPERTS)
    return blank_network(changed(config, settings), experts=experts or DEFAULT_EXPERTS)
