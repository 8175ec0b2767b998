"""Program files of ``moevit compile``, read without moevit.

The file is in the safetensors format (https://github.com/huggingface/safetensors, "Format"): the
length of a header, the header in JSON, and the bytes of one tensor, the program's memory image.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moevit.hw.formats import ALL, FORMAT, ImageFormat, Output, check_seal
from moevit.quant.dial import AS_COMPILED, Dial

__all__ = ["Entry", "Program"]

_LARGEST_HEADER = 100_000_000  # of the format


@dataclass(frozen=True)
class Entry:
    """What can be started: its base in the memory image, and its results by task."""

    base: int
    outputs: dict[str, Output]


@dataclass(frozen=True)
class Program:
    """A compiled network as the driver needs it.

    ``config``: name of the accelerator's configuration, ``config_hash`` its hash. ``memory``: uint8
    bytes that go to any multiple of 64. ``experts``: those of a layer that the hardware counts.
    ``entries``: the tasks by name, and ``ALL`` where all of them can run in one frame. ``dial``:
    what no frame's may exceed.
    """

    config: str
    config_hash: int
    clock_mhz: float
    experts: int
    image: ImageFormat
    memory: np.ndarray[Any, np.dtype[np.uint8]]
    entries: dict[str, Entry]
    output_bytes: int
    dial: Dial = AS_COMPILED

    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return [name for name in self.entries if name != ALL]

    def entry(self, name: str) -> Entry:
        """The entry called ``name``; raises ``ValueError`` listing those that exist."""
        if name not in self.entries:
            raise ValueError(f"Unknown task {name!r}; expected one of {', '.join(self.entries)}")
        return self.entries[name]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Program:
        """Reads a program; raises ``ValueError`` naming the file, field and what was expected."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            return cls.from_bytes(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_bytes(cls, data: bytes) -> Program:
        """A program from the bytes of its file, all of which its SHA-256 covers."""
        about, memory = _contents(data)
        try:
            entries = {
                name: Entry(base=task["base"], outputs={name: Output(**task["output"])})
                for name, task in about["tasks"].items()
            }
            room = 0
            if "all_tasks" in about:
                joint = about["all_tasks"]
                outputs = {name: Output(**o) for name, o in joint["outputs"].items()}
                entries[ALL] = Entry(base=joint["base"], outputs=outputs)
                room = joint["room"]
            ends = (o.address + o.size for e in entries.values() for o in e.outputs.values())
            config = about["config"]
            return cls(
                config=config["name"],
                config_hash=int(about["config_hash"], 16),
                clock_mhz=float(config["clock_mhz"]),
                experts=config["limits"]["experts"],
                image=ImageFormat(**about["image"]),
                memory=np.frombuffer(memory, np.uint8),
                entries=entries,
                output_bytes=max(room, *ends),
                dial=Dial(**about.get("dial", {})),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"field {error} of the program is missing or wrong") from None


def _contents(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON about the program, and its memory image."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, _LARGEST_HEADER):
        raise ValueError("not a program file, or cut short")
    try:
        header = json.loads(data[8 : 8 + size])
        metadata = header.get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format is {metadata.get('format')!r}, expected {FORMAT!r}")
        check_seal(data, metadata.get("sha256"))
        tensor, about = header["memory"], json.loads(metadata["program"])
        first, last = tensor["data_offsets"]
        kind = tensor["dtype"]
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a program file ({type(error).__name__}: {error})") from None
    memory = data[8 + size + first : 8 + size + last]
    if kind != "U8" or len(memory) != last - first:
        raise ValueError(f"memory is {kind} of {len(memory)} bytes, expected U8 of {last - first}")
    return about, memory
