"""Float models: the shipped ones, checkpoints, and those of M3ViT, Edge-MoE and timm."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from moevit import model as model_package
from moevit import quant as quant_package
from moevit.model.config import PRESETS, ModelConfig
from moevit.model.config import preset as size_preset
from moevit.quant.dial import Dial
from moevit.quant.errors import UserError
from moevit.quant.io import NETWORK_KEY, load_network, save_network
from moevit.quant.typing import Array, Bytes, Report, silent
from moevit.sim import cache
from moevit.sim.backends import Forward

from .errors import documented
from .files import readable, writable
from .networks import Network
from .quantising import (
    CALIBRATION_IMAGES,
    DEFAULT_EXPERTS,
    DEFAULT_METHOD,
    Quantised,
    quantise_model,
    quantiser_options,
)
from .sources import RENDERED, SCENES, ImageSource, image_source
from .tasks import selected

if TYPE_CHECKING:  # torch is imported by those who use it
    from moevit.model.importers.common import Imported
    from moevit.model.m3vit import M3ViT

__all__ = [
    "Calibration",
    "Model",
    "from_edge_moe",
    "from_m3vit",
    "from_timm",
    "is_quantised",
    "load",
    "random_model",
    "shipped",
]

Calibration = int | Array | Sequence[str | os.PathLike[str]] | ImageSource | None
"""What to calibrate on: how many rendered scenes (64 if None), images `(N, H, W, 3)` uint8, files
and folders of images, or a source such as a data set."""


class Model:
    """A float model, read from its file when its weights are first asked for.

    Make one by :func:`load`, :func:`random_model` or one of the imports.
    """

    def __init__(
        self,
        module: M3ViT | None = None,
        *,
        path: Path | None = None,
        training: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        if (module is None) == (path is None):
            raise ValueError("A model is either in memory or in a file")
        self.path = path
        self.notes = tuple(notes)
        """What an import assumed, for people."""
        self._training = training
        if module is not None:
            self.__dict__["module"] = module

    def __repr__(self) -> str:
        return f"<moevit.Model {self.name}, tasks {', '.join(self.tasks)}>"

    @property
    def name(self) -> str:
        """The file, or the configuration's name of a model in memory."""
        return str(self.path) if self.path is not None else self.config.name

    @functools.cached_property
    def module(self) -> M3ViT:
        """The PyTorch module, in eval mode."""
        from moevit.model.checkpoint import load as load_checkpoint

        assert self.path is not None
        with documented():
            return load_checkpoint(self.path)

    @functools.cached_property
    def config(self) -> ModelConfig:
        """Sizes, tasks and routing."""
        if "module" in self.__dict__:
            return self.module.config
        assert self.path is not None
        text = metadata(self.path).get("config")
        if text is None:
            return self.module.config  # its reader says what is wrong with the file
        try:
            return ModelConfig.from_json(text)
        except ValueError as error:
            raise UserError(f"{self.path}: {error}") from None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks."""
        return tuple(self.config.task_names)

    @property
    def training(self) -> dict[str, Any]:
        """What was written down of its training or its import; empty where nothing was."""
        if self._training is None:
            about = {} if self.path is None else metadata(self.path)
            try:
                found = json.loads(about.get("training", "{}"))
            except ValueError:
                found = {}
            self._training = found if isinstance(found, dict) else {}
        return self._training

    @property
    def trained_on(self) -> str | None:
        """The data set that it was trained on, rendered scenes by default; None of an imported
        model, which does not say."""
        imported = "import" in self.training
        found = self.training.get("data", None if imported else SCENES)
        return None if found is None else str(found)

    @functools.cached_property
    def content(self) -> bytes:
        """The checkpoint, byte for byte: equal models are equal here."""
        if self.path is not None:
            return self.path.read_bytes()
        from moevit.model.checkpoint import to_bytes

        return to_bytes(self.module, self._training)

    @functools.cached_property
    def forward(self) -> Forward:
        """The model as a function: images `(B, H, W, 3)` uint8 and a task to raw outputs."""
        from moevit.model.evaluation.evaluate import float_backend

        return float_backend(self.module)

    def dialled(self, dial: Dial) -> Forward:
        """The model of frames with `dial`: fewer experts a token, the same weights."""
        from moevit.model.dialled import dialled
        from moevit.model.evaluation.evaluate import float_backend

        return float_backend(dialled(self.module, dial))

    def onnx(self, report: Report = silent) -> Forward:
        """The same from its ONNX export in onnxruntime, which is kept in the cache."""
        from moevit.model.export.onnx import export_onnx, onnx_forward

        sources = cache.source_digest(Path(str(model_package.__file__)).parent)
        name = "model.onnx"

        def make(folder: Path) -> None:
            report("exporting to ONNX", 0.0)
            export_onnx(self.module, folder / name)

        key = cache.digest(self.content, sources)
        return onnx_forward(cache.entry("onnx", key, make) / name)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the checkpoint, whole or not at all."""
        from moevit.model.checkpoint import write_atomically

        writable(Path(path))
        with documented():
            write_atomically(Path(path), self.content)

    def export_onnx(
        self, path: str | os.PathLike[str], tasks: str | Sequence[str] = "all"
    ) -> dict[str, Any]:
        """Writes the model as ONNX, checked against PyTorch; returns what the check found."""
        from moevit.model.export.onnx import export_onnx

        with documented():
            return export_onnx(self.module, Path(path), selected(tasks, self.tasks))

    def quantize(
        self,
        calibration: Calibration = None,
        *,
        images: int = CALIBRATION_IMAGES,
        experts: str = DEFAULT_EXPERTS,
        method: str = DEFAULT_METHOD,
        seed: int = 0,
        report: Report = silent,
        **changes: Any,
    ) -> Network:
        """Calibrates the model and makes it integer, as `moevit quantize` does.

        Parameters
        ----------
        calibration:
            What to calibrate on, at most `images` of it, spread evenly.
        experts:
            Format of the experts' weights, "int8" or "int4".
        method:
            Of quantisation, a name of :data:`moevit.quant.ptq.methods.METHODS`.
        changes:
            Options of the method to change: `clip`, `percentile`, `migrate`, `rounding`,
            `bias_correction`, `finetune`, `narrow` (:class:`moevit.quant.ptq.options.Options`).

        The result is kept in the cache, by the model, the images, the options and the sources.

        Raises
        ------
        UserError
            For options that do not exist or do not fit, and images of another shape.
        """
        source, most = _source(calibration, images)
        options = quantiser_options(experts, method, changes)
        folders = (Path(str(p.__file__)).parent for p in (model_package, quant_package))
        key = cache.digest(
            self.content,
            cache.source_digest(*folders),
            f"{most}, {seed}, {options}",
            source.key(),
        )
        name = "network.safetensors"

        def make(folder: Path) -> None:
            found = self.quantize_with_parts(
                calibration, images=images, seed=seed, options=options, report=report
            )
            save_network(found.network, folder / name)

        def waiting() -> None:
            report("waiting for another process that quantises the same model", 0.0)

        with documented():
            made = load_network(cache.entry("networks", key, make, waiting) / name)
        return Network(made, model=self)

    def quantize_with_parts(
        self,
        calibration: Calibration = None,
        *,
        images: int = CALIBRATION_IMAGES,
        seed: int = 0,
        options: Any = None,
        report: Report = silent,
    ) -> Quantised:
        """As :meth:`quantize` with the options as one object, without the cache, and with what the
        integers were made from, for those who study where accuracy is lost."""
        source, most = _source(calibration, images)
        report("loading the model", 0.0)
        with documented():
            return quantise_model(
                self.module, count=most, seed=seed, options=options, source=source, report=report
            )

    @classmethod
    def _imported(cls, imported: Imported) -> Self:
        return cls(imported.model, training=imported.source, notes=imported.notes)


