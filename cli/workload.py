"""What a command works on: a model, its quantised network, a preset, and the program of the three.

Each part is made when it is first asked for. Quantisation takes long, so its result is kept in the
cache, by the checkpoint's content and the version of the sources.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moevit import model as model_package
from moevit import quant as quant_package
from moevit.compiler import Program, compile_network
from moevit.hw.config import AcceleratorConfig
from moevit.hw.config import preset as hardware_preset
from moevit.model.config import ModelConfig
from moevit.model.config import preset as model_preset
from moevit.quant.io import NETWORK_KEY, load_network, save_network
from moevit.quant.network import Network
from moevit.quant.typing import Report
from moevit.sim import cache
from moevit.sim.backends import Forward

from .errors import UserError
from .files import readable
from .options import DEFAULT_EXPERTS, DEFAULT_METHOD, check_method, expert_bits
from .sources import SCENES, ImageSource

if TYPE_CHECKING:  # torch is imported by those who use it
    from moevit.model.m3vit import M3ViT
    from moevit.quant.float.network import FloatNetwork
    from moevit.quant.ptq.calibrate import Calibration
    from moevit.quant.ptq.layers import Layers
    from moevit.quant.ptq.options import Options

    from .reference import Reference

__all__ = [
    "CALIBRATION_IMAGES",
    "Workload",
    "calibrate_model",
    "make_integers",
    "quantise_model",
]

CALIBRATION_IMAGES = 64
"""Rendered scenes of the calibration split, by default."""


_RENDERED = ImageSource()


def _silent(_what: str, _share: float) -> None:
    pass


def calibrate_model(
    model: M3ViT,
    *,
    count: int = CALIBRATION_IMAGES,
    seed: int = 0,
    source: ImageSource = _RENDERED,
    report: Report = _silent,
) -> tuple[FloatNetwork, Calibration]:
    """A trained model's float parameters and what they do on calibration images."""
    from moevit.model.export.float_network import to_float_network
    from moevit.quant.ptq.calibrate import calibrate

    images = source.calibration(model.config, count, lambda text, share: report(text, 0.4 * share))
    count = len(images)
    network = to_float_network(model)

    def done(finished: int) -> None:
        report(f"calibrating ({finished}/{count})", 0.4 + 0.6 * finished / count)

    done(0)
    return network, calibrate(network, images, seed=seed, progress=done)


def quantise_model(
    model: M3ViT,
    *,
    count: int = CALIBRATION_IMAGES,
    seed: int = 0,
    options: Options | None = None,
    source: ImageSource = _RENDERED,
    report: Report = _silent,
) -> Network:
    """Calibrate a trained model on at most ``count`` images and make it integer."""
    network, calibration = calibrate_model(
        model,
        count=count,
        seed=seed,
        source=source,
        report=lambda text, share: report(text, 0.5 * share),
    )
    quantised, _ = make_integers(
        model,
        network,
        calibration,
        options,
        seed=seed,
        source=source,
        report=lambda text, share: report(text, 0.5 + 0.5 * share),
    )
    report("", 1.0)
    return quantised


def make_integers(
    model: M3ViT,
    network: FloatNetwork,
    calibration: Calibration,
    options: Options | None = None,
    *,
    seed: int = 0,
    source: ImageSource = _RENDERED,
    report: Report = _silent,
) -> tuple[Network, Layers]:
    """The integers of what :func:`calibrate_model` gave of a model, and what they stand for; the
    options may ask for fine-tuning, on images of the source."""
    report("searching scales and rounding", 0.0)
    if options is None or not options.finetune:
        from moevit.quant.ptq.quantize import quantise_with_parts

        return quantise_with_parts(network, calibration, options)
    from moevit.model.training.qat import IMAGES, finetune

    images = source.calibration(model.config, IMAGES, lambda text, share: report(text, 0.1 * share))
    return finetune(
        model,
        network,
        calibration,
        options,
        images,
        seed=seed,
        report=lambda text, share: report(text, 0.1 + 0.9 * share),
    )


