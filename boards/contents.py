"""What a bundle has beside the bitstream: the driver, its C library, programs and their cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moevit.compiler.program import Program
from moevit.sim.backends import InterpreterDevice

from .c_form import SUFFIX, c_files, c_program
from .driver.bundle import Writer
from .driver.program import Program as BoardProgram
from .shipping import driver_files

__all__ = ["add_driver", "add_program"]

_SEED = 0


def add_driver(bundle: Writer) -> None:
    """The driver as the package ``moevit_driver``, and the C library in ``c/``."""
    for path, data in driver_files().items():
        bundle.add(path, data, role="driver")
    for path, data in c_files().items():
        bundle.add(path, data, role="c")


def add_program(bundle: Writer, name: str, data: bytes, images: Sequence[Any] = ()) -> None:
    """A program by its file's content, its form for C, and golden cases of all of its tasks.

    The integers that a case must give are the interpreter's, which are those of the golden model,
    bit for bit. ``images``: of the program's shape; one of noise if there are none. Raises
    ``ValueError`` for a file that is no program.
    """
    program = Program.from_bytes(data)
    path = f"programs/{name}.moevit"
    bundle.add(path, data, role="program")
    bundle.add(f"c/{name}{SUFFIX}", c_program(BoardProgram.from_bytes(data)), role="c")
    form = program.image
    shape = (form.height, form.width, form.channels)
    noise = np.random.default_rng(_SEED).integers(0, 256, shape, dtype=np.uint8)
    with InterpreterDevice(program.config) as device:
        device.load(program)
        for n, image in enumerate(images or [noise]):
            outputs = {task: device.run(image, task).output for task in program.tasks}
            bundle.add_case(program=path, name=f"{name}-{n}", image=image, outputs=outputs)
