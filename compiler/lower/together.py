"""All tasks of one picture in one program: what they share is computed once.

Up to the first router every task computes the same. The program runs that prefix, keeps the
router's input in regions of its own, stores the residual behind the results, and goes on task
after task, each from a copy of the residual that is loaded back. Where the chip has room for two
residuals and for head outputs beside ``work``, a copy is loaded and results are stored while the
task before still computes; otherwise the compute engine waits for both between tasks.

Nothing is overwritten while it is still to be read: the router's input is written once. The experts
of the first task wait until the residual is saved. A residual is loaded when the result that came
out of its region has been stored, which orders it behind the last norm that read it.

Groups of heads and pieces of tokens (:mod:`..plan.tiling`) go as in a frame of one task. Norms
whose parameters come one by one do not: the next task would need those of its first blocks again;
nor do tokens that pass through the chip, whose residual has no copy there to go on from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from moevit.hw.config import BEAT_BYTES
from moevit.hw.isa import Halt, Load, LoadKind, Store, Sync
from moevit.quant.network import Moe, Network

from ..plan.buffers import gates_ahead, head_words
from ..plan.layout import Shapes
from ..plan.placement import MemoryPlan, Region
from .context import Context
from .emit import Semaphore
from .frame import OutputRows, lower_input, lower_output
from .task import lower_attention_half, lower_block, lower_mlp_half

__all__ = ["TogetherPlan", "lower_together", "plan_together"]

# In these programs, which hold everything on the chip and load pixels only in front:
_STORED = Semaphore.SPILLED
"""STORE -> SYNC: memory holds it"""
_RESTORED = Semaphore.LOADED
"""load of a stored residual -> SYNC in front of the experts that add to it"""


@dataclass(frozen=True, kw_only=True)
class TogetherPlan:
    """A plan and, beside it, what an all-tasks program needs.

    ``kept``: what the first router and its experts read; ``gate``: what the router reads instead,
    where that is the residual in front of the block (empty elsewhere). ``residuals``: one region or
    two, used in turn. ``outputs``: where heads write, ``work`` itself if there is one residual.
    ``first``: the first block with experts.
    """

    base: MemoryPlan
    kept: Region
    gate: Region
    residuals: tuple[Region, ...]
    outputs: Region
    first: int

    def of(self, task: int) -> MemoryPlan:
        """The plan that task number ``task`` is lowered with."""
        return replace(self.base, residual=self.residuals[task % len(self.residuals)])

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions that are not in ``base``."""
        extra = [self.kept, *([self.gate] if self.gate.size else [])]
        if len(self.residuals) > 1:
            extra += [self.residuals[1], self.outputs]
        return tuple(extra)


def plan_together(network: Network, shapes: Shapes, plan: MemoryPlan) -> TogetherPlan:
    """Room for all tasks; raises ``ValueError`` naming what is missing."""
    memory, n = shapes.config.memory, shapes.tokens
    if plan.maps:
        raise ValueError(
            f"All tasks in one run need linear heads, that of {min(plan.maps)} upsamples: "
            "run the tasks one by one"
        )
    first = next((i for i, b in enumerate(network.blocks) if isinstance(b.mlp, Moe)), None)
    if first is None:
        raise ValueError("All tasks in one run need a block with experts; the network has none")
    whole = 2 * len(network.blocks) + (network.norm is not None)
    if plan.spill or plan.tiling.norms != whole:
        what = "tokens pass through it" if plan.spill else "norms' parameters come one by one"
        raise ValueError(
            f"All tasks in one run need all tokens and norms on the chip; on preset "
            f"{shapes.config.name!r} {what}: run the tasks one by one"
        )
    end = max(r.end for r in plan.regions if r.memory == "A")
    kept = Region(name="router input", memory="A", base=end, size=n * shapes.chunks)
    ahead = first in gates_ahead(network)
    gate = Region(
        name="first gate's input", memory="A", base=kept.end, size=n * shapes.chunks * ahead
    )
    if gate.end > memory.activation_words:
        inputs = shapes.config.array.inputs
        raise ValueError(
            f"Activation memory (with the first router's input) needs {gate.end * inputs} bytes, "
            f"there are {memory.activation_words * inputs}: memory.activation_words={gate.end} "
            "would hold it"
        )
    size = max(
        (
            head_words(h, shapes.stored_words(2 * h.linear.shape[0]), shapes)
            for h in network.linear_heads.values()
        ),
        default=0,
    )
    outputs = Region(name="head outputs", memory="A", base=gate.end, size=size)
    other = replace(plan.residual, name="residual of odd tasks", base=plan.residual.end)
    double = (
        network.norm is not None
        and all(task in network.heads for task in network.tasks)
        and outputs.end <= memory.activation_words
        and other.end <= memory.residual_words
    )
    return TogetherPlan(
        base=plan,
        kept=kept,
        gate=gate,
        residuals=(plan.residual, other) if double else (plan.residual,),
        outputs=outputs if double else plan.work,
        first=first,
    )


