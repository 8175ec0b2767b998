"""`--set NAME=VALUE`: a model's routing, heads and activations, for the commands that make one."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from moevit.errors import UserError
from moevit.model.config import DECODERS, GATES, ModelConfig
from moevit.quant.operators.activations import ACTIVATIONS

__all__ = ["GATE_SETTINGS", "SETTINGS", "GateSettings", "Settings", "changed", "read"]


_Kind = tuple[Callable[[str], Any], str]


def _whole(text: str) -> int:
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _truth(text: str) -> bool:
    return {"yes": True, "no": False, "true": True, "false": False}[text.lower()]


def _one_of(names: Sequence[str]) -> _Kind:
    def convert(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return convert, " or ".join(names)


_WHOLE: _Kind = (_whole, "a whole number")
_RATIO: _Kind = (float, "a number")
_TRUTH: _Kind = (_truth, "yes or no")

#: What the file of a checkpoint from elsewhere does not say about its gates.
GATE_SETTINGS: dict[str, _Kind] = {
    "gate_input_ahead": _TRUTH,
    "experts_per_task": _WHOLE,
    "expert_starts": (_numbers, "whole numbers separated by commas"),
    "prune_threshold": _RATIO,
    "renormalise": _TRUTH,
}
#: What a new model can be told.
SETTINGS: dict[str, _Kind] = {
    "gate": _one_of(GATES),
    "gate_task_dim": _WHOLE,
    **GATE_SETTINGS,
    "experts": _WHOLE,
    "top_k": _WHOLE,
    "top_p": _RATIO,
    "moe_every": _WHOLE,
    "moe_mlp_ratio": _RATIO,
    "decoder": _one_of(DECODERS),
    "decoder_width": _WHOLE,
    "activation": _one_of(list(ACTIVATIONS)),
    "expert_activation": _one_of(list(ACTIVATIONS)),
}


def _option(names: Sequence[str]) -> Any:
    return typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help=f"Routing, heads, activations, once for each of {', '.join(names)}.",
        show_default=False,
    )


Settings = Annotated[list[str] | None, _option(list(SETTINGS))]
GateSettings = Annotated[list[str] | None, _option(list(GATE_SETTINGS))]


def read(given: Sequence[str] | None, known: dict[str, _Kind] = SETTINGS) -> dict[str, Any]:
    """The values of `--set` by name.

    Raises
    ------
    UserError
        Naming the setting, what was found and what was expected.
    """
    values: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if name not in known or not equals:
            expected = ", ".join(known)
            raise UserError(f"--set: {text!r} is no NAME=VALUE with a name of {expected}")
        convert, expected = known[name]
        try:
            values[name] = convert(value)
        except (KeyError, ValueError):
            raise UserError(f"--set {name}: expected {expected}, not {value!r}") from None
    return values


def changed(config: ModelConfig, given: Sequence[str] | None) -> ModelConfig:
    """`config` with the values of `--set`; UserError for those that do not fit it.

    `moe_mlp_ratio` sets the experts' hidden width; a conditioned gate that is not told its
    channels gets half the model's.
    """
    values = read(given)
    ratio = values.pop("moe_mlp_ratio", None)
    if ratio is not None:
        if not 0 < ratio < math.inf:
            raise UserError(f"--set moe_mlp_ratio: expected a number above 0, not {ratio!r}")
        values["expert_hidden"] = int(config.dim * ratio)
    if values.get("gate") == "conditioned":
        values.setdefault("gate_task_dim", max(config.dim // 2, 1))
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:
        raise UserError(f"--set: {error}") from None
