"""A small network on a simulated board, for the tests of drivers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moevit.boards.driver.program import Program
from moevit.boards.simulated import SimulatedBoard
from moevit.compiler import compile_network
from moevit.compiler import Program as Compiled
from moevit.hw.config import preset
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.random_network import Sizes, random_images, random_network

__all__ = ["CONFIG", "Case", "make_case", "short_socket"]

CONFIG = preset("micro")
SIZES = Sizes(tasks=3, head_channels=(3, 1, 2), depth=2, moe=(1,), image_width=32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A network, its program, images, and the golden integers by image and task."""

    network: Network
    compiled: Compiled
    images: Any
    golden: list[dict[str, Any]]

    @property
    def program(self) -> Program:
        """As the driver reads it."""
        return Program.from_bytes(self.compiled.to_bytes())


def make_case(seed: int = 11, images: int = 3, config: Any = CONFIG) -> Case:
    """A random network with three tasks, compiled with a frame of all of them too."""
    network = random_network(seed, SIZES)
    pictures = random_images(seed, network.geometry, images)
    golden = Golden(network)
    return Case(
        network=network,
        compiled=compile_network(network, config, together=True),
        images=pictures,
        golden=[
            {task: np.asarray(golden.run(image, task).output) for task in network.tasks}
            for image in pictures
        ],
    )


def short_socket(folder: Path) -> Iterator[Path]:
    """A path for a Unix socket, which may have about 100 characters."""
    raise NotImplementedError(folder)
