"""Multi-task mixture-of-experts vision transformers, from PyTorch to a bit-exact accelerator.

::

    import moevit

    model = moevit.load("nano")  # or a checkpoint, or moevit.from_timm(...)
    network = model.quantize()  # options as on the command line
    program = network.compile(preset="zcu104")
    with moevit.open_device("sim", program) as device:
        result = device.run("photo.jpg", task="depth")
    print(moevit.estimate(program).cycles, program.disassemble())

Every exception that is raised on purpose derives from :class:`moevit.MoevitError`
(`moevit.errors`); whatever takes long takes a `report`, called with what is being done and the
share of it that is finished. Nothing is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moevit.hw.config import AcceleratorConfig
    from moevit.quant.dial import Dial
    from moevit.quant.typing import Report

    from .configurations import configuration
    from .devices import Device, open_device
    from .errors import CheckFailedError, DeviceError, FileError, MoevitError, UserError
    from .hardware import resources, write_verilog
    from .images import load_image
    from .models import Model, from_edge_moe, from_m3vit, from_timm, load, random_model
    from .networks import Network, blank_network, load_network
    from .programs import Estimates, Program, estimate, load_program
    from .sources import ImageSource, image_source
    from .training import train
    from .version import __version__

__all__ = [
    "AcceleratorConfig",
    "CheckFailedError",
    "Device",
    "DeviceError",
    "Dial",
    "Estimates",
    "FileError",
    "ImageSource",
    "Model",
    "MoevitError",
    "Network",
    "Program",
    "Report",
    "UserError",
    "__version__",
    "blank_network",
    "configuration",
    "estimate",
    "from_edge_moe",
    "from_m3vit",
    "from_timm",
    "image_source",
    "load",
    "load_image",
    "load_network",
    "load_program",
    "open_device",
    "random_model",
    "resources",
    "train",
    "write_verilog",
]

_PLACES = {
    "configurations": ("configuration",),
    "devices": ("Device", "open_device"),
    "errors": ("CheckFailedError", "DeviceError", "FileError", "MoevitError", "UserError"),
    "hardware": ("resources", "write_verilog"),
    "hw.config": ("AcceleratorConfig",),
    "images": ("load_image",),
    "models": ("Model", "from_edge_moe", "from_m3vit", "from_timm", "load", "random_model"),
    "networks": ("Network", "blank_network", "load_network"),
    "programs": ("Estimates", "Program", "estimate", "load_program"),
    "quant.dial": ("Dial",),
    "quant.typing": ("Report",),
    "sources": ("ImageSource", "image_source"),
    "training": ("train",),
    "version": ("__version__",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'moevit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"moevit.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
