"""From a trained model to integers: calibration, then the search for scales and codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moevit.quant.errors import UserError
from moevit.quant.typing import Report, part_of, silent

from .sources import RENDERED, ImageSource

if TYPE_CHECKING:  # torch is imported by those who use it
    from moevit.model.m3vit import M3ViT
    from moevit.quant.float.network import FloatNetwork
    from moevit.quant.network import Network
    from moevit.quant.ptq.calibrate import Calibration
    from moevit.quant.ptq.layers import Layers
    from moevit.quant.ptq.options import Options

__all__ = [
    "CALIBRATION_IMAGES",
    "DEFAULT_EXPERTS",
    "DEFAULT_METHOD",
    "EXPERTS",
    "WEIGHTS",
    "Quantised",
    "calibrate_model",
    "expert_bits",
    "make_integers",
    "narrow_classes",
    "quantise_model",
    "quantiser_options",
]

CALIBRATION_IMAGES = 64
"""Rendered scenes of the calibration split, by default."""

DEFAULT_EXPERTS = "int8"
DEFAULT_METHOD = "default"
EXPERTS = {"int8": 8, "int4": 4}
"""Formats of the experts' weights by name, and their bits."""

WEIGHTS = tuple(EXPERTS)
"""Formats of all weights by name: int4 takes in the experts and the dense layers that bear it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantised:
    """A quantised network and what it was made from.

    `exact` are the float parameters, `calibration` what they did on the images, `layers` the floats
    that the integers stand for.
    """

    network: Network
    exact: FloatNetwork
    calibration: Calibration
    layers: Layers


def expert_bits(name: str, where: str = "experts") -> int:
    """Bits of the experts' weights, of their format's name; `UserError` for an unknown one."""
    if name not in EXPERTS:
        raise UserError(f"{where}: unknown format {name!r}; expected {', '.join(EXPERTS)}")
    return EXPERTS[name]


def narrow_classes(weights: str, where: str = "weights") -> tuple[str, ...]:
    """Classes of dense layers whose weights have 4 bits, of a format's name; `UserError` for an
    unknown one. For :attr:`moevit.quant.ptq.options.Options.narrow`."""
    from moevit.quant.ptq.options import NARROW

    if weights not in WEIGHTS:
        raise UserError(f"{where}: unknown format {weights!r}; expected {', '.join(WEIGHTS)}")
    return NARROW if weights == "int4" else ()


def quantiser_options(
    experts: str = DEFAULT_EXPERTS,
    method: str = DEFAULT_METHOD,
    changes: Mapping[str, Any] | None = None,
) -> Options:
    """A method's options with `changes`; `UserError` for an unknown name or a value out of range.

    `changes` are fields of :class:`moevit.quant.ptq.options.Options`.
    """
    from moevit.quant.ptq.methods import METHODS
    from moevit.quant.ptq.methods import method as options_of

    if method not in METHODS:
        raise UserError(f"method: unknown method {method!r}; expected {', '.join(METHODS)}")
    options = options_of(method, expert_bits=expert_bits(experts))
    known = [field.name for field in dataclasses.fields(options) if field.name != "expert_bits"]
    for name in changes or {}:
        if name not in known:
            raise UserError(f"{name}: unknown option; expected {', '.join(known)}")
    try:
        return dataclasses.replace(options, **dict(changes or {}))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from None


def calibrate_model(
    model: M3ViT,
    *,
    count: int = CALIBRATION_IMAGES,
    seed: int = 0,
    source: ImageSource = RENDERED,
    report: Report = silent,
) -> tuple[FloatNetwork, Calibration]:
    """A trained model's float parameters and what they do on at most `count` images."""
    from moevit.model.export.float_network import to_float_network
    from moevit.quant.ptq.calibrate import calibrate

    images = source.calibration(model.config, count, part_of(report, 0.0, 0.4))
    count = len(images)
    network = to_float_network(model)

    def done(finished: int) -> None:
        report(f"calibrating ({finished}/{count})", 0.4 + 0.6 * finished / count)

    done(0)
    return network, calibrate(network, images, seed=seed, progress=done)


def make_integers(
    model: M3ViT,
    network: FloatNetwork,
    calibration: Calibration,
    options: Options | None = None,
    *,
    seed: int = 0,
    source: ImageSource = RENDERED,
    report: Report = silent,
) -> tuple[Network, Layers]:
    """The integers of what :func:`calibrate_model` gave of a model, and what they stand for; the
    options may ask for fine-tuning, on images of the source."""
    report("searching scales and rounding", 0.0)
    if options is None or not options.finetune:
        from moevit.quant.ptq.quantize import quantise_with_parts

        return quantise_with_parts(network, calibration, options)
    from moevit.model.training.qat import IMAGES, finetune

    images = source.calibration(model.config, IMAGES, part_of(report, 0.0, 0.1))
    report = part_of(report, 0.1, 0.9)
    return finetune(model, network, calibration, options, images, seed=seed, report=report)


def quantise_model(
    model: M3ViT,
    *,
    count: int = CALIBRATION_IMAGES,
    seed: int = 0,
    options: Options | None = None,
    source: ImageSource = RENDERED,
    report: Report = silent,
) -> Quantised:
    """Calibrate a trained model on at most `count` images and make it integer."""
    exact, calibration = calibrate_model(
        model, count=count, seed=seed, source=source, report=part_of(report, 0.0, 0.5)
    )
    network, layers = make_integers(
        model,
        exact,
        calibration,
        options,
        seed=seed,
        source=source,
        report=part_of(report, 0.5, 0.5),
    )
    report("", 1.0)
    return Quantised(network=network, exact=exact, calibration=calibration, layers=layers)