def _source(given: Calibration, images: int) -> tuple[ImageSource, int]:
    if given is None:
        return RENDERED, images
    if isinstance(given, ImageSource):
        return given, images
    if isinstance(given, int):
        return RENDERED, given
    if isinstance(given, np.ndarray):
        return ImageSource(arrays=given), min(images, max(1, len(given)))
    if isinstance(given, (str, os.PathLike)):
        given = [given]
    if given and isinstance(given[0], np.ndarray):
        stacked: Bytes = np.stack([np.asarray(image) for image in given])
        return ImageSource(arrays=stacked), min(images, len(stacked))
    return image_source(files=[Path(path) for path in given]), images


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if it is none, and its reader will say why."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, 1 << 24)))
        return dict(header.get("__metadata__", {}))
    except (ValueError, AttributeError):
        return {}


def is_quantised(path: Path) -> bool:
    """Whether a file holds a quantised network rather than a checkpoint."""
    return NETWORK_KEY in metadata(path)


def shipped(size: str) -> Path:
    """The checkpoint of a size that comes with moevit, without importing torch.

    Raises
    ------
    UserError
        For an unknown size, and one that is not shipped.
    """
    with documented():
        size_preset(size)
    path = Path(str(model_package.__file__)).parent / "checkpoints" / f"{size}.safetensors"
    if not path.is_file():
        raise UserError(
            f"Size {size!r} has no shipped model; train one and name its file, or take random "
            "weights (moevit.random_model)"
        )
    return path


