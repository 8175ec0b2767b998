"""Safetensors files that are equal where their content is."""

from __future__ import annotations

import json

__all__ = ["canonical"]


def canonical(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted: safetensors writes it in an order that varies
    from run to run."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
