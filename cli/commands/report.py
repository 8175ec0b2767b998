"""`moevit report`."""

import importlib.util
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from moevit.errors import CheckFailedError, UserError
from moevit.files import readable, writable, write_text
from moevit.model.pictures import FORMATS
from moevit.sources import image_source

from ..options import (
    ALL_TASKS,
    DEFAULT_SIZE,
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
    chosen_tasks,
)
from ..progress import progress
from ..workload import hardware, open_workload
from .run import images_of

__all__ = ["command"]

Image = Annotated[
    Path | None,
    typer.Argument(
        metavar="[IMAGE]",
        help=f"A {FORMATS} image of any size; without one, a held-out rendered scene, whose truth "
        "is known.",
        show_default=False,
    ),
]
Scene = Annotated[int, typer.Option(metavar="N", min=0, help="Number of the held-out scene.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The page (HTML).")]
Scenes = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Validation images for the sensitivity and the integers' error; 0 leaves them out.",
    ),
]


def command(
    image: Image = None,
    output: Output = Path("report.html"),
    task: Task = ALL_TASKS,
    size: Size = DEFAULT_SIZE,
    preset: Preset = None,
    config: Config = None,
    model: Model = None,
    experts: Experts = None,
    method: Method = None,
    data: Data = "scenes",
    root: Root = None,
    calibration: CalibrationFiles = None,
    scene: Scene = 0,
    scenes: Scenes = 8,
    as_json: Json = False,
) -> None:
    """Write one page that explains a frame: what every task sees, and where the cycles went.

    The tasks run on the simulated RTL, recorded. The page has the panel of all tasks, a timeline
    that can be zoomed, cycles and bytes by block beside the estimate, the experts over the picture,
    their queues and scores, sensitivity and integer error by layer, the memories over time, and
    what made it. It is one file and needs no network. The exit status is 1 if an integer differs
    from the golden model's.
    """
    if importlib.util.find_spec("bokeh") is None:
        raise UserError(
            "bokeh: not installed; expected the extra 'report' (pip install moevit[report])"
        )
    writable(output)
    if image is not None:
        readable(image, f"a {FORMATS} image")
    with progress("moevit report", quiet=as_json) as report:
        from moevit.bench.explain import explain

        from ..page.page import render

        workload = open_workload(
            hardware(preset, config),
            size=size,
            model=model,
            experts=experts,
            method=method,
            source=image_source(data, root, calibration),
            report=report,
        )
        (chosen,) = images_of([] if image is None else [image], scene, workload.model_config)
        tasks = chosen_tasks(task, workload.model_config.task_names)
        found = explain(workload, chosen, tasks, scenes=scenes, report=report)
        report("writing the page", 0.97)
        line = shlex.join(["moevit", *sys.argv[1:]])
        page = render(found, line)
        write_text(output, page)
    about = {
        "output": str(output),
        "bytes": len(page.encode()),
        "preset": workload.config.name,
        "size": workload.model_config.name,
        "results": [outcome.to_dict() for outcome in found.outcomes],
    }
    typer.echo(json.dumps(about, indent=2) if as_json else f"{output}: {about['bytes']:,} bytes")
    if wrong := [outcome for outcome in found.outcomes if outcome.difference]:
        raise CheckFailedError(
            f"{len(wrong)} of {len(tasks)} results are not bit exact: {wrong[0].difference}"
        )
