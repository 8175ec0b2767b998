"""`moevit run`."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from moevit.bench.comparison import NamedImage, Outcome, compare
from moevit.boards.backend import BUNDLE, TRANSPORT
from moevit.errors import CheckFailedError, UserError, documented
from moevit.files import writable
from moevit.images import load_image
from moevit.inputs import image_files, output_names
from moevit.model.config import TOKEN_KINDS, ModelConfig
from moevit.model.pictures import FORMATS
from moevit.model.scenes.render import scene as render
from moevit.quant.dial import AS_COMPILED
from moevit.sources import image_source

from ..console import plain_console
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
    MinScore,
    Model,
    Preset,
    Root,
    Size,
    Task,
    TopK,
    TopP,
    Trace,
    check_backend,
    chosen_tasks,
    dial_of,
    side_by_side,
)
from ..progress import progress
from ..workload import hardware, open_program, open_workload

__all__ = ["command", "images_of"]

_WIDE = 150  # columns of a table that does not go to a terminal

Images = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[IMAGE]...",
        help=f"{FORMATS} images of any size, folders of them or patterns such as 'a/*.png'; "
        "without one, a held-out rendered scene, whose truth is known.",
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
Url = Annotated[
    str | None,
    typer.Option(
        envvar="MOEVIT_URL",
        metavar="URL",
        help="Server of `moevit serve`, for --backend remote.",
        show_default=False,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="MOEVIT_TOKEN", metavar="TEXT", help="Its token, if any.", show_default=False
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
    top_p: TopP = None,
    top_k: TopK = None,
    min_score: MinScore = None,
    output: Folder = Path("out"),
    bundle: BundleFolder = None,
    url: Url = None,
    token: Token = None,
    jobs: Jobs = 0,
    trace: Trace = None,
    as_json: Json = False,
) -> None:
    """Run tasks on images and compare the device with the golden model, bit for bit.

    Writes a panel for each image: input, the device's predictions, the float model's, and the
    truth where it is known. A checkpoint is calibrated on rendered scenes, the training images of
    --data or those of --calibration. Tokens and logits go to NumPy files. Times are cycles at the
    preset's target clock. A compiled program runs with --program. The exit status is 1 if an
    integer differs from the golden model's. --top-p, --top-k and --min-score are registers of a
    frame: the same program in fewer cycles, with fewer experts a token. With --trace one device
    runs all frames, unless --jobs says otherwise.
    """
    check_backend(backend)
    dial = dial_of(top_p, min_score, top_k)
    if trace is not None and backend != "sim":
        raise UserError(f"--trace: backend {backend} has no cycles; expected --backend sim")
    writable(trace)
    if bundle is not None:
        if backend != "board":
            raise UserError(f"--bundle: backend {backend} has none; expected --backend board")
        os.environ[BUNDLE] = str(bundle)
        if not images:
            _golden_cases(bundle, as_json)
            return
    if backend == "remote":
        if url is None:
            raise UserError("--backend remote: needs --url of a `moevit serve`")
        os.environ["MOEVIT_URL"] = url
        if token is not None:
            os.environ["MOEVIT_TOKEN"] = token
    writable(output, folder=True)
    paths = image_files(images or [])
    with progress("moevit run", quiet=as_json) as report:
        from moevit.traces import Recorder, save_trace, timelines

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
        if dial != AS_COMPILED:
            with documented():  # before any work
                dial.check(workload.program.linked.dial)
        names = [str(path) for path in paths] or [f"scene {scene}"]
        targets = _targets(output, names, workload.model_config, tasks)
        chosen = images_of(paths, scene, workload.model_config)
        recorder = None if trace is None else Recorder()
        outcomes = compare(
            workload,
            chosen,
            tasks,
            backend,
            dial=dial,
            jobs=side_by_side(backend, jobs or int(trace is not None)),
            recorder=recorder,
            report=report,
        )
        if trace is not None and recorder is not None:
            report("writing the trace", 0.99)
            save_trace(trace, timelines(recorder))
        report("drawing the panels", 0.99)
        for target, image, group in zip(targets, chosen, outcomes, strict=True):
            if target.panel is not None:
                write_panel(target.panel, image, group, workload, backend)
            for outcome in group:
                if outcome.task in target.values:
                    write_values(target.values[outcome.task], outcome)
    everything = [outcome for group in outcomes for outcome in group]
    if as_json:
        about = {
            "preset": workload.config.name,
            "size": workload.model_config.name,
            "backend": backend,
        }
        if dial != AS_COMPILED:
            about["dial"] = {"top_p": top_p, "min_score": min_score, "top_k": top_k}
        results = [outcome.to_dict() for outcome in everything]
        typer.echo(json.dumps({**about, "results": results}, indent=2))
    else:
        console = plain_console(width=_WIDE)
        for table in tables(outcomes, workload, backend):
            console.print(table)
        if backend == "sim":
            clock = workload.config.clock_mhz
            typer.echo(f"ms and fps: simulated cycles at the target clock of {clock:g} MHz")
        if backend == "board":
            for o in everything:
                typer.echo(_by_the_clock(o))
        for target in targets:
            if target.panel is not None:
                typer.echo(f"panel: {target.panel}")
            for path in target.values.values():
                typer.echo(f"values: {path}")
        if trace is not None:
            typer.echo(f"trace: {trace}")
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


def images_of(paths: Sequence[Path], scene: int, config: ModelConfig) -> list[NamedImage]:
    """Image files as the model takes them; a rendered scene where there are none."""
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


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """Files of one image: its panel, None if there is nothing to show, and arrays by task."""

    panel: Path | None
    values: dict[str, Path]


def _targets(
    folder: Path, images: Sequence[str], config: ModelConfig, tasks: Sequence[str]
) -> list[_Targets]:
    """What will be written of each image, settled before any work; UserError if it cannot be."""
    arrays = [task for task in tasks if config.task(task).kind in TOKEN_KINDS]
    room = max(len(f"-{end}".encode()) for end in ("panel.png", *(f"{t}.npy" for t in arrays)))
    targets = [
        _Targets(
            panel=folder / f"{stem}-panel.png" if len(arrays) < len(tasks) else None,
            values={task: folder / f"{stem}-{task}.npy" for task in arrays},
        )
        for stem in output_names(images, room=room)
    ]
    for target in targets:
        writable(target.panel, *target.values.values())
    return targets
