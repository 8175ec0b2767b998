"""A small network on a simulated board, and a bundle of it, for the tests of drivers."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moevit.boards.contents import add_driver
from moevit.boards.driver.bundle import Bundle, Manifest, Writer
from moevit.boards.driver.device import Accelerator
from moevit.boards.driver.program import Program
from moevit.boards.driver.simulated import Simulated
from moevit.boards.hwh import Handoff, handoff
from moevit.boards.simulated import SimulatedBoard
from moevit.compiler import Program as Compiled
from moevit.compiler import compile_network
from moevit.hw.config import AcceleratorConfig, preset
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.random_network import Sizes, random_images, random_network

__all__ = [
    "CONFIG",
    "NANO",
    "NANO_CONFIG",
    "PROGRAM",
    "Case",
    "check",
    "make_bundle",
    "make_case",
    "nano_case",
    "open_simulated",
    "simulated_board",
]

CONFIG = preset("micro")
PROGRAM = "programs/random.moevit"
SIZES = Sizes(tasks=3, head_channels=(3, 1, 2), depth=2, moe=(1,), image_width=32)
NANO = Sizes(
    image_height=64,
    image_width=128,
    dim=96,
    heads=3,
    depth=6,
    hidden=384,
    experts=8,
    expert_hidden=192,
    moe=(1, 3, 5),
    tasks=1,
    head_channels=(1,),
    upscale=4,
)
"""The model size ``nano``, with one of its tasks."""

NANO_CONFIG = preset("micro").but(name="micro-129", limits__tokens=132)
"""The smallest preset, for as many tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A network, its program, images, and the golden integers by image and task."""

    config: AcceleratorConfig
    network: Network
    compiled: Compiled
    images: Any
    golden: list[dict[str, Any]]

    @property
    def program(self) -> Program:
        """As the driver reads it."""
        return Program.from_bytes(self.compiled.to_bytes())


@functools.cache
def make_case(
    seed: int = 11,
    sizes: Sizes = SIZES,
    config: AcceleratorConfig = CONFIG,
    count: int = 3,
    *,
    together: bool = True,
) -> Case:
    """A random network with three tasks, compiled with a frame of all of them too."""
    network = random_network(seed, sizes)
    images = random_images(seed, network.geometry, count)
    golden = Golden(network)
    return Case(
        config=config,
        network=network,
        compiled=compile_network(network, config, together=together),
        images=images,
        golden=[
            {task: np.asarray(golden.run(image, task).output) for task in network.tasks}
            for image in images
        ],
    )


def nano_case() -> Case:
    """A network of nano's sizes with random weights."""
    return make_case(3, NANO, NANO_CONFIG, 1, together=False)


def make_bundle(target: Path, case: Case) -> Bundle:
    """A bundle for a ZCU104 as `moevit build` makes them, with a bitstream of a few bytes."""
    config = case.config
    manifest = Manifest(
        board="zcu104",
        part="xczu7ev-ffvc1156-2-e",
        config_name=config.name,
        config_hash=f"{config.hash:016x}",
        clock_mhz=config.clock_mhz,
        register_base=0xA000_0000,
        register_bytes=0x1000,
    )
    about = Handoff(
        family="zynquplus",
        device="xczu7ev",
        package="ffvc1156",
        speed="-2",
        clock_mhz=299.997009,
        divisors=(5, 1),
        register_base=manifest.register_base,
        ports=config.memory.ports,
    )
    with Writer(target, manifest) as bundle:
        bundle.add("moevit.bit", b"of a simulated board", role="bitstream")
        bundle.add("moevit.bit.bin", b"the same", role="bitstream-bin")
        bundle.add("moevit.dtbo", b"an overlay", role="overlay")
        bundle.add("moevit.hwh", handoff(about).encode(), role="handoff")
        bundle.add(PROGRAM, case.compiled.to_bytes(), role="program")
        for n, image in enumerate(case.images):
            bundle.add_case(program=PROGRAM, name=f"image{n}", image=image, outputs=case.golden[n])
        add_driver(bundle)
    return Bundle.read(target)


@contextlib.contextmanager
def simulated_board(config: AcceleratorConfig = CONFIG, **more: Any) -> Iterator[SimulatedBoard]:
    """A board behind a socket whose path is short, as the kernel demands."""
    with (
        tempfile.TemporaryDirectory(prefix="moevit-") as folder,
        SimulatedBoard(config, Path(folder) / "board", **more) as board,
    ):
        yield board


def open_simulated(board: SimulatedBoard, **more: Any) -> Accelerator:
    """The driver on a simulated board. Its time-out is 20 ms of simulated time."""
    interrupt = more.pop("interrupt", True)
    transport = Simulated(str(board.path), interrupt=interrupt)
    return Accelerator(transport, **{"time_out": 0.02, **more})


def check(accelerator: Accelerator, case: Case, image: int = 0) -> None:
    """A whole frame of each task, bit for bit."""
    for task in case.network.tasks:
        found = accelerator.run(case.images[image], task).output
        np.testing.assert_array_equal(found, case.golden[image][task], err_msg=task)
