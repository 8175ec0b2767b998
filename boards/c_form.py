"""The C side of the driver: its generated header, and programs in a form that C reads.

The header's numbers are those of :mod:`moevit.hw.registers`; the layout of a program file is told
here, once, for both sides: little endian, fields without gaps. A file is a head, its entries, and
the memory image.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from moevit.hw import registers
from moevit.hw.formats import Output

from .driver import __file__ as _DRIVER
from .driver.program import Program

__all__ = ["SUFFIX", "c_files", "c_program", "registers_header"]

SUFFIX = ".mvp"
MAGIC = int.from_bytes(b"MVPC", "little")
VERSION = 2
NAME_BYTES = 32

_TYPES = {"I": "uint32_t", "Q": "uint64_t", "f": "float", f"{NAME_BYTES}s": "char"}
Fields = Sequence[tuple[str, str, str]]

_HEAD: Fields = (
    ("magic", "I", ""),
    ("version", "I", ""),
    ("config_hash", "Q", "of the accelerator's configuration"),
    ("memory_bytes", "I", "of the memory image"),
    ("output_bytes", "I", "of the output buffer"),
    ("height", "I", "of the image, in pixels"),
    ("width", "I", ""),
    ("channels", "I", ""),
    ("pitch", "I", "bytes from one row of pixels to the next"),
    ("entries", "I", "that follow"),
    ("checksum", "I", "CRC-32 of the memory image"),
    ("top_k", "I", "the most experts a token; 0: there are none"),
    ("least", "I", "the least score of an expert"),
    ("enough", "I", "no expert behind scores that add up to that; 0: all"),
    ("reserved", "I", ""),
)
_ENTRY: Fields = (
    ("name", f"{NAME_BYTES}s", "what is started: a task, or all of them"),
    ("task", f"{NAME_BYTES}s", "whose output this is"),
    ("base", "I", "in the memory image"),
    ("address", "I", "of the output in its buffer"),
    ("rows", "I", ""),
    ("columns", "I", "integers of a row"),
    ("item_bytes", "I", "of an integer, signed"),
    ("pitch", "I", "bytes from one row to the next"),
    ("plane_count", "I", "channels of the head; 0: tokens"),
    ("upscale", "I", "a row holds upscale x upscale sub-pixels of each channel"),
    ("grid_down", "I", "rows are places of a grid, in raster order"),
    ("grid_across", "I", ""),
    ("scale", "f", "makes floats of the integers"),
    ("reserved", "I", ""),
)


def _format(fields: Fields) -> struct.Struct:
    return struct.Struct("<" + "".join(code for _, code, _ in fields))


def c_program(program: Program) -> bytes:
    """A program's file for C. ``ValueError`` for a task's name of 32 bytes or more."""
    memory = program.memory.tobytes()
    entries = [
        _entry(name, task, entry.base, output)
        for name, entry in program.entries.items()
        for task, output in entry.outputs.items()
    ]
    image = program.image
    if image.gaps:
        raise ValueError(
            f"The C library copies whole rows of pixels; patches of {image.patch} pixels have gaps "
            f"between them in memory ({image.patch_bytes} bytes each): use the Python driver"
        )
    head = _format(_HEAD).pack(
        MAGIC,
        VERSION,
        program.config_hash,
        len(memory),
        program.output_bytes,
        image.height,
        image.width,
        image.channels,
        image.pitch,
        len(entries),
        zlib.crc32(memory),
        program.dial.top_k,
        program.dial.least,
        program.dial.enough,
        0,
    )
    return head + b"".join(entries) + memory


def _entry(name: str, task: str, base: int, output: Output) -> bytes:
    names = [text.encode() for text in (name, task)]
    for text in names:
        if len(text) >= NAME_BYTES:
            raise ValueError(f"Task {text.decode()!r} has a name of {NAME_BYTES} bytes or more")
    return _format(_ENTRY).pack(
        *names,
        base,
        output.address,
        output.rows,
        output.columns,
        output.item_bytes,
        output.pitch,
        output.channels,
        output.upscale,
        *output.grid,
        output.scale,
        0,
    )


def _enum(name: str, prefix: str, kind: type[IntEnum]) -> list[str]:
    members = [
        f"  {prefix}{member.name} = {int(member):#x}, /* {getattr(member, 'meaning', '')} */"
        for member in kind
    ]
    return [f"enum {name} {{", *members, "};", ""]


def _struct(name: str, fields: Fields) -> list[str]:
    lines = [f"struct {name} {{"]
    for field, code, about in fields:
        size = f"[{NAME_BYTES}]" if code.endswith("s") else ""
        comment = f" /* {about} */" if about else ""
        lines.append(f"  {_TYPES[code]} {field}{size};{comment}")
    total = _format(fields).size
    lines += ["};", f'_Static_assert(sizeof(struct {name}) == {total}, "no gaps");', ""]
    return lines


def registers_header() -> str:
    """``moevit_registers.h``."""
    r = registers
    meanings = [f'    [{int(error)}] = "{error.meaning}", \\' for error in r.Error]
    lines = [
        "/* Made by moevit (boards/c_form.py) from hw/registers.py; not to be changed here. */",
        "#ifndef MOEVIT_REGISTERS_H",
        "#define MOEVIT_REGISTERS_H",
        "#include <stdint.h>",
        "#ifdef __cplusplus",
        "#define _Static_assert static_assert",
        "#endif",
        "",
        f"#define MOEVIT_DEVICE_ID {r.DEVICE_ID:#010x}u",
        f"#define MOEVIT_COUNTER_BASE {r.COUNTER_BASE:#x}u",
        f"#define MOEVIT_EXPERT_BASE {r.EXPERT_BASE:#x}u",
        f"#define MOEVIT_PROGRAM_MAGIC {MAGIC:#010x}u",
        f"#define MOEVIT_PROGRAM_VERSION {VERSION}u",
        "",
        "/* Byte offsets of registers. */",
        *_enum("moevit_register", "MOEVIT_", r.Register),
        "/* Bit numbers. */",
        *_enum("moevit_control", "MOEVIT_CONTROL_", r.Control),
        *_enum("moevit_status", "MOEVIT_STATUS_", r.Status),
        "/* Values of ERROR, and what they mean. */",
        *_enum("moevit_error", "MOEVIT_ERROR_", r.Error),
        "#define MOEVIT_MEANINGS { \\",
        *meanings,
        "  }",
        "",
        "/* Counter n is at MOEVIT_COUNTER_BASE + 4 * n. */",
        *_enum("moevit_counter", "MOEVIT_COUNTER_", r.Counter),
        "/* A program file: a head, its entries, the memory image. */",
        *_struct("moevit_program_head", _HEAD),
        *_struct("moevit_program_entry", _ENTRY),
        "#endif",
        "",
    ]
    return "\n".join(lines)


def c_files() -> dict[str, bytes]:
    """Path within a bundle to content: the C library, its header of numbers among it."""
    folder = Path(_DRIVER).with_name("c")
    files = {f"c/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.[ch]"))}
    files["c/moevit_registers.h"] = registers_header().encode()
    return files
