"""Where images come from that a model is calibrated and scored on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moevit.model.config import KINDS as IMAGE_KINDS
from moevit.model.config import SCENE_KINDS, ModelConfig, TaskConfig, scene_task
from moevit.quant.errors import UserError
from moevit.quant.typing import Bytes, Report, silent

from .images import load_image
from .inputs import image_files

if TYPE_CHECKING:  # torch is imported by those who use it
    from moevit.model.datasets import Dataset, Units

__all__ = ["RENDERED", "SCENES", "ImageSource", "image_source", "in_scenes"]

SCENES = "scenes"
"""The data set that is rendered and needs no folder."""


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Rendered scenes, a data set in `root`, or `files` or `arrays` to calibrate on.

    `arrays` are `(N, H, W, 3)` uint8 of the model's own size. `depth_scale` and `normals_range` are
    of :class:`moevit.model.datasets.Units`.
    """

    data: str = SCENES
    root: Path | None = None
    depth_scale: float = 1.0
    normals_range: str = "signed"
    files: tuple[Path, ...] = ()
    arrays: Bytes | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.data != SCENES and self.root is None:
            raise UserError(f"--root: data {self.data} needs its folder")
        if self.data == SCENES and self.root is not None:
            raise UserError(f"--root: {self.root} needs --data to say which data set it is")
        if self.arrays is not None and (self.arrays.ndim != 4 or self.arrays.dtype != np.uint8):
            raise UserError(
                "Images to calibrate on must be (N, height, width, 3) uint8, "
                f"not {self.arrays.shape} {self.arrays.dtype}"
            )

    @property
    def own(self) -> bool:
        """Whether the images are the user's own."""
        return bool(self.files) or self.arrays is not None

    @property
    def is_default(self) -> bool:
        """Whether nothing was asked for."""
        return self.data == SCENES and not self.own

    @property
    def option(self) -> str:
        """The option that chose it."""
        return "--calibration" if self.own else "--data"

    def describe(self, count: int) -> str:
        """What `count` images to calibrate on are, for people."""
        if self.own:
            there = len(self.files) if self.arrays is None else len(self.arrays)
            return f"{min(count, there)} images of your own"
        return f"{count} rendered scenes" if self.data == SCENES else f"{count} of {self.data}"

    def key(self) -> str:
        """What the images depend on; it changes with their files."""
        digest = hashlib.sha256()
        if self.arrays is not None:
            digest.update(np.ascontiguousarray(self.arrays).tobytes())
            return f"{self.arrays.shape} {digest.hexdigest()}"
        if self.files:
            for path in self.files:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            return digest.hexdigest()
        return "" if self.data == SCENES else self._open("train", []).fingerprint()

    def calibration(self, config: ModelConfig, most: int, report: Report = silent) -> Bytes:
        """Up to `most` images to calibrate on, `(N, H, W, 3)` uint8 of the model's size.

        Scenes of their own split; of a data set's training split, of files and of arrays, as many
        as there are, spread evenly over the list.
        """
        if most < 1:
            raise UserError(f"Calibration needs at least one image, not {most}")
        make, total = self._maker(config, most)
        count = min(most, total)
        images = []
        for number in range(count):
            report(f"reading images ({number}/{count})", number / count)
            images.append(make(number * total // count))
        return np.stack(images)

    def _picture(self, config: ModelConfig) -> Callable[[int], Any]:
        height, width = config.image
        return lambda n: load_image(self.files[n], height=height, width=width, config=config)

    def _maker(self, config: ModelConfig, most: int) -> tuple[Callable[[int], Any], int]:
        """A function from an image's number to its pixels, and how many images there are."""
        height, width = config.image
        if (arrays := self.arrays) is not None:
            if arrays.shape[1:] != (height, width, 3) or not len(arrays):
                raise UserError(
                    f"Images to calibrate on must be (N, {height}, {width}, 3), not {arrays.shape}"
                )
            return lambda n: arrays[n], len(arrays)
        if self.files:
            return self._picture(config), len(self.files)
        if self.data == SCENES:
            from moevit.model.scenes.render import scene

            return lambda n: scene("calibration", n, height, width).image, most
        from moevit.model.evaluation.evaluate import seen

        train = self._open("train", [])
        return lambda n: seen(train.load(n), config).image, len(train)

    def validation(self, config: ModelConfig, count: int) -> tuple[Iterable[Any], int, str]:
        """At most `count` images to score on with their truths; how many, and what they depend
        on."""
        if self.data == SCENES:
            from moevit.model.training.data import samples

            for task in config.tasks:
                if task.kind in IMAGE_KINDS and not in_scenes(task):
                    raise UserError(
                        f"--data: rendered scenes have no truth for task {task.name}, {task.kind} "
                        f"of {task.channels} channels; expected the data set that it is trained on"
                    )
            return samples("validation", count, *config.image), count, ""
        from moevit.model.datasets import open_for
        from moevit.model.evaluation.evaluate import fitted

        data = open_for(self.data, self._folder, "validation", config.tasks, self._units)
        found = min(count, len(data))
        return fitted(data, config, found), found, data.fingerprint()

    def _open(self, split: str, kinds: list[str]) -> Dataset:
        from moevit.model.datasets import open_dataset

        return open_dataset(self.data, self._folder, split, kinds=kinds, units=self._units)

    @property
    def _units(self) -> Units:
        from moevit.model.datasets import Units

        return Units(depth_scale=self.depth_scale, normals_range=self.normals_range)

    @property
    def _folder(self) -> Path:
        if self.root is None:
            raise ValueError(f"Images of {self.data} have no folder")
        return self.root


RENDERED = ImageSource()
"""What is used where nothing else is asked for."""


def in_scenes(task: TaskConfig) -> bool:
    """Whether rendered scenes have the truth of a task."""
    return task.kind in SCENE_KINDS and task.channels == scene_task(task.kind, task.stride).channels


def image_source(
    data: str = SCENES,
    root: Path | None = None,
    files: Sequence[Path] | None = None,
    *,
    depth_scale: float = 1.0,
    normals_range: str = "signed",
) -> ImageSource:
    """Images of a data set, or those in `files`, as :func:`moevit.inputs.image_files` has
    them.

    Raises
    ------
    UserError
        For things that contradict one another, a folder without images, a missing file.
    """
    given = ImageSource(data=data, root=root, depth_scale=depth_scale, normals_range=normals_range)
    if data != SCENES and files:
        raise UserError("--calibration: cannot be given together with --data")
    chosen = image_files(files or [])
    if data != SCENES:
        from moevit.model.datasets import NAMES

        if data not in NAMES:
            known = ", ".join((SCENES, *NAMES))
            raise UserError(f"--data: unknown data set {data!r}; expected {known}")
    return dataclasses.replace(given, files=tuple(chosen))
