"""The compiler: every task of a network for one accelerator configuration."""

from __future__ import annotations

from collections.abc import Sequence

from moevit.hw.config import AcceleratorConfig
from moevit.quant.network import Mlp, Network

from .context import Context
from .emit import Code
from .layout import Bytes, Matrix, Shapes
from .link import link
from .lower import lower
from .plan import plan_memory
from .program import ImageFormat, Output, Program, TaskProgram
from .schedule import DEFAULT_THRESHOLD, expert_schedules

__all__ = ["compile_network", "useful_macs"]


def useful_macs(network: Network, task: str) -> int:
    """Multiply-accumulates of one image: no padding, every token in ``top_k`` experts."""
    g = network.geometry
    n, dim = g.tokens, g.dim
    total = g.patches * dim * g.patch * g.patch * g.channels
    for block in network.blocks:
        total += 4 * n * dim * dim + 2 * n * n * dim  # q, k, v, projection; scores, weighted sum
        if isinstance(block.mlp, Mlp):
            total += 2 * n * dim * block.mlp.fc1.shape[0]
        else:
            hidden = sum(e.fc1.shape[0] for e in block.mlp.experts) / len(block.mlp.experts)
            total += n * dim * block.mlp.gate.experts
            total += round(2 * n * block.mlp.gate.k * dim * hidden)
    if task in network.heads:
        head = network.heads[task]
        total += (1 if head.class_token else g.patches) * dim * head.linear.shape[0]
    return total


def compile_network(
    network: Network,
    config: AcceleratorConfig,
    tasks: Sequence[str] | None = None,
    *,
    threshold: float = DEFAULT_THRESHOLD,
) -> Program:
    """Compile ``tasks`` (default: all) of a quantised network.

    ``threshold`` is the number of tokens an image above which calibration makes an expert worth
    streaming. Raises ``ValueError`` for an unknown task and for a network that the configuration
    cannot hold, naming each buffer, the bytes needed and there, and the change that would do.
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
    codes, results, schedules = {}, {}, {}
    for task in tasks:
        schedules[task] = expert_schedules(network, task, threshold)
        code = Code(config=config, pool=pool)
        context = Context(
            network=network,
            task=task,
            config=config,
            shapes=shapes,
            plan=plan,
            schedules={s.layer: s for s in schedules[task]},
            code=code,
            packed=packed,
        )
        rows = lower(context)
        head = network.heads.get(task)
        results[task] = Output(
            address=plan.scratch_bytes,
            rows=rows.rows,
            columns=rows.columns,
            item_bytes=rows.item_bytes,
            pitch=rows.pitch,
            scale=head.linear.scale if head else network.residual_scale,
            channels=head.channels if head else 0,
            upscale=head.upscale if head else 1,
        )
        codes[task] = code
    linked = link(codes, config)
    return Program(
        config=config,
        geometry=network.geometry,
        image=ImageFormat(
            height=network.geometry.image_height,
            width=network.geometry.image_width,
            channels=network.geometry.channels,
            pitch=shapes.image_pitch,
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
        regions=plan.regions,
        meta={"threshold": threshold, "network": network.meta},
    )