def lower_together(contexts: Sequence[Context], plan: TogetherPlan) -> tuple[list[OutputRows], int]:
    """Write the frame of all ``contexts``' tasks into the code that they share.

    Returns each task's result, one behind the other in the output area, and the bytes that the area
    takes with the saved residual behind them.
    """
    if len(contexts) < 2:
        raise ValueError("All tasks in one run need two tasks or more")
    c, double = contexts[0], len(plan.residuals) > 1
    tasks = [replace(t, plan=plan.of(n)) for n, t in enumerate(contexts)]
    gate = plan.gate if plan.gate.size else plan.base.ahead
    routed = [replace(t, plan=replace(t.plan, tokens=plan.kept, ahead=gate)) for t in tasks]
    last = max(i for i, b in enumerate(c.network.blocks) if isinstance(b.mlp, Moe))
    save = _Save(c, plan, sum(_output_bytes(t) for t in tasks))
    lower_input(c)
    for index in range(plan.first):
        lower_block(c, index)
    front = replace(c, plan=replace(c.plan, ahead=gate))
    lower_attention_half(front, plan.first, tokens=plan.kept)
    save.store()
    results: list[OutputRows] = []
    address = 0
    for n, task in enumerate(tasks):
        more = n + 1 < len(tasks)
        lower_mlp_half(
            routed[n],
            plan.first,
            first=n == 0,
            more=more and last == plan.first,
            ready=save.ready(n, more and double),
        )
        for index in range(plan.first + 1, len(task.network.blocks)):
            lower_block(task, index, more=more and index == last)
        if double and n:
            save.stored(n + 1 if more else None)
        out = replace(
            task,
            plan=replace(task.plan, work=plan.outputs),
            output=address,
            stored=_STORED if more else Semaphore.NONE,
        )
        results.append(lower_output(out))
        address += results[-1].rows * results[-1].pitch
        if more and not double:
            save.stored(n + 1)
    if address != save.address:
        raise AssertionError(f"results of {address} bytes, not {save.address}")
    c.code.add(Halt(), "end of the frame")
    return results, save.address + save.size


def _output_bytes(c: Context) -> int:
    """Bytes of a task's result, without writing its code."""
    code = replace(c.code, items=[], blocks=[], pool={})
    rows = lower_output(replace(c, code=code))
    return rows.rows * rows.pitch


class _Save:
    """The residual in front of the first experts, in memory behind the results."""

    def __init__(self, c: Context, plan: TogetherPlan, address: int) -> None:
        self.c, self.plan, self.address = c, plan, address
        self.row = c.shapes.words * 2 * c.config.array.outputs
        self.size = c.shapes.tokens * self.row

    def store(self) -> None:
        """The STORE, when everything before has been written."""
        self.c.code.add(Sync(signal=Semaphore.OUTPUT, count=1), "shared prefix complete")
        self.c.code.add(
            Store(
                residual=1,
                source=self.plan.residuals[0].base,
                stride=self.c.shapes.words,
                words=self.c.shapes.words,
                rows=self.c.shapes.tokens,
                address=self.address,
                pitch=self.row,
                wait=Semaphore.OUTPUT,
                wait_count=1,
                signal=_STORED,
            ),
            "residual of the shared prefix",
        )

    def ready(self, task: int, early: bool) -> Callable[[], None]:
        """What experts of task number ``task`` wait for; ``early``: the next copy is loaded."""

        def first() -> None:
            self.stored(1 if early else None)

        def later() -> None:
            self.c.code.add(Sync(wait=_RESTORED, wait_count=1), f"residual of task {task} restored")

        return later if task else first

    def stored(self, task: int | None) -> None:
        """A STORE is complete; then the residual of ``task`` is loaded, if one is named."""
        go = {"signal": Semaphore.FREED, "count": 1} if task is not None else {}
        self.c.code.add(Sync(wait=_STORED, wait_count=1, **go), "stored")
        if task is None:
            return
        self.c.code.add(
            Load(
                kind=LoadKind.RESIDUAL,
                stored=1,
                address=self.address,
                target=self.plan.of(task).residual.base,
                beats=self.size // BEAT_BYTES,
                wait=Semaphore.FREED,
                wait_count=1,
                signal=_RESTORED,
            ),
            f"residual of task {task}",
        )