class Workload:
    """Model, network, program and hardware of one command.

    Parameters
    ----------
    size:
        Of the shipped model.
    model:
        A checkpoint or a quantised network instead of the shipped model.
    preset:
        Of the hardware.
    image:
        Height and width in pixels: instead of the shipped model one of the size with random
        weights, whose images mean nothing but whose cycles and bytes do.
    experts:
        Format of the experts' weights, "int8" or "int4", for a checkpoint. By default int8; a
        quantised network has what it has.
    method:
        Of quantisation, for a checkpoint (`moevit.quant.ptq.methods`). By default the default one.
    source:
        Images that a checkpoint is calibrated on. By default rendered scenes.
    report:
        Told of quantisation's progress.

    Raises
    ------
    ValueError
        For an unknown size or preset, and a size without a shipped model.
    UserError
        For an unknown format or method, one asked of a network that is quantised already, images
        to calibrate such a network on, and an image size asked of a model that has its own.
    """

    def __init__(
        self,
        *,
        size: str,
        model: Path | None,
        preset: str,
        experts: str | None = None,
        method: str | None = None,
        image: tuple[int, int] | None = None,
        source: ImageSource = _RENDERED,
        report: Report = _silent,
    ) -> None:
        self.config: AcceleratorConfig = hardware_preset(preset)
        self.expert_bits = expert_bits(experts or DEFAULT_EXPERTS)
        self.method = check_method(method or DEFAULT_METHOD)
        self.report, self.source = report, source
        model_preset(size)
        self._random: Reference | None = None
        if image is not None:
            images = None if source.is_default else source
            about = (("--model", model), ("--method", method), (source.option, images))
            for option, value in about:
                if value is not None:
                    raise UserError(f"--image-size: cannot be given together with {option}")
            from .reference import Reference

            self._random = Reference(
                size=size, preset=preset, image=image, experts=experts or DEFAULT_EXPERTS
            )
            self.quantised = True
            return
        if model is None:
            model = _shipped(size)
        self.path = readable(model, "a checkpoint")
        self.quantised = NETWORK_KEY in _metadata(self.path)
        if self.quantised and experts is not None:
            raise UserError(
                f"--experts: {self.path} is quantised already; expected a checkpoint with {experts}"
            )
        if self.quantised and method is not None:
            raise UserError(
                f"--method: {self.path} is quantised already; expected a checkpoint with {method}"
            )

        if self.quantised and source.files:
            raise UserError(
                f"--calibration: {self.path} is quantised already; expected a checkpoint"
            )

    @functools.cached_property
    def options(self) -> Options:
        """How a checkpoint is quantised."""
        from moevit.quant.ptq.methods import method

        return method(self.method, expert_bits=self.expert_bits)

    @functools.cached_property
    def model_config(self) -> ModelConfig:
        """The model's configuration; that of a quantised network is the one it was made from."""
        if self.quantised:
            if "model" not in self.network.meta:
                raise UserError(f"{self.path}: does not say which model it was quantised from")
            text = json.dumps(self.network.meta["model"])
        elif "config" in (metadata := _metadata(self.path)):
            text = metadata["config"]
        else:
            return self.model.config  # its reader says what is wrong with the file
        try:
            return ModelConfig.from_json(text)
        except ValueError as error:
            raise UserError(f"{self.path}: {error}") from None

    @functools.cached_property
    def model(self) -> M3ViT:
        """The float model."""
        from moevit.model.checkpoint import load

        if self.quantised:
            raise UserError(f"{self.path}: is quantised; the float model needs a checkpoint")
        return load(self.path)

    @functools.cached_property
    def forward(self) -> Forward:
        """The float model as a function."""
        from moevit.model.evaluation.evaluate import float_backend

        return float_backend(self.model)

    @functools.cached_property
    def onnx(self) -> Forward:
        """The float model's ONNX export, from the cache, as a function."""
        from moevit.model.export.onnx import export_onnx, onnx_forward

        sources = cache.source_digest(Path(str(model_package.__file__)).parent)
        name = "model.onnx"

        def make(folder: Path) -> None:
            self.report("exporting to ONNX", 0.0)
            export_onnx(self.model, folder / name)

        key = cache.digest(self.path.read_bytes(), sources)
        return onnx_forward(cache.entry("onnx", key, make) / name)

    @functools.cached_property
    def network(self) -> Network:
        """The quantised network: what the file holds, or the checkpoint's, from the cache."""
        if self._random is not None:
            from .reference import reference_network

            return reference_network(self._random, self.report)
        if self.quantised:
            return load_network(self.path)
        self.remark()
        folders = (Path(str(p.__file__)).parent for p in (model_package, quant_package))
        key = cache.digest(
            self.path.read_bytes(),
            cache.source_digest(*folders),
            f"{CALIBRATION_IMAGES}, {self.expert_bits}, {self.method}",
            self.source.key(),
        )
        name = "network.safetensors"

        def make(folder: Path) -> None:
            self.report("loading the model", 0.0)
            network = quantise_model(
                self.model, options=self.options, source=self.source, report=self.report
            )
            save_network(network, folder / name)

        def waiting() -> None:
            self.report("waiting for another process that quantises the same model", 0.0)

        return load_network(cache.entry("networks", key, make, waiting) / name)

    def remark(self) -> None:
        """Tell on standard error if a model of a data set is about to be calibrated on scenes."""
        try:
            trained = json.loads(_metadata(self.path).get("training", "{}")).get("data", SCENES)
        except (ValueError, AttributeError):
            return
        if self.source.is_default and trained != SCENES:
            sys.stderr.write(
                f"moevit: note: {self.path} was trained on {trained} and is calibrated on rendered "
                f"scenes; --data {trained} --root DIR or --calibration PATH takes better ones\n"
            )

    @property
    def reference(self) -> Network | None:
        """The network whose integers a device must give, where that is known."""
        return self.network

    @functools.cached_property
    def program(self) -> Program:
        """All tasks of the network, compiled for the preset."""
        return self.compile()

    def compile(self, tasks: Sequence[str] | None = None, **options: Any) -> Program:
        """The program of some tasks; ``options`` of :func:`~moevit.compiler.compile_network`."""
        return compile_network(self.network, self.config, tasks, **options)


def _shipped(size: str) -> Path:
    """As `moevit.model.checkpoint.shipped_path`, which would import torch."""
    path = Path(str(model_package.__file__)).parent / "checkpoints" / f"{size}.safetensors"
    if not path.is_file():
        raise UserError(
            f"--size: {size!r} has no shipped model; train one and name it by --model, "
            "or give --image-size for random weights"
        )
    return path


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if it is none, and its reader will say why."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, 1 << 24)))
        return dict(header.get("__metadata__", {}))
    except (ValueError, AttributeError):
        return {}
