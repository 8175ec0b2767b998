"""The backends that are software, and every backend by its name, those of other packages too."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from moevit.compiler.program import Program
from moevit.hw.config import AcceleratorConfig
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.golden import Golden
from moevit.quant.network import Network
from moevit.quant.typing import Report, silent

from .backend_names import BACKENDS
from .counters import Counters
from .device import Device, Progress, Result, planes
from .interpreter import Interpreter
from .memory_timing import MemoryTiming

if TYPE_CHECKING:
    from .trace.recording import Recorder

__all__ = [
    "BACKENDS",
    "Forward",
    "GoldenDevice",
    "InterpreterDevice",
    "OnnxDevice",
    "Sources",
    "TorchDevice",
    "open_device",
]

Forward = Callable[[Any, str], Any]
"""A float model: images ``(B, H, W, 3)`` uint8 and a task to raw outputs ``(B, C, h, w)``."""


class Sources(Protocol):
    """What backends are made from; each is asked for only by the backends that need it."""

    @property
    def config(self) -> AcceleratorConfig:
        """The build of the accelerator."""

    @property
    def network(self) -> Network:
        """The quantised network."""

    @property
    def forward(self) -> Forward:
        """The float model."""

    def dialled(self, dial: Dial) -> Forward:
        """The float model of a frame with ``dial``."""

    @property
    def onnx(self) -> Forward:
        """The float model's ONNX export."""


class _Software:
    """What the software backends have in common: no counters, nothing to give back."""

    name = ""

    def __init__(self) -> None:
        self._program: Program | None = None
        self._counters: Counters | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forgets the program."""
        self._program = None

    @property
    def counters(self) -> Counters | None:
        """Software has none."""
        return self._counters

    @property
    def program(self) -> Program:
        """The loaded program; ``ValueError`` if there is none."""
        if self._program is None:
            raise ValueError("The device has no program; load one first")
        return self._program

    def load(self, program: Program) -> None:
        """Makes ``program`` the one that is run."""
        self._program = program

    def run(
        self,
        image: Any,
        task: str,
        *,
        dial: Dial = AS_COMPILED,
        progress: Progress | None = None,
    ) -> Result:
        """One image; see :class:`~.device.Device`."""
        raise NotImplementedError

    def run_all(
        self, image: Any, *, dial: Dial = AS_COMPILED, progress: Progress | None = None
    ) -> dict[str, Result]:
        """One image under all tasks, one after the other."""
        tasks = self.program.tasks
        return {task: self.run(image, task, dial=dial, progress=progress) for task in tasks}


class TorchDevice(_Software):
    """The float model. It takes tasks and image size from the program, and nothing else."""

    name = "torch"

    def __init__(self, forward: Forward, dialled: Callable[[Dial], Forward] | None = None) -> None:
        super().__init__()
        self._forwards, self._dialled = {AS_COMPILED: forward}, dialled

    def run(
        self,
        image: Any,
        task: str,
        *,
        dial: Dial = AS_COMPILED,
        progress: Progress | None = None,
    ) -> Result:
        """One image; see :class:`~.device.Device`."""
        self.program.task(task)
        self.program.image.pack(image)  # for its checks
        dial.check(self.program.dial)
        if dial not in self._forwards:
            if self._dialled is None:
                raise ValueError(f"Backend {self.name} has its routers' limits built in: no dial")
            self._forwards[dial] = self._dialled(dial)
        raw = self._forwards[dial](np.asarray(image)[None], task)[0]
        return Result(task=task, output=None, planes=np.asarray(raw, np.float32), counters=None)


class OnnxDevice(TorchDevice):
    """The float model's ONNX export in onnxruntime."""

    name = "onnx"


class GoldenDevice(_Software):
    """The integer reference. The program must be of the same network."""

    name = "golden"

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._golden = Golden(network)
        self._dialled: dict[Dial, Golden] = {}

    def load(self, program: Program) -> None:
        """Makes ``program`` the one that is run; ``ValueError`` if its network is another one."""
        network = self._golden.network
        if program.geometry != network.geometry:
            raise ValueError(
                f"The program is of a network with {program.geometry}, not {network.geometry}"
            )
        unknown = [task for task in program.tasks if task not in network.tasks]
        if unknown:
            raise ValueError(f"The program's task {unknown[0]!r} is none of {network.tasks}")
        super().load(program)

    def run(
        self,
        image: Any,
        task: str,
        *,
        dial: Dial = AS_COMPILED,
        progress: Progress | None = None,
    ) -> Result:
        """One image; see :class:`~.device.Device`."""
        self.program.task(task)
        dial.check(self.program.dial)
        golden = self._dialled.setdefault(dial, Golden(self._golden.network.dialled(dial)))
        output = golden.run(image, task).output
        return Result(
            task=task, output=output, planes=planes(self.program, task, output), counters=None
        )


class InterpreterDevice(_Software):
    """The program's instructions, one after the other, on a memory as the accelerator's."""

    name = "interpreter"

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__()
        self._interpreter = Interpreter(config)
        self._memory = np.zeros(0, np.uint8)
        self._image = self._output = 0

    def load(self, program: Program) -> None:
        """Puts the program into memory; that it fits the configuration is checked in each frame."""
        self._image = -(-len(program.memory) // 64) * 64
        self._output = -(-(self._image + program.image.size) // 64) * 64
        self._memory = np.zeros(self._output + program.output_bytes, np.uint8)
        self._memory[: len(program.memory)] = program.memory
        super().load(program)

    def run(
        self,
        image: Any,
        task: str,
        *,
        dial: Dial = AS_COMPILED,
        progress: Progress | None = None,
    ) -> Result:
        """One image; see :class:`~.device.Device`."""
        program, memory = self.program, self._memory
        about = program.task(task)
        dial.check(program.dial)
        memory[self._image : self._image + program.image.size] = program.image.pack(image)
        self._interpreter.run(
            memory,
            program_base=about.base,
            image_base=self._image,
            output_base=self._output,
            dial=dial,
        )
        start = self._output + about.output.address
        output = about.output.unpack(memory[start : start + about.output.size])
        return Result(task=task, output=output, planes=planes(program, task, output), counters=None)


GROUP = "moevit.backends"
"""Entry points of packages that bring a backend: its name, and what makes one of the sources."""


def _others() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def open_device(
    name: str,
    sources: Sources,
    *,
    timing: MemoryTiming | None = None,
    recorder: Recorder | None = None,
    report: Report = silent,
) -> Device:
    """The backend called ``name``; raises ``ValueError`` naming those that exist.

    ``timing`` is of the memory model of ``sim``, and ``recorder`` gets what its accelerator does;
    ``report`` is told of what takes long.
    """
    if name == "torch":
        return TorchDevice(sources.forward, sources.dialled)
    if name == "onnx":
        return OnnxDevice(sources.onnx)
    if name == "golden":
        return GoldenDevice(sources.network)
    if name == "interpreter":
        return InterpreterDevice(sources.config)
    if name == "sim":
        from .rtl import RtlDevice  # Amaranth only where Verilog may have to be generated

        return RtlDevice(sources.config, timing=timing, recorder=recorder, report=report)
    if name in BACKENDS:
        device: Device = _others()[name].load()(sources)
        return device
    raise ValueError(f"Unknown backend {name!r}; expected one of {', '.join(BACKENDS)}")
