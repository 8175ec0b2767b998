"""The compiler: every task of a network for one accelerator configuration."""

from __future__ import annotations

from collections.abc import Sequence

from moevit.hw.config import AcceleratorConfig
from moevit.quant.network import Head, Mlp, Moe, Network
from moevit.quant.operators.upsampling import Stage

from .check import prove
from .link import link
from .lower.context import Context
from .lower.emit import Code
from .lower.frame import OutputRows
from .lower.task import lower
from .lower.together import lower_together, plan_together
from .plan.layout import Bytes, Matrix, Shapes
from .plan.placement import plan_memory
from .plan.schedule import DEFAULT_THRESHOLD, expert_schedules
from .program import ALL, ImageFormat, Output, Program, TaskProgram, Together

__all__ = ["compile_network", "shared_macs", "useful_macs"]


def useful_macs(network: Network, task: str) -> int:
    """Multiply-accumulates of one image: no padding, every token in ``top_k`` experts."""
    g = network.geometry
    total = _embedding_macs(network)
    total += sum(_attention_macs(network) + _mlp_macs(network, b.mlp) for b in network.blocks)
    head = network.heads.get(task)
    if isinstance(head, Head):
        outputs, inputs = head.linear.shape
        total += (1 if head.single else g.patches) * inputs * outputs
    elif head is not None:
        total += sum(_convolution_macs(stage) for stage in head.stages)
    return total


def _convolution_macs(stage: Stage) -> int:
    """Those of the convolution itself: of a doubled map, but for a 1x1, which commutes with it."""
    pixels = stage.height * stage.width * (stage.factor**2 if stage.kernel > 1 else 1)
    return pixels * stage.kernel**2 * stage.channels * stage.outputs


def shared_macs(network: Network) -> int:
    """Those of :func:`useful_macs` in front of the first router, the same for every task."""
    total = _embedding_macs(network)
    for block in network.blocks:
        total += _attention_macs(network)
        if not isinstance(block.mlp, Mlp):
            break
        total += _mlp_macs(network, block.mlp)
    return total


def _embedding_macs(network: Network) -> int:
    g = network.geometry
    return g.patches * g.dim * g.patch * g.patch * g.channels


def _attention_macs(network: Network) -> int:
    n, dim = network.geometry.tokens, network.geometry.dim
    return 4 * n * dim * dim + 2 * n * n * dim  # q, k, v, projection; scores, weighted sum


def _mlp_macs(network: Network, mlp: Mlp | Moe) -> int:
    n, dim = network.geometry.tokens, network.geometry.dim
    if isinstance(mlp, Mlp):
        return 2 * n * dim * mlp.fc1.shape[0]
    hidden = sum(e.fc1.shape[0] for e in mlp.experts) / len(mlp.experts)
    return n * dim * mlp.gate.experts + round(2 * n * mlp.gate.k * dim * hidden)


def compile_network(
    network: Network,
    config: AcceleratorConfig,
    tasks: Sequence[str] | None = None,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    fetched: int = 0,
    together: bool = False,
) -> Program:
    """Compile ``tasks`` (default: all) of a quantised network.

    ``threshold`` is the number of tokens an image above which calibration makes an expert worth
    streaming; the ``fetched`` least used of each layer are fetched on demand whatever calibration
    says. Raises ``ValueError`` for an unknown task and for a network that the configuration
    cannot hold, naming each buffer, the bytes needed and there, and the change that would do.
    ``together`` adds a program of all ``tasks`` of a picture (:mod:`.lower.together`), about as
    large as the others are in all. A program that cannot be proven (:mod:`.check`) is not returned:
    :class:`~moevit.compiler.check.UnprovenError`.
    """
    tasks = list(network.tasks if tasks is None else tasks)
    for task in tasks:
        if task not in network.tasks:
            raise ValueError(f"Unknown task {task!r}; expected one of {', '.join(network.tasks)}")
    if not tasks:
        raise ValueError(f"No task to compile; expected some of {', '.join(network.tasks)}")
    shapes = Shapes(config=config, geometry=network.geometry)
    plan = plan_memory(network, shapes)
    packed: dict[str, Matrix] = {}
    pool: dict[str, Bytes] = {}
    schedules = {
        task: expert_schedules(network, task, threshold, fetched=fetched) for task in tasks
    }

    def context(task: str, code: Code) -> Context:
        return Context(
            network=network,
            task=task,
            config=config,
            shapes=shapes,
            plan=plan,
            schedules={s.layer: s for s in schedules[task]},
            code=code,
            packed=packed,
            output=plan.scratch_bytes,
        )

    codes = {task: Code(config=config, pool=pool) for task in tasks}
    results = {
        task: _output(network, task, lower(context(task, code)), plan.scratch_bytes)
        for task, code in codes.items()
    }
    regions = plan.regions
    outputs, room = {}, 0
    if together:
        whole = plan_together(network, shapes, plan)
        codes[ALL] = code = Code(config=config, pool=pool)
        rows, room = lower_together([context(task, code) for task in tasks], whole)
        address = 0
        for task, found in zip(tasks, rows, strict=True):
            outputs[task] = _output(network, task, found, address)
            address += outputs[task].size
        regions += whole.regions
    linked = link(codes, config)
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
                output=results[task],
                schedules=schedules[task],
                notes=tuple(item.note for item in codes[task].items),
                useful_macs=useful_macs(network, task),
            )
            for task in tasks
        },
        together=Together(
            base=linked.bases[ALL],
            outputs=outputs,
            room=room,
            notes=tuple(item.note for item in codes[ALL].items),
            useful_macs=sum(useful_macs(network, task) for task in tasks)
            - (len(tasks) - 1) * shared_macs(network),
        )
        if together
        else None,
        regions=regions,
        meta={"threshold": threshold, "network": network.meta},
    )
    prove(program)
    return program


def _output(network: Network, task: str, rows: OutputRows, address: int) -> Output:
    head = network.heads.get(task)
    return Output(
        address=address,
        rows=rows.rows,
        columns=rows.columns,
        item_bytes=rows.item_bytes,
        pitch=rows.pitch,
        scale=head.scale if head else network.token_scale,
        channels=head.channels if head else 0,
        upscale=head.upscale if isinstance(head, Head) else 1,
        grid=rows.grid,
    )
