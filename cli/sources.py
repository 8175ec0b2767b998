"""Where pictures come from that a model is calibrated and scored on: `--data`, `--calibration`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from moevit.model.config import KINDS as PICTURE_KINDS
from moevit.model.config import SCENE_KINDS, SCENE_TASKS, ModelConfig, TaskConfig

from .errors import UserError
from .images import load_image

if TYPE_CHECKING:  # torch is imported by those who use it
    from moevit.model.datasets import Dataset

__all__ = [
    "SCENES",
    "CalibrationFiles",
    "Data",
    "PictureSource",
    "Root",
    "in_scenes",
    "picture_source",
]

SCENES = "scenes"
_CHANNELS = {task.kind: task.channels for task in SCENE_TASKS}
_SUFFIXES = (".png", ".jpg", ".jpeg")

Report = Callable[[str, float], None]

Data = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Pictures: rendered scenes, or nyud, pascal_context, cityscapes with --root.",
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
        help="Your own pictures to calibrate on, PNG or JPEG: a folder or a file, as often as you "
        "like.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class PictureSource:
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

    def describe(self, images: int) -> str:
        """What `images` pictures to calibrate on are, for people."""
        if self.files:
            return f"{min(images, len(self.files))} pictures of your own"
        return f"{images} rendered scenes" if self.data == SCENES else f"{images} of {self.data}"

    def key(self) -> str:
        """What the pictures depend on; it changes with their files."""
        if self.files:
            digest = hashlib.sha256()
            for path in self.files:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            return digest.hexdigest()
        return "" if self.data == SCENES else self._open("train", []).fingerprint()

    def calibration(
        self, config: ModelConfig, images: int, report: Report = lambda _what, _share: None
    ) -> Any:
        """At most `images` pictures to calibrate on, `(N, H, W, 3)` uint8 of the model's size.

        Scenes of their own split; of a data set's training split and of files, as many as there
        are, spread evenly over the list.
        """
        if images < 1:
            raise UserError(f"Calibration needs at least one picture, not {images}")
        height, width = config.image
        if self.files:
            make: Callable[[int], Any] = lambda n: load_image(  # noqa: E731
                self.files[n], height=height, width=width
            )
            total = len(self.files)
        elif self.data == SCENES:
            from moevit.model.scenes.render import scene

            make, total = lambda n: scene("calibration", n, height, width).image, images
        else:
            from moevit.model.datasets.fit import fit

            train = self._open("train", [])
            make, total = lambda n: fit(train.load(n), config.image).image, len(train)
        count = min(images, total)
        pictures = []
        for number in range(count):
            report(f"reading pictures ({number}/{count})", number / count)
            pictures.append(make(number * total // count))
        return np.stack(pictures)

    def validation(self, config: ModelConfig, count: int) -> tuple[Iterable[Any], int, str]:
        """At most `count` pictures to score on with their truths; how many, and what they depend
        on."""
        if self.data == SCENES:
            from moevit.model.training.data import samples

            for task in config.tasks:
                if task.kind in PICTURE_KINDS and not in_scenes(task):
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
            raise ValueError(f"Pictures of {self.data} have no folder")
        return self.root


def in_scenes(task: TaskConfig) -> bool:
    """Whether rendered scenes have the truth of a task."""
    return task.kind in SCENE_KINDS and task.channels == _CHANNELS[task.kind]


def _pictures(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [p for p in sorted(path.iterdir()) if p.suffix.lower() in _SUFFIXES]
    if not found:
        raise UserError(f"{path}: has no pictures; expected files ending in {', '.join(_SUFFIXES)}")
    return found


def picture_source(
    data: str = SCENES, root: Path | None = None, files: list[Path] | None = None
) -> PictureSource:
    """What the options say.

    Raises
    ------
    UserError
        For options that contradict one another, a folder without pictures, a missing file.
    """
    given = PictureSource(data=data, root=root)
    if data != SCENES and files:
        raise UserError("--calibration: cannot be given together with --data")
    chosen = [picture for path in files or [] for picture in _pictures(path)]
    for path in chosen:
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected a PNG or JPEG picture or a folder")
    if data != SCENES:
        from moevit.model.datasets import NAMES

        if data not in NAMES:
            known = ", ".join((SCENES, *NAMES))
            raise UserError(f"--data: unknown data set {data!r}; expected {known}")
    return dataclasses.replace(given, files=tuple(chosen))
