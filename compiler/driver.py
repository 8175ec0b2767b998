"""The compiler: every task of a network for one accelerator configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moevit.hw.config import AcceleratorConfig
from moevit.quant.network import Head, Network

from .check import prove
from .disasm import disassemble
from .dump import Dump, after_credits, after_emit, after_place, operations
from .graph import Graph
from .link import link
from .lower.context import Context
from .lower.feed_forward import Split
from .lower.frame import lower_frame
from .lower.output import OutputRows
from .macs import shared_macs, useful_macs
from .passes.credits import derive
from .passes.emit import Code, emit
from .passes.order import order
from .passes.place import place
from .plan.all_tasks import AllTasksPlan, plan_all_tasks
from .plan.layout import Bytes, Matrix, Shapes
from .plan.outside import Outside
from .plan.placement import MemoryPlan, plan_memory
from .plan.schedule import DEFAULT_THRESHOLD, ExpertSchedule, expert_schedules
from .plan.tensors import Tensors
from .program import ALL, AllTasks, ImageFormat, Output, Program, TaskProgram

__all__ = ["check_fit", "compile_network", "shared_macs", "useful_macs"]


def check_fit(network: Network, config: AcceleratorConfig) -> None:
    """Raises ``ValueError`` as :func:`compile_network` does if ``config`` cannot hold ``network``,
    of which only the sizes matter."""
    plan_memory(network, Shapes(config=config, geometry=network.geometry))


def compile_network(
    network: Network,
    config: AcceleratorConfig,
    tasks: Sequence[str] | None = None,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    fetched: int = 0,
    all_tasks: bool = False,
    dump: Dump | None = None,
) -> Program:
    """Compile ``tasks`` (default: all) of a quantised network.

    ``threshold`` is the number of tokens an image above which calibration makes an expert worth
    streaming; the ``fetched`` least used of each layer are fetched on demand whatever calibration
    says. Raises ``ValueError`` for an unknown task and for a network that the configuration
    cannot hold, naming each buffer, the bytes needed and there, and the change that would do.
    ``all_tasks`` adds a program of all ``tasks`` of an image (:mod:`.lower.frame`), about as large
    as the others are in all. ``dump`` gets the text of every frame after each pass. A
    program that cannot be proven (:mod:`.check`) is not returned:
    :class:`~moevit.compiler.check.UnprovenError`.
    """
    tasks = list(network.tasks if tasks is None else tasks)
    for task in tasks:
        if task not in network.tasks:
            raise ValueError(f"Unknown task {task!r}; expected one of {', '.join(network.tasks)}")
    if not tasks:
        raise ValueError(f"No task to compile; expected some of {', '.join(network.tasks)}")
    if all_tasks and len(tasks) < 2:
        raise ValueError("All tasks in one run need two tasks or more")
    shapes = Shapes(config=config, geometry=network.geometry)
    plan = plan_memory(network, shapes)
    schedules = {
        task: expert_schedules(network, task, threshold, fetched=fetched) for task in tasks
    }
    frames = _Frames(network, shapes, plan, schedules, dump or _ignore)
    for task in tasks:
        frames.add([task])
    whole = plan_all_tasks(network, shapes, plan) if all_tasks else None
    if whole is not None:
        frames.add(tasks, whole)
    linked = link(frames.codes, config)

    def output(name: str, number: int = 0) -> Output:
        task = tasks[number] if name == ALL else name
        return _output(network, task, frames.rows[name][number], frames.outside[name], number)

    program = Program(
        config=config,
        geometry=network.geometry,
        image=ImageFormat(
            height=network.geometry.image_height,
            width=network.geometry.image_width,
            channels=network.geometry.channels,
            pitch=shapes.image_pitch,
            patch=network.geometry.patch,
            patch_bytes=shapes.patch_bytes,
        ),
        memory=linked.memory,
        tasks={
            task: TaskProgram(
                base=linked.bases[task],
                output=output(task),
                schedules=schedules[task],
                notes=frames.notes(task),
                useful_macs=useful_macs(network, task),
            )
            for task in tasks
        },
        all_tasks=AllTasks(
            base=linked.bases[ALL],
            outputs={task: output(ALL, number) for number, task in enumerate(tasks)},
            room=frames.outside[ALL].size,
            notes=frames.notes(ALL),
            useful_macs=sum(useful_macs(network, task) for task in tasks)
            - (len(tasks) - 1) * shared_macs(network),
        )
        if all_tasks
        else None,
        regions=plan.regions + (whole.regions if whole is not None else ()),
        meta={"threshold": threshold, "network": network.meta},
        dial=network.dial,
    )
    for name in frames.codes if dump is not None else ():
        frames.dump(name, "link", disassemble(program, [name]))
    prove(program)
    return program


class _Frames:
    """Frames of one network, which share packed matrices and the pool."""

    def __init__(
        self,
        network: Network,
        shapes: Shapes,
        plan: MemoryPlan,
        schedules: dict[str, tuple[ExpertSchedule, ...]],
        dump: Dump,
    ) -> None:
        self.network, self.shapes, self.plan, self.dump = network, shapes, plan, dump
        self.schedules = {t: {s.layer: s for s in found} for t, found in schedules.items()}
        self.packed: dict[str, Matrix] = {}
        self.pool: dict[str, Bytes] = {}
        self.codes: dict[str, Code] = {}
        self.rows: dict[str, list[OutputRows]] = {}
        self.outside: dict[str, Outside] = {}

    def add(self, tasks: Sequence[str], shared: AllTasksPlan | None = None) -> None:
        """The frame of one task, or of all of them: every pass, in order."""
        name = tasks[0] if shared is None else ALL
        graph = Graph(config=self.shapes.config, pool=self.pool)
        tensors, slots = Tensors(self.plan, self.shapes, shared), dict[int, str]()
        contexts = [
            Context(
                network=self.network,
                shapes=self.shapes,
                tensors=tensors,
                graph=graph,
                schedules=self.schedules,
                task=task,
                packed=self.packed,
                slots=slots,
            )
            for task in tasks
        ]
        rows = lower_frame(contexts, None if shared is None else Split(tensors))
        self.dump(name, "build", operations(graph))
        outside = Outside.of(self.plan, self.shapes, rows, shared)
        place(graph, self.plan, outside, shared)
        self.dump(name, "place", after_place(graph))
        order(graph)
        self.dump(name, "order", operations(graph))
        credits = derive(graph)
        self.dump(name, "credits", after_credits(graph, credits))
        code = emit(graph, credits)
        self.dump(name, "emit", after_emit(code))
        self.rows[name], self.outside[name], self.codes[name] = rows, outside, code

    def notes(self, name: str) -> tuple[str, ...]:
        """What each instruction is for."""
        return tuple(item.note for item in self.codes[name].items)


def _ignore(frame: str, name: str, lines: Iterator[str]) -> None:
    """Nobody wants to see it."""


def _output(network: Network, task: str, rows: OutputRows, outside: Outside, number: int) -> Output:
    head = network.heads.get(task)
    return Output(
        address=outside.results[number],
        rows=rows.rows,
        columns=rows.columns,
        item_bytes=rows.item_bytes,
        pitch=rows.pitch,
        scale=head.scale if head else network.token_scale,
        channels=head.channels if head else 0,
        upscale=head.upscale if isinstance(head, Head) else 1,
        grid=rows.grid,
    )
