"""Makes ``import timm`` work where torch and torchvision come from different builds.

A CPU build of torch beside the registry's torchvision fails at import, because torchvision's native
library, which registers the operator ``torchvision::nms``, cannot be loaded. timm imports
torchvision but we use none of its native operators, so it is enough that their schemas exist. They
are defined only after a first import has failed: a good installation keeps its own.

Import this module before timm.
"""

from __future__ import annotations

import importlib
import sys

import torch

__all__: list[str] = []

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_library: torch.library.Library | None = None  # the definitions live as long as this object


def _import_torchvision() -> None:
    global _library
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            _library.define(schema)  # type: ignore[no-untyped-call]
        importlib.import_module("torchvision")


_import_torchvision()
