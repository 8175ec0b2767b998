"""The options of a command as what it works on, through the API; with one line for each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moevit.configurations import configuration
from moevit.files import readable
from moevit.hw.config import AcceleratorConfig
from moevit.model.config import preset as size_preset
from moevit.models import Model, is_quantised, load, shipped
from moevit.networks import Network, load_network
from moevit.programs import load_program
from moevit.quant.typing import Report, silent
from moevit.sources import RENDERED, ImageSource
from moevit.workload import Workload

from .errors import UserError, say_note
from .options import (
    DEFAULT_EXPERTS,
    DEFAULT_METHOD,
    DEFAULT_PRESET,
    check_method,
    expert_bits,
    parse_image_size,
)

__all__ = ["alone", "hardware", "open_program", "open_workload"]


def hardware(
    preset: str | None, config: Path | None = None, default: str = DEFAULT_PRESET
) -> AcceleratorConfig:
    """The accelerator that --preset or --config names; `default` where neither is given."""
    if config is None:
        return configuration(preset or default)
    if preset is not None:
        raise UserError("--config: cannot be given together with --preset")
    return configuration(config)


def open_workload(
    config: AcceleratorConfig,
    *,
    size: str,
    model: Path | None,
    experts: str | None = None,
    method: str | None = None,
    image_size: str | None = None,
    source: ImageSource = RENDERED,
    report: Report = silent,
) -> Workload:
    """What --size, --model, --experts, --method, --image-size and the images say.

    Raises
    ------
    UserError
        Naming the option: for an unknown size, format or method, one asked of a network that is
        quantised already, images to calibrate such a network on, and an image size asked of a model
        that has its own.
    """
    expert_bits(experts or DEFAULT_EXPERTS)
    check_method(method or DEFAULT_METHOD)
    subject = _subject(config, size, model, experts, method, image_size, source, report)
    return Workload(
        subject,
        config,
        experts=experts or DEFAULT_EXPERTS,
        method=method or DEFAULT_METHOD,
        source=source,
        report=report,
        note=say_note,
    )


def _subject(
    config: AcceleratorConfig,
    size: str,
    model: Path | None,
    experts: str | None,
    method: str | None,
    image_size: str | None,
    source: ImageSource,
    report: Report,
) -> Model | Network:
    size_preset(size)
    if (image := parse_image_size(image_size)) is not None:
        images = None if source.is_default else source
        alone("--image-size", {"--model": model, "--method": method, source.option: images})
        from moevit.bench.frames import Reference, reference_network

        about = Reference(size=size, config=config, image=image, experts=experts or DEFAULT_EXPERTS)
        return Network(reference_network(about, report))
    if model is None:
        try:
            return Model(path=shipped(size))
        except UserError:
            raise UserError(
                f"--size: {size!r} has no shipped model; train one and name it by --model, "
                "or give --image-size for random weights"
            ) from None
    path = readable(model, "a checkpoint")
    if not is_quantised(path):
        return load(path)
    for option, value in (("--experts", experts), ("--method", method)):
        if value is not None:
            raise UserError(
                f"{option}: {path} is quantised already; expected a checkpoint with {value}"
            )
    if source.own:
        raise UserError(f"--calibration: {path} is quantised already; expected a checkpoint")
    return load_network(path)


def open_program(
    file: Path,
    *,
    size: str,
    model: Path | None,
    experts: str | None,
    method: str | None,
    backend: str,
    report: Report,
    source: ImageSource = RENDERED,
) -> Workload:
    """The program in `file`, and the `model` that it is compared with, if any.

    Raises
    ------
    UserError
        For a file that is no program, a backend that runs none where there is no model, and a model
        that the program was not compiled from as far as one can see.
    """
    program = load_program(file)
    if model is not None:
        workload = open_workload(
            program.config,
            size=size,
            model=model,
            experts=experts,
            method=method,
            source=source,
            report=report,
        )
        return workload.with_program(program)
    given = None if source.is_default else source
    options = {"--experts": experts, "--method": method, source.option: given}
    alone("--program", options, " alone")
    if backend not in ("sim", "interpreter", "board", "remote"):
        raise UserError(
            f"--backend: {backend} runs no programs; expected sim, interpreter, board or remote, "
            "or --model"
        )
    return Workload(program, program.config, report=report)


def alone(option: str, others: Mapping[str, object], how: str = "") -> None:
    """That none of `others` was given beside `option`; UserError naming the one that was."""
    for name, value in others.items():
        if value:
            first, second = (name, option) if how else (option, name)
            raise UserError(f"{first}: cannot be given together with {second}{how}")
