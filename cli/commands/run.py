"""`moevit run`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from moevit.bench.comparison import NamedImage, Outcome, compare
from moevit.boards.backend import BUNDLE, TRANSPORT
from moevit.errors import CheckFailedError, UserError
from moevit.files import writable
from moevit.images import load_image
from moevit.model.config import TOKEN_KINDS, ModelConfig
from moevit.model.scenes.render import scene as render
from moevit.sources import image_source

from ..options import (
    ALL_TASKS,
    DEFAULT_SIZE,
    Backend,
    CalibrationFiles,
    Config,
    Data,
    Experts,
    Json,
    Method,
    Model,
    Preset,
    Root,
    Size,
    Task,
    check_backend,
    chosen_tasks,
    side_by_side,
)
from ..progress import progress
from ..workload import hardware, open_program, open_workload

__all__ = ["command"]

_WIDE = 150  # columns of a table that does not go to a terminal

Images = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[IMAGE]...",
        help="PNG or JPEG images of any size; without one, a held-out rendered scene, whose "
        "truth is known.",
        show_default=False,
    ),
]
Scene = Annotated[int, typer.Option(metavar="N", min=0, help="Number of the held-out scene.")]
Folder = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the panels (PNG).")
]
File = Annotated[
    Path | None,
    typer.Option(
        "--program",
        metavar="FILE",
        help="Program of `moevit compile` to run, for its own preset; with --model it is compared "
        "with that model.",
        show_default=False,
    ),
]
BundleFolder = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        metavar="DIR",
        help="Bundle of `moevit build`, for --backend board. Without images its own golden cases "
        "run, and frames a second are measured.",
        show_default=False,
    ),
]
Jobs = Annotated[
    int, typer.Option(metavar="N", min=0, help="Devices side by side; 0: one a processor.")
]


def command(
    images: Images = None,
    task: Task = ALL_TASKS,
    backend: Backend = "sim",
    size: Size = DEFAULT_SIZE,
    preset: Preset = None,
    config: Config = None,
    model: Model = None,
    experts: Experts = None,
    method: Method = None,
    data: Data = "scenes",
    root: Root = None,
    calibration: CalibrationFiles = None,
    program: File = None,
    scene: Scene = 0,
    output: Folder = Path("out"),
    bundle: BundleFolder = None,
    jobs: Jobs = 0,
    as_json: Json = False,
) -> None:
    """Run tasks on images and compare the device with the golden model, bit for bit.

    Writes a panel for each image: input, the device's predictions, the float model's, and the
    truth where it is known. A checkpoint is calibrated on rendered scenes, the training images of
    --data or those of --calibration. Tokens and logits go to NumPy files. Times are cycles at the
    preset's target clock. A compiled program runs with --program. The exit status is 1 if an
    integer differs from the golden model's.
    """
    check_backend(backend)
    if bundle is not None:
        if backend != "board":
            raise UserError(f"--bundle: backend {backend} has none; expected --backend board")
        os.environ[BUNDLE] = str(bundle)
        if not images:
            _golden_cases(bundle, as_json)
            return
    writable(output, folder=True)
    with progress("moevit run", quiet=as_json) as report:
        from ..report import tables, write_panel, write_values  # torch and matplotlib

        source = image_source(data, root, calibration)
        about: dict[str, Any] = {
            "experts": experts,
            "method": method,
            "source": source,
            "report": report,
        }
        if program is None:
            workload = open_workload(hardware(preset, config), size=size, model=model, **about)
            tasks = chosen_tasks(task, workload.model_config.task_names)
        else:
            workload = open_program(program, size=size, model=model, backend=backend, **about)
            tasks = chosen_tasks(task, workload.program.tasks)
        chosen = _images(images or [], scene, workload.model_config)
        outcomes = compare(
            workload,
            chosen,
            tasks,
            backend,
            jobs=side_by_side(backend, jobs),
            report=report,
        )
        report("drawing the panels", 0.99)
        panels, values = _targets(output, chosen, outcomes)
        for target, image, group in zip(panels, chosen, outcomes, strict=True):
            if target is not None:
                write_panel(target, image, group, workload, backend)
        for path, outcome in values.items():
            write_values(path, outcome)
    everything = [outcome for group in outcomes for outcome in group]
    if as_json:
        about = {
            "preset": workload.config.name,
            "size": workload.model_config.name,
            "backend": backend,
        }
        results = [outcome.to_dict() for outcome in everything]
        typer.echo(json.dumps({**about, "results": results}, indent=2))
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDE)
        for table in tables(outcomes, workload, backend):
            console.print(table)
        if backend == "sim":
            clock = workload.config.clock_mhz
            typer.echo(f"ms and fps: simulated cycles at the target clock of {clock:g} MHz")
        if backend == "board":
            for o in everything:
                typer.echo(_by_the_clock(o))
        for target in panels:
            if target is not None:
                typer.echo(f"panel: {target}")
        for path in values:
            typer.echo(f"values: {path}")
    wrong = [outcome for outcome in everything if outcome.difference]
    if wrong:
        first = wrong[0]
        raise CheckFailedError(
            f"{len(wrong)} of {len(everything)} results are not bit exact: "
            f"{first.image}, task {first.task}: {first.difference}"
        )


def _golden_cases(folder: Path, as_json: bool) -> None:
    """The bundle's own cases on this board, against its golden outputs."""
    from moevit.boards.backend import BoardDevice
    from moevit.boards.driver.bundle import Bundle
    from moevit.boards.driver.selftest import selftest

    found = Bundle.read(folder)
    with BoardDevice(found, os.environ.get(TRANSPORT) or "auto") as device:
        say = (lambda _line: None) if as_json else typer.echo
        report = selftest(found, device.accelerator, say=say)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    if not report.passed:
        raise CheckFailedError(f"{folder}: not all results are bit exact")


def _by_the_clock(outcome: Outcome) -> str:
    cost = outcome.performance
    assert cost is not None  # a board counts
    return (
        f"{outcome.image}, {outcome.task}: "
        f"{cost.simulated_cycles_per_s / cost.cycles:,.1f} frames/s by the clock of this host, "
        f"transfers included; {cost.cycles:,} cycles"
    )


def _images(paths: Sequence[Path], scene: int, config: ModelConfig) -> list[NamedImage]:
    height, width = config.image
    if not paths:
        sample = render("test", scene, height, width)
        return [NamedImage(name=f"scene {scene}", pixels=sample.image, truth=sample)]
    return [
        NamedImage(
            name=str(path), pixels=load_image(path, height=height, width=width, config=config)
        )
        for path in paths
    ]


def _targets(
    folder: Path, images: Sequence[NamedImage], outcomes: Sequence[Sequence[Outcome]]
) -> tuple[list[Path | None], dict[Path, Outcome]]:
    """Files by the images' names, numbered where two have the same.

    A panel for each image, or None if it has nothing to show, and what goes to NumPy files.
    """
    taken: dict[str, int] = {}
    panels: list[Path | None] = []
    values = {}
    for image, group in zip(images, outcomes, strict=True):
        stem = Path(image.name).stem.replace(" ", "-")
        taken[stem] = taken.get(stem, 0) + 1
        stem += f"-{taken[stem]}" if taken[stem] > 1 else ""
        shown = any(outcome.kind not in TOKEN_KINDS for outcome in group)
        panels.append(folder / f"{stem}-panel.png" if shown else None)
        for outcome in group:
            if outcome.kind in TOKEN_KINDS:
                values[folder / f"{stem}-{outcome.task}.npy"] = outcome
    return panels, values
