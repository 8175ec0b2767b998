"""The task-specific sparse expert schedule: which experts a task streams, which it fetches.

A task's router sends tokens to few experts. Those that calibration has seen in use are laid out in
the task's weight stream, most popular first; the others stay in memory and are fetched when a token
chooses one (a miss: slower, the same result). All experts are executed in the network's order, of
which the streamed ones are a prefix, because the residual saturates after each of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moevit.quant.network import Moe, Network

__all__ = ["DEFAULT_THRESHOLD", "ExpertSchedule", "expert_schedules"]

DEFAULT_THRESHOLD = 0.02
"""Tokens that calibration sends to an expert per image, above which the expert is streamed."""


@dataclass(frozen=True, kw_only=True)
class ExpertSchedule:
    """One task's schedule of one MoE layer (``layer`` indexes ``Network.blocks``).

    ``streamed`` then ``on_demand`` is the order of execution. ``usage[e]``: tokens an image that
    calibration sends to expert ``e``.
    """

    layer: int
    streamed: tuple[int, ...]
    on_demand: tuple[int, ...]
    usage: tuple[float, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """All experts in the order of execution."""
        return self.streamed + self.on_demand

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ExpertSchedule:
        """Inverse of :meth:`to_dict`."""
        return cls(
            layer=int(data["layer"]),
            streamed=tuple(data["streamed"]),
            on_demand=tuple(data["on_demand"]),
            usage=tuple(data["usage"]),
        )


def expert_schedules(
    network: Network, task: str, threshold: float = DEFAULT_THRESHOLD, *, fetched: int = 0
) -> tuple[ExpertSchedule, ...]:
    """Each MoE layer's schedule: the shortest prefix with all experts used above ``threshold``.

    Experts that the task can never choose are in neither part.

    A threshold of 0 fetches only what calibration never used; infinity fetches everything. The last
    ``fetched`` experts of the order are fetched in any case.
    """
    if threshold < 0:
        raise ValueError(f"Threshold must be tokens an image, at least 0, not {threshold!r}")
    if fetched < 0:
        raise ValueError(f"Experts that are fetched must be at least 0, not {fetched!r}")
    schedules = []
    for layer, block in enumerate(network.blocks):
        if not isinstance(block.mlp, Moe):
            continue
        order, usage = tuple(block.mlp.order[task]), tuple(block.mlp.usage[task])
        if sorted(order) != list(range(len(block.mlp.experts))) or len(usage) != len(order):
            raise ValueError(
                f"Layer {layer}, task {task!r}: order and usage must name each of the "
                f"{len(block.mlp.experts)} experts once, not {order} and {len(usage)} figures"
            )
        window = block.mlp.window(task)
        order = tuple(e for e in order if e in window)
        used = [i + 1 for i, e in enumerate(order) if usage[e] > threshold]
        cut = min(max(used, default=0), max(len(order) - fetched, 0))
        schedules.append(
            ExpertSchedule(layer=layer, streamed=order[:cut], on_demand=order[cut:], usage=usage)
        )
    return tuple(schedules)
