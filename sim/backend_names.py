"""The backends by name, apart from their code: a list of them should import none."""

from __future__ import annotations

__all__ = ["BACKENDS"]

BACKENDS = {
    "torch": "the float model",
    "onnx": "its ONNX export in onnxruntime",
    "golden": "the integer reference",
    "interpreter": "the program, instruction by instruction",
    "sim": "the verilated accelerator",
    "board": "the accelerator of this board",
    "remote": "the device of a `moevit serve` elsewhere",
}
"""What runs a network, from the fastest to the truest, and what it is."""
