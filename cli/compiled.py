"""A compiled program in place of a model: `moevit run --program`."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from moevit.compiler import Program
from moevit.model.config import ModelConfig
from moevit.quant.network import Network
from moevit.quant.typing import Report

from .errors import UserError
from .files import readable
from .options import DEFAULT_EXPERTS, DEFAULT_METHOD, DEFAULT_PRESET, expert_bits
from .sources import ImageSource
from .workload import Workload

__all__ = ["CompiledWorkload", "with_program"]


_RENDERED = ImageSource()


class CompiledWorkload(Workload):
    """A program alone: it runs on the accelerator, and nothing is there to compare it with."""

    def __init__(self, path: Path, program: Program, report: Report) -> None:
        self.path, self.config, self.report = path, program.config, report
        self.expert_bits, self.method = expert_bits(DEFAULT_EXPERTS), DEFAULT_METHOD
        self.quantised = True
        self._program = program

    @functools.cached_property
    def program(self) -> Program:
        """What the file holds."""
        return self._program

    @functools.cached_property
    def model_config(self) -> ModelConfig:
        """That of the model that was compiled."""
        about = self._program.meta.get("network", {}).get("model")
        if about is None:
            raise UserError(f"{self.path}: does not say which model it was compiled from")
        try:
            return ModelConfig.from_json(json.dumps(about))
        except ValueError as error:
            raise UserError(f"{self.path}: {error}") from None

    @property
    def reference(self) -> Network | None:
        """None: a program does not hold the network that it came from."""
        return None


def with_program(
    file: Path,
    *,
    size: str,
    model: Path | None,
    experts: str | None,
    method: str | None,
    backend: str,
    report: Report,
    source: ImageSource = _RENDERED,
) -> Workload:
    """The program in ``file``, and the ``model`` that it is compared with, if any.

    Raises
    ------
    UserError
        For a backend that runs no programs where there is no model, and a model that the program
        was not compiled from as far as one can see.
    ValueError
        For a file that is no program.
    """
    program = Program.load(readable(file, "a program of `moevit compile`"))
    if model is None:
        given = None if source.is_default else source
        for option, value in (
            ("--experts", experts),
            ("--method", method),
            (source.option, given),
        ):
            if value is not None:
                raise UserError(f"{option}: cannot be given together with --program alone")
        if backend not in ("sim", "interpreter", "board"):
            raise UserError(
                f"--backend: {backend} runs no programs; expected sim, interpreter or board, "
                "or --model"
            )
        return CompiledWorkload(file, program, report)
    workload = Workload(
        size=size,
        model=model,
        preset=DEFAULT_PRESET,
        experts=experts,
        method=method,
        source=source,
        report=report,
    )
    network = workload.network
    if network.geometry != program.geometry:
        raise UserError(f"{file}: is of a model with {program.geometry}, not {network.geometry}")
    for task in program.tasks:
        if task not in network.tasks:
            raise UserError(f"{file}: task {task} is none of {', '.join(network.tasks)}")
    workload.config = program.config
    workload.__dict__["program"] = program  # in place of the one that it would compile
    return workload
