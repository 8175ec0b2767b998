"""A program: one file with everything that a device needs to run a network's tasks."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from moevit.hw.checks import code_bytes, decode_code
from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.formats import ALL, FORMAT, UNSEALED, ImageFormat, Output, check_seal, seal
from moevit.hw.image import HEADER_BYTES, BlockHeader, ProgramHeader
from moevit.hw.isa import Halt, Instruction, decode
from moevit.quant.canonical import canonical
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.network import Geometry

from .plan.layout import Bytes
from .plan.placement import Region
from .plan.schedule import ExpertSchedule

__all__ = ["ALL", "FORMAT", "AllTasks", "ImageFormat", "Output", "Program", "TaskProgram"]


@dataclass(frozen=True, kw_only=True)
class TaskProgram:
    """One task: its base in the memory image, its result, its schedule and a note an instruction.

    ``useful_macs``: multiply-accumulates of the network itself for one image, without padding;
    every token counts ``top_k`` experts.
    """

    base: int
    output: Output
    schedules: tuple[ExpertSchedule, ...]
    notes: tuple[str, ...]
    useful_macs: int


@dataclass(frozen=True, kw_only=True)
class AllTasks:
    """All tasks of one picture in one run, which share what comes before the first router.

    ``outputs``: each task's result in the output area, in the order of execution. ``room``: bytes
    of that area that the device writes, among them a copy of the shared residual. ``useful_macs``
    counts what is shared once.
    """

    base: int
    outputs: dict[str, Output]
    room: int
    notes: tuple[str, ...]
    useful_macs: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A compiled network for one accelerator configuration.

    ``memory`` goes to any address that is a multiple of 64 in the device's memory; a task is run by
    setting the device's program base to that address plus the task's ``base``. ``dial``: what no
    frame's may exceed (:attr:`~moevit.quant.network.Network.dial`).
    """

    config: AcceleratorConfig
    geometry: Geometry
    image: ImageFormat
    memory: Bytes
    tasks: dict[str, TaskProgram]
    regions: tuple[Region, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    all_tasks: AllTasks | None = None
    dial: Dial = AS_COMPILED

    def task(self, name: str) -> TaskProgram:
        """The task called ``name``; raises ``ValueError`` listing those that exist."""
        if name not in self.tasks:
            raise ValueError(f"Unknown task {name!r}; expected one of {', '.join(self.tasks)}")
        return self.tasks[name]

    def entry(self, name: str) -> TaskProgram | AllTasks:
        """The task called ``name``, or all of them together for ``ALL`` where that is there."""
        return self.all_tasks if name == ALL and self.all_tasks is not None else self.task(name)

    def schedules(self, name: str) -> tuple[ExpertSchedule, ...]:
        """The schedule of every MoE layer of an entry, in the order of execution."""
        entry = self.entry(name)
        if isinstance(entry, TaskProgram):
            return entry.schedules
        return tuple(s for task in entry.outputs for s in self.task(task).schedules)

    def header(self, task: str) -> ProgramHeader:
        """The header of an entry's program."""
        return ProgramHeader.decode(self.memory[self.entry(task).base :][:HEADER_BYTES].tobytes())

    def instructions(self, task: str) -> list[Instruction]:
        """An entry's instructions, decoded from the image."""
        header, base = self.header(task), self.entry(task).base
        start = base + header.code_offset
        end = start + code_bytes(header.code_count)
        if end > len(self.memory):
            raise ValueError(f"Program: the code of task {task!r} is cut short")
        code = decode_code(self.memory[start:end].tobytes(), header.code_count)
        for n, (_, sound) in enumerate(code):
            if not sound:
                raise ValueError(f"Program: instruction {n} of task {task!r} is damaged")
        return [decode(word) for word, _ in code]

    def blocks(self, task: str) -> list[BlockHeader]:
        """The headers of the task's weight stream, one for each GEMM that takes new rows from it.

        Raises ``ValueError`` for a stream that does not consist of whole blocks.
        """
        header = self.header(task)
        stream = self.memory[self.entry(task).base + header.stream_offset :]
        found, at = [], 0
        while at < header.stream_beats:
            start = at * BEAT_BYTES
            try:
                block = BlockHeader.decode(stream[start : start + BEAT_BYTES].tobytes())
            except ValueError as error:
                raise ValueError(f"task {task!r}, beat {at} of the stream: {error}") from None
            found.append(block)
            at += 1 + block.beats(self.config)
        if at != header.stream_beats:
            raise ValueError(f"task {task!r}: the last block exceeds the stream")
        return found

    @property
    def output_bytes(self) -> int:
        """Bytes that a caller must provide for the largest result."""
        room = self.all_tasks.room if self.all_tasks else 0
        return max(room, *(t.output.address + t.output.size for t in self.tasks.values()))

    # Files -------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the program; the file appears complete or not at all."""
        path = Path(path)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            scratch.write_bytes(self.to_bytes())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)

    def to_bytes(self) -> bytes:
        """The file's content: safetensors, one tensor ``memory``, everything else as JSON, and a
        SHA-256 over every byte of it all."""
        about = {
            "config": self.config.to_dict(),
            "config_hash": f"{self.config.hash:016x}",
            "geometry": asdict(self.geometry),
            "image": asdict(self.image),
            "tasks": {name: asdict(task) for name, task in self.tasks.items()},
            "regions": [asdict(region) for region in self.regions],
            "meta": self.meta,
            "dial": asdict(self.dial),
        }
        if self.all_tasks is not None:
            about["all_tasks"] = asdict(self.all_tasks)
        metadata = {"format": FORMAT, "program": json.dumps(about), "sha256": UNSEALED}
        return seal(canonical(save({"memory": self.memory}, metadata)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Program:
        """Read a program; raises ``ValueError`` naming the file, field and what was expected."""
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
        """Inverse of :meth:`to_bytes`; checks every part of it."""
        try:
            tensors = load(data)
            size = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        except (SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"not a program file, or cut short ({error})") from None
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format is {metadata.get('format')!r}, expected {FORMAT!r}")
        check_seal(data, metadata.get("sha256"))
        try:
            about = json.loads(metadata["program"])
            memory = tensors["memory"]
            program = cls(
                config=AcceleratorConfig.from_dict(about["config"]),
                geometry=Geometry(**about["geometry"]),
                image=ImageFormat(**about["image"]),
                memory=memory,
                tasks={name: _task(task) for name, task in about["tasks"].items()},
                regions=tuple(Region(**region) for region in about["regions"]),
                meta=about["meta"],
                all_tasks=_all_tasks(about["all_tasks"]) if "all_tasks" in about else None,
                dial=Dial(**about.get("dial", {})),
            )
            config_hash = about["config_hash"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"field {error} of the program is missing or wrong") from None
        if memory.dtype != np.uint8 or memory.ndim != 1:
            raise ValueError(f"memory is {memory.ndim}-d {memory.dtype}, expected 1-d uint8")
        expected = f"{program.config.hash:016x}"
        if config_hash != expected:
            raise ValueError(
                f"config_hash is {config_hash}, expected {expected} for the file's configuration"
            )
        for name in (*program.tasks, *([ALL] if program.all_tasks else ())):
            program._check(name)
        return program

    def _check(self, name: str) -> None:
        """Header, code and stream of one task lie in the image and belong to the configuration."""
        task, header = self.entry(name), self.header(name)
        if header.config_hash != self.config.hash:
            raise ValueError(
                f"task {name!r}: config_hash in the header is {header.config_hash:016x}, "
                f"expected {self.config.hash:016x}"
            )
        stream_bytes = BEAT_BYTES * header.stream_beats * self.config.memory.ports
        if task.base + header.stream_offset + stream_bytes > len(self.memory):
            raise ValueError(f"task {name!r}: the weight stream is cut short")
        code = self.instructions(name)
        if not code or not isinstance(code[-1], Halt):
            raise ValueError(f"task {name!r}: the code does not end with HALT")
        if len(task.notes) != len(code):
            raise ValueError(f"task {name!r}: {len(task.notes)} notes, expected {len(code)}")


def _task(data: dict[str, Any]) -> TaskProgram:
    return TaskProgram(
        base=data["base"],
        output=Output(**data["output"]),
        schedules=tuple(ExpertSchedule.from_dict(s) for s in data["schedules"]),
        notes=tuple(data["notes"]),
        useful_macs=data["useful_macs"],
    )


def _all_tasks(data: dict[str, Any]) -> AllTasks:
    return AllTasks(
        base=data["base"],
        outputs={name: Output(**output) for name, output in data["outputs"].items()},
        room=data["room"],
        notes=tuple(data["notes"]),
        useful_macs=data["useful_macs"],
    )
