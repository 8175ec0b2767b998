"""Damage to a program in memory, and what the accelerator makes of it: caught, harmless or silent.

A bit of the program's image is flipped, or the image is cut off, a frame is run in RTL, the memory
is made right again, and another frame is run. Damage is *caught* if the frame ends in an error,
*harmless* if its picture is right all the same (an expert that no token asks for, padding), and
*silent* if the picture is wrong and the device says that it is done. The next frame must be right,
and the device must not have written into the program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moevit.compiler.program import Program
from moevit.hw.checks import code_bytes
from moevit.hw.config import BEAT_BYTES
from moevit.hw.image import HEADER_BYTES, BlockHeader
from moevit.hw.isa import Fetch, Load, LoadKind
from moevit.hw.registers import Error

from .device import Device
from .errors import DeviceError
from .rtl import MEMORY_BASE, RtlDevice

__all__ = ["KINDS", "Damage", "Verdict", "apply", "damages", "judge", "parts", "run_campaign"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

KINDS = (
    *("header", "instructions", "weight stream", "fetched weights", "embedding", "tables"),
    *("anywhere", "truncation"),
)
"""Where damage is done. ``tables``: norms and whatever else is loaded. ``anywhere``: any bit of the
image, other tasks' programs too. ``truncation``: all from a byte on is lost."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """``data`` instead of what the image has at ``offset``, for a frame of ``task``."""

    number: int
    kind: str
    task: str
    offset: int
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        size = f", {len(self.data)} bytes" if len(self.data) > 1 else ""
        return f"{self.number}: {self.kind} of {self.task}, byte {self.offset:#x}{size}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a damaged frame and of the next.

    ``error``: the frame's, NONE if it was done; ``right``: its picture was; ``escaped``: the device
    wrote into the program; ``next_right``: so was the frame behind it.
    """

    damage: Damage
    error: Error
    place: int = 0
    right: bool = False
    escaped: bool = False
    next_right: bool = True

    @property
    def silent(self) -> bool:
        """A wrong picture without an error."""
        return self.error == Error.NONE and not self.right

    @property
    def fault(self) -> bool:
        """Anything that must not be."""
        return self.silent or self.escaped or not self.next_right or self.error == Error.ABORTED


@dataclass
class _Areas:
    """Byte ranges of the image by kind of damage."""

    of: dict[str, list[range]] = field(default_factory=dict)

    def add(self, kind: str, start: int, size: int) -> None:
        self.of.setdefault(kind, []).append(range(start, start + size))


def parts(program: Program, task: str) -> dict[str, list[range]]:
    """Bytes of the image that a task's frame reads, or may read, by the kind of damage to them."""
    header, base, found = program.header(task), program.entry(task).base, _Areas()
    config = program.config
    found.add("header", base, HEADER_BYTES)
    found.add("instructions", base + header.code_offset, code_bytes(header.code_count))
    size = header.stream_beats * BEAT_BYTES * config.memory.ports
    found.add("weight stream", base + header.stream_offset, size)
    for i in program.instructions(task):
        if isinstance(i, Fetch):
            rows = BlockHeader(
                param_rows=i.param_rows, weight_rows=i.weight_rows, packed=bool(i.packed)
            )
            size = rows.beats(config) * BEAT_BYTES * config.memory.ports
            found.add("fetched weights", base + i.address, size)
        elif isinstance(i, Load) and i.kind != LoadKind.PIXELS and not i.stored:
            kind = "embedding" if i.kind == LoadKind.RESIDUAL else "tables"
            found.add(kind, base + i.address, i.beats * BEAT_BYTES)
    found.add("anywhere", 0, len(program.memory))
    found.add("truncation", 0, len(program.memory))
    return found.of


def damages(
    program: Program, seed: int, numbers: range, kinds: Sequence[str] = KINDS
) -> Iterator[Damage]:
    """Random damage; each number's is the same whichever others are asked for.

    Kinds that the program has no bytes of are left out; the others come as often as one another.
    """
    areas = {task: parts(program, task) for task in program.tasks}
    memory: Bytes = program.memory
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        task = str(rng.choice(list(areas)))
        there = [kind for kind in kinds if areas[task].get(kind)]
        kind = str(rng.choice(there))
        ranges = areas[task][kind]
        at = int(rng.integers(sum(map(len, ranges))))
        for one in ranges:
            if at < len(one):
                break
            at -= len(one)
        offset = one.start + at
        if kind == "truncation":
            lost = len(memory) - offset
            fill = (bytes(lost), b"\xff" * lost, rng.bytes(lost))
            data = fill[int(rng.integers(len(fill)))]
        else:
            data = bytes([int(memory[offset]) ^ 1 << int(rng.integers(8))])
        yield Damage(number=number, kind=kind, task=task, offset=offset, data=data)


def apply(memory: Bytes, damage: Damage) -> Bytes:
    """A damaged copy of an image."""
    copy = memory.copy()
    copy[damage.offset : damage.offset + len(damage.data)] = np.frombuffer(damage.data, np.uint8)
    return copy


def judge(
    device: RtlDevice, program: Program, damage: Damage, image: Any, wanted: dict[str, Any]
) -> Verdict:
    """Runs a damaged frame and a good one on a device that has the program.

    ``wanted``: each task's right integers for the image.
    """
    sim = device.simulator
    sim.write(MEMORY_BASE + damage.offset, damage.data)
    error, place, right = Error.NONE, 0, False
    try:
        right = np.array_equal(device.run(image, damage.task).output, wanted[damage.task])  # type: ignore[arg-type]
    except DeviceError as failed:
        error, place = failed.code, failed.damage
    found = np.frombuffer(sim.read(MEMORY_BASE, len(program.memory)), np.uint8)
    escaped = not np.array_equal(found, apply(program.memory, damage))
    sim.write(MEMORY_BASE, program.memory.tobytes())
    try:
        next_right = _right(device, image, damage.task, wanted)
    except DeviceError:
        next_right = False
    return Verdict(
        damage=damage, error=error, place=place, right=right, escaped=escaped, next_right=next_right
    )


def _right(device: Device, image: Any, task: str, wanted: dict[str, Any]) -> bool:
    found = device.run(image, task).output
    return found is not None and np.array_equal(found, wanted[task])


def run_campaign(
    devices: Sequence[RtlDevice],
    program: Program,
    todo: Sequence[Damage],
    image: Any,
    wanted: dict[str, Any],
) -> Iterator[Verdict]:
    """Verdicts in the order of ``todo``, by as many threads as there are ``devices``.

    Raises ``ValueError`` if the sound program's pictures are not the wanted ones.
    """
    for device in devices:
        device.load(program)
        for task in program.tasks:
            if not _right(device, image, task, wanted):
                raise ValueError(f"the sound program's {task} is not what is wanted")

    def share(n: int) -> list[Verdict]:
        mine = todo[n :: len(devices)]
        return [judge(devices[n], program, damage, image, wanted) for damage in mine]

    with ThreadPoolExecutor(len(devices)) as pool:
        shares = list(pool.map(share, range(len(devices))))
    for n in range(len(todo)):
        yield shares[n % len(devices)][n // len(devices)]