def load(model: str | os.PathLike[str] = "nano") -> Model:
    """The shipped model of a size, or the one in a checkpoint.

    Raises
    ------
    UserError
        For a size that is not shipped, a file that is missing, and a quantised network, which
        :func:`moevit.load_network` reads.
    """
    if isinstance(model, str) and model in PRESETS:
        return Model(path=shipped(model))
    path = readable(Path(model), f"a checkpoint or a size of {', '.join(PRESETS)}")
    if is_quantised(path):
        raise UserError(f"{path}: is quantised; moevit.load_network reads it")
    return Model(path=path)


def random_model(config: ModelConfig | str = "nano", *, seed: int = 0) -> Model:
    """A model with random weights: its images mean nothing, its cycles, bytes and bits do."""
    import torch

    from moevit.model.m3vit import M3ViT

    with documented():
        chosen = size_preset(config) if isinstance(config, str) else config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Model(M3ViT(chosen).eval())


def from_m3vit(path: str | os.PathLike[str], **options: Any) -> Model:
    """An M3ViT checkpoint, its upsampling heads included.

    `options` say what is not in the file: those of
    :func:`moevit.model.importers.m3vit.import_m3vit`, as on the command line.
    """
    from moevit.model.importers.m3vit import import_m3vit

    with _naming(Path(path)):
        return Model._imported(import_m3vit(Path(path), **options))


def from_edge_moe(folder: str | os.PathLike[str], **options: Any) -> Model:
    """An Edge-MoE weight folder; options of
    :func:`moevit.model.importers.edge_moe.import_edge_moe`."""
    from moevit.model.importers.edge_moe import import_edge_moe

    with _naming(Path(folder)):
        return Model._imported(import_edge_moe(Path(folder), **options))


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of sizes that do not fit one another name the file or folder that has them."""
    try:
        with documented():
            yield
    except UserError as error:
        text = str(error)
        raise UserError(text if str(path) in text else f"{path}: {text}") from error.__cause__


def from_timm(name: str, *, weights: str | os.PathLike[str] | None = None, **sizes: Any) -> Model:
    """A plain vision transformer of timm, its weights from a file or, if None, from timm's hub.

    `sizes` are the options of :func:`moevit.model.importers.timm.import_timm`, how it saw pictures
    among them, and timm's arguments of the model (`img_size`, `embed_dim`, `depth` ...).
    """
    from moevit.model.importers.timm import import_timm

    with documented():
        found = import_timm(name, weights=None if weights is None else Path(weights), **sizes)
    return Model._imported(found)
