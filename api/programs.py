"""Programs: what a device runs, what it costs, and how it reads."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moevit import compiler
from moevit.compiler import check, disasm
from moevit.compiler.cost.estimate import Estimate
from moevit.compiler.cost.estimate import estimate as estimate_task
from moevit.compiler.cost.timeline import estimated_timeline
from moevit.compiler.timeline import Timeline
from moevit.hw.config import AcceleratorConfig
from moevit.model.config import ModelConfig
from moevit.quant.typing import Report, silent

from .configurations import DEFAULT_PRESET, PresetLike, configuration
from .errors import documented
from .files import readable, write_bytes
from .tasks import ALL_TASKS, selected

if TYPE_CHECKING:
    from .networks import Network

__all__ = ["Estimates", "Program", "estimate", "load_program"]


class Program:
    """Everything that an accelerator needs to run tasks. Made by :meth:`moevit.Network.compile` or
    :func:`load_program`.

    `linked` is what the layers below work with. `network` is what it was compiled from, where that
    is at hand: a program's file does not hold it.
    """

    def __init__(
        self,
        linked: compiler.Program,
        *,
        path: Path | None = None,
        network: Network | None = None,
    ) -> None:
        self.linked, self.path, self.network = linked, path, network

    def __repr__(self) -> str:
        return f"<moevit.Program for {self.config.name}, tasks {', '.join(self.tasks)}>"

    @property
    def config(self) -> AcceleratorConfig:
        """The accelerator that it was compiled for; it runs on no other."""
        return self.linked.config

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks."""
        return tuple(self.linked.tasks)

    @functools.cached_property
    def model_config(self) -> ModelConfig:
        """The configuration of the model; `UserError` where the program does not say."""
        if self.network is not None:
            return self.network.config
        from .networks import model_config

        about = self.linked.meta.get("network", {}).get("model")
        return model_config(about, str(self.path or "program"), "compiled")

    def to_bytes(self) -> bytes:
        """The program's file."""
        return self.linked.to_bytes()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the program, whole or not at all."""
        with documented():
            write_bytes(Path(path), self.to_bytes())

    def listing(self, tasks: str | Sequence[str] = ALL_TASKS) -> Iterator[str]:
        """The lines of :meth:`disassemble`, one by one."""
        return disasm.disassemble(self.linked, selected(tasks, self.tasks))

    def disassemble(self, tasks: str | Sequence[str] = ALL_TASKS) -> str:
        """Instructions with their shapes and addresses, and the expert schedule, for people."""
        return "\n".join(self.listing(tasks))

    def proof(self) -> check.Report:
        """What :meth:`verify` finds, entry by entry; nothing is raised."""
        with documented():
            return check.verify(self.linked)

    def verify(self) -> check.Report:
        """Proves the program: every read sees the write that it should, nothing waits for ever,
        every address lies inside its memory and every weight is used once and in order.

        Raises
        ------
        CheckFailedError
            Naming the task, the instructions and the words in dispute.
        """
        report = self.proof()
        report.require(str(self.path or "program"))
        return report


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What a program is expected to cost, task by task, and in all.

    `useful_macs` are the products that the networks ask for; `macs_per_cycle` those that the array
    can do. `timelines`: what each unit is expected to do, where that was asked for.
    """

    tasks: Mapping[str, Estimate]
    useful_macs: int
    macs_per_cycle: int
    timelines: tuple[Timeline, ...] = ()

    @property
    def cycles(self) -> int:
        """Of all tasks, one after the other."""
        return sum(found.cycles for found in self.tasks.values())

    @property
    def mac_utilisation(self) -> float:
        """Share of the array's products that are useful."""
        return self.useful_macs / (self.cycles * self.macs_per_cycle)

    @property
    def bytes_read(self) -> int:
        """From memory."""
        return sum(found.bytes_read for found in self.tasks.values())

    @property
    def by_engine(self) -> dict[str, int]:
        """Cycles that each engine works, or the array waits."""
        names = {name for found in self.tasks.values() for name in found.by_engine}
        return {
            name: sum(found.by_engine.get(name, 0) for found in self.tasks.values())
            for name in sorted(names)
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "cycles": self.cycles,
            "mac_utilisation": self.mac_utilisation,
            "bytes_read": self.bytes_read,
            "by_engine": self.by_engine,
            "tasks": {name: found.to_dict() for name, found in self.tasks.items()},
        }


def estimate(
    what: Program | Network,
    tasks: str | Sequence[str] = ALL_TASKS,
    *,
    preset: PresetLike = DEFAULT_PRESET,
    timelines: bool = False,
    report: Report = silent,
) -> Estimates:
    """Cycles, utilisation and bytes by the compiler's model, without simulating anything.

    Tokens go to experts as in calibration; memory is the board's DDR4. Of a network the tasks are
    compiled for `preset`, one at a time: programs of large networks are large. With `timelines`
    the answer has what each unit is expected to do, cycle by cycle, of one task after the other.

    Raises
    ------
    UserError
        For an unknown task, and of a network as :meth:`moevit.Network.compile`.
    """
    from moevit.sim.rtl import board_memory

    config = what.config if isinstance(what, Program) else configuration(preset)
    chosen, timing = selected(tasks, what.tasks), board_memory(config)
    found, macs, drawn = {}, 0, []
    for number, name in enumerate(chosen):
        if isinstance(what, Program):
            program = what.linked
        else:
            report(f"compiling {name}", number / len(chosen))
            program = what.compile(config, [name]).linked
        with documented():
            found[name] = estimate_task(program, name, timing)
            if timelines:
                drawn.append(estimated_timeline(program, [name], timing))
        macs += program.task(name).useful_macs
    return Estimates(
        tasks=found,
        useful_macs=macs,
        macs_per_cycle=config.array.macs,
        timelines=tuple(drawn),
    )


def load_program(path: str | os.PathLike[str]) -> Program:
    """The program in a file of `moevit compile` or :meth:`Program.save`.

    Raises
    ------
    UserError
        Naming the file, if it is missing, damaged or something else.
    """
    chosen = readable(Path(path), "a program of `moevit compile`")
    with documented():
        return Program(compiler.Program.load(chosen), path=chosen)
