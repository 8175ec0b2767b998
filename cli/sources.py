"""Where images come from that a model is calibrated and scored on: `--data`, `--calibration`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from moevit.model.config import KINDS as IMAGE_KINDS
from moevit.model.config import SCENE_KINDS, SCENE_TASKS, ModelConfig, TaskConfig
from moevit.quant.typing import Report, silent

from .errors import UserError
from .images import load_image

if TYPE_CHECKING:  # torch is imported by those who use it
    from moevit.model.datasets import Dataset

__all__ = [
    "SCENES",
    "CalibrationFiles",
    "Data",
    "ImageSource",
    "Root",
    "image_source",
    "in_scenes",
]

SCENES = "scenes"
_CHANNELS = {task.kind: task.channels for task in SCENE_TASKS}
_SUFFIXES = (".png", ".jpg", ".jpeg")


Data = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Images: rendered scenes, or nyud, pascal_context, cityscapes with --root.",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the data set.", show_default=False),
]
CalibrationFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--calibration",
        metavar="PATH",
        help="Your own images to calibrate on, PNG or JPEG: a folder or a file, as often as you "
        "like.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Rendered scenes, a data set in `root`, or `files` to calibrate on."""

    data: str = SCENES
    root: Path | None = None
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.data != SCENES and self.root is None:
            raise UserError(f"--root: data {self.data} needs its folder")
        if self.data == SCENES and self.root is not None:
            raise UserError(f"--root: {self.root} needs --data to say which data set it is")

    @property
    def is_default(self) -> bool:
        """Whether nothing was asked for."""
        return self.data == SCENES and not self.files

    @property
    def option(self) -> str:
        """The option that chose it."""
        return "--calibration" if self.files else "--data"

    def describe(self, count: int) -> str:
        """What `count` images to calibrate on are, for people."""
        if self.files:
            return f"{min(count, len(self.files))} images of your own"
        return f"{count} rendered scenes" if self.data == SCENES else f"{count} of {self.data}"

    def key(self) -> str:
        """What the images depend on; it changes with their files."""
        if self.files:
            digest = hashlib.sha256()
            for path in self.files:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            return digest.hexdigest()
        return "" if self.data == SCENES else self._open("train", []).fingerprint()

    def calibration(self, config: ModelConfig, most: int, report: Report = silent) -> Any:
        """Up to `most` images to calibrate on, `(N, H, W, 3)` uint8 of the model's size.

        Scenes of their own split; of a data set's training split and of files, as many as there
        are, spread evenly over the list.
        """
        if most < 1:
            raise UserError(f"Calibration needs at least one image, not {most}")
        height, width = config.image
        if self.files:
            make: Callable[[int], Any] = lambda n: load_image(  # noqa: E731
                self.files[n], height=height, width=width, config=config
            )
            total = len(self.files)
        elif self.data == SCENES:
            from moevit.model.scenes.render import scene

            make, total = lambda n: scene("calibration", n, height, width).image, most
        else:
            from moevit.model.evaluation.evaluate import seen

            train = self._open("train", [])
            make, total = lambda n: seen(train.load(n), config).image, len(train)
        count = min(most, total)
        images = []
        for number in range(count):
            report(f"reading images ({number}/{count})", number / count)
            images.append(make(number * total // count))
        return np.stack(images)

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

        data = open_for(self.data, self._folder, "validation", config.tasks)
        found = min(count, len(data))
        return fitted(data, config, found), found, data.fingerprint()

    def _open(self, split: str, kinds: list[str]) -> Dataset:
        from moevit.model.datasets import open_dataset

        return open_dataset(self.data, self._folder, split, kinds=kinds)

    @property
    def _folder(self) -> Path:
        if self.root is None:
            raise ValueError(f"Images of {self.data} have no folder")
        return self.root


def in_scenes(task: TaskConfig) -> bool:
    """Whether rendered scenes have the truth of a task."""
    return task.kind in SCENE_KINDS and task.channels == _CHANNELS[task.kind]


def _images(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [p for p in sorted(path.iterdir()) if p.suffix.lower() in _SUFFIXES]
    if not found:
        raise UserError(f"{path}: has no images; expected files ending in {', '.join(_SUFFIXES)}")
    return found


def image_source(
    data: str = SCENES, root: Path | None = None, files: list[Path] | None = None
) -> ImageSource:
    """What the options say.

    Raises
    ------
    UserError
        For options that contradict one another, a folder without images, a missing file.
    """
    given = ImageSource(data=data, root=root)
    if data != SCENES and files:
        raise UserError("--calibration: cannot be given together with --data")
    chosen = [image for path in files or [] for image in _images(path)]
    for path in chosen:
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected a PNG or JPEG image or a folder")
    if data != SCENES:
        from moevit.model.datasets import NAMES

        if data not in NAMES:
            known = ", ".join((SCENES, *NAMES))
            raise UserError(f"--data: unknown data set {data!r}; expected {known}")
    return dataclasses.replace(given, files=tuple(chosen))
