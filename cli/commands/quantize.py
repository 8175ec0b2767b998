"""`moevit quantize`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from moevit.errors import UserError
from moevit.files import writable, write_json, write_text
from moevit.networks import Network
from moevit.quant.typing import Report, part_of
from moevit.quantising import CALIBRATION_IMAGES, narrow_classes, quantiser_options
from moevit.sources import image_source
from moevit.workload import Workload

from ..options import (
    DEFAULT_EXPERTS,
    DEFAULT_METHOD,
    DEFAULT_SIZE,
    CalibrationFiles,
    Data,
    DepthScale,
    Experts,
    Json,
    Method,
    Model,
    NormalsRange,
    Root,
    Seed,
    Size,
    Weights,
)
from ..progress import progress
from ..workload import hardware, open_workload

__all__ = ["command"]

_REPORT_SCENES = 32
_CLASSES = "classes"
_COMPARE_SCENES = 500

File = Annotated[
    Path | None,
    typer.Argument(metavar="[MODEL]", help="Checkpoint; the same as --model.", show_default=False),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE", help="Quantised network (safetensors).")
]
Images = Annotated[int, typer.Option(metavar="N", min=1, help="Images to calibrate on, at most.")]
Clip = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How ranges are chosen, instead of the method's: minmax, percentile, mse.",
        show_default=False,
    ),
]
Percentile = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Share of values kept by --clip percentile (percent; 99.99 by default).",
        show_default=False,
    ),
]
Migrate = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Exponents to try for scales of channels, instead of the method's: 0 one scale for "
        "all, 1 each its own range.",
        show_default=False,
    ),
]
Rounding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of weights, instead of the method's: auto (gptq for 4 bits, nearest for 8), "
        "nearest, gptq, descent.",
        show_default=False,
    ),
]
Bias = Annotated[
    bool | None,
    typer.Option(
        "--bias-correction/--no-bias-correction",
        help="Keep the means of all outputs, instead of what the method does.",
        show_default=False,
    ),
]
Balance = Annotated[
    bool | None,
    typer.Option(
        "--balance/--no-balance",
        help="Widen ranges of channels by how little they matter, not up to the widest channel's, "
        "instead of what the method does.",
        show_default=False,
    ),
]
Margin = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        help="Of activations' ranges, times what calibration gave (1 by default).",
        show_default=False,
    ),
]
Compensate = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        help="Let layers make up for the rounding before them, damped by this share of their "
        "inputs' mean square (0.2 with --method compensate; 0: not at all).",
        show_default=False,
    ),
]
Finetune = Annotated[
    int | None,
    typer.Option(
        metavar="STEPS",
        min=0,
        help="Steps of fine-tuning with fake quantisation, instead of the method's; 0: none.",
        show_default=False,
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="DIR",
        help="Folder for the sensitivity of each layer and the routing agreement (PNG, JSON).",
        show_default=False,
    ),
]
Compare = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Score these methods ('all' or a list) at W8A8 and W4A8 instead, or 4-bit weights "
        "in each class of layers ('classes'); no network is written.",
        show_default=False,
    ),
]
Scenes = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help=f"Validation scenes; 0: {_REPORT_SCENES} for --report, {_COMPARE_SCENES} for "
        "--compare.",
    ),
]
Results = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where --compare writes its JSON.", show_default=False),
]
Docs = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Page whose marked part gets the table.", show_default=False),
]


def command(
    file: File = None,
    size: Size = DEFAULT_SIZE,
    model: Model = None,
    output: Output = Path("network.safetensors"),
    images: Images = CALIBRATION_IMAGES,
    data: Data = "scenes",
    root: Root = None,
    depth_scale: DepthScale = 1.0,
    normals_range: NormalsRange = "signed",
    calibration: CalibrationFiles = None,
    experts: Experts = None,
    weights: Weights = None,
    method: Method = None,
    clip: Clip = None,
    percentile: Percentile = None,
    migrate: Migrate = None,
    rounding: Rounding = None,
    bias_correction: Bias = None,
    balance: Balance = None,
    margin: Margin = None,
    compensate: Compensate = None,
    finetune: Finetune = None,
    report_folder: Folder = None,
    compare: Compare = None,
    scenes: Scenes = 0,
    results: Results = None,
    docs: Docs = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Calibrate a trained model and make it integer.

    Weights and activations get 8 bits (experts' weights 4 with --experts int4, nearly all with
    --weights int4), the residual stream 16. Ranges come from rendered scenes, from the training
    images of a data set (--data) or from images of your own (--calibration). The result goes to
    `moevit compile` and, as --model, to `moevit run` and `moevit eval`.
    """
    if file is not None and model is not None:
        raise UserError(f"--model: {model} beside {file}; expected one of the two")
    if compare is None and (results or docs):
        raise UserError(f"--{'results' if results else 'docs'}: needs --compare")
    writable(results, docs, *([output] if compare is None else []))
    writable(report_folder, folder=True)
    with progress("moevit quantize", quiet=as_json) as report:
        workload = open_workload(
            hardware(None),
            size=size,
            model=file or model,
            experts=experts,
            method=method,
            source=image_source(
                data,
                root,
                calibration,
                depth_scale=depth_scale,
                normals_range=normals_range,
            ),
            report=report,
        )
        if workload.quantised:
            raise UserError(f"{workload.name}: is quantised already; expected a checkpoint")
        changes = {
            "clip": clip,
            "percentile": percentile,
            "migrate": None if migrate is None else _numbers(migrate),
            "rounding": rounding,
            "bias_correction": bias_correction,
            "balance": balance,
            "margin": margin,
            "compensate": compensate,
            "finetune": finetune,
            "narrow": None if weights is None else narrow_classes(weights, "--weights"),
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if compare is not None:
            given = [*changes, *(["experts"] if experts else []), *(["method"] if method else [])]
            if given:
                name = given[0].replace("narrow", "weights").replace("_", "-")
                raise UserError(f"--{name}: cannot be given together with --compare")
            text, found = _compare(workload, compare, images, scenes, seed, results, docs, report)
        else:
            options = quantiser_options(
                experts or weights or DEFAULT_EXPERTS, method or DEFAULT_METHOD, changes
            )
            text, found = _quantise(
                workload, options, output, images, seed, report_folder, scenes, report
            )
    typer.echo(json.dumps(found, indent=2) if as_json else text)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--migrate: expected numbers such as 0,0.5,1, not {text!r}") from None


def _quantise(
    workload: Workload,
    options: Any,
    output: Path,
    images: int,
    seed: int,
    folder: Path | None,
    scenes: int,
    report: Report,
) -> tuple[str, dict[str, Any]]:
    from moevit.bench.quant_report import Picture, draw_report, measure_report

    share = 1.0 if folder is None else 0.2
    workload.remark()
    made = workload.model.quantize_with_parts(
        workload.source,
        images=images,
        seed=seed,
        options=options,
        report=part_of(report, 0.0, share),
    )
    network = made.network
    Network(network).save(output)
    found = {
        "output": str(output),
        "images": made.calibration.images,
        "tasks": list(network.tasks),
        "bytes": output.stat().st_size,
        "options": network.meta["quantisation"],
    }
    text = f"{output}: {found['bytes']:,} bytes, tasks {', '.join(network.tasks)}"
    if folder is not None:
        config = workload.model_config
        count = scenes or _REPORT_SCENES
        scored: Iterable[Any]
        if workload.source.own:  # no truth is known of them, but they are what the model will see
            scored = [Picture(image=image) for image in workload.source.calibration(config, count)]
        else:
            scored, _, _ = workload.source.validation(config, count)
        measured = measure_report(
            made.exact,
            network,
            made.layers,
            config,
            list(scored),
            part_of(report, share, 0.97 - share),
        )
        report("drawing", 0.98)
        files = [str(path) for path in draw_report(folder, measured)]
        found["report"] = files
        text = "\n".join([text, *(f"report: {name}" for name in files)])
    return text, found


def _compare(
    workload: Workload,
    names: str,
    images: int,
    scenes: int,
    seed: int,
    results: Path | None,
    docs: Path | None,
    report: Report,
) -> tuple[str, dict[str, Any]]:
    from moevit.bench import classes, methods
    from moevit.bench.benchmark import insert

    by_class = names == _CLASSES
    page = classes if by_class else methods
    chosen = [] if by_class else methods.chosen_methods(names)
    if docs is not None:
        insert(docs, "", page.BEGIN, page.END)  # whether it can be done: before all the work
    calibrated = workload.source.calibration(
        workload.model_config, images, part_of(report, 0.0, 0.02)
    )
    common: dict[str, Any] = {"scenes": scenes or _COMPARE_SCENES, "seed": seed, "report": report}
    if by_class:
        found = classes.compare_classes(workload, calibrated, **common)
    else:
        found = methods.compare_methods(workload, calibrated, methods=chosen, **common)
    if results is not None:
        write_json(results, found)
    if docs is not None:
        write_text(docs, insert(docs, page.markdown(found), page.BEGIN, page.END))
    return page.markdown(found), found
