"""Whether a preset can hold a network at all: needs are those of the smallest tiles."""

from __future__ import annotations

from moevit.hw.compute.norm_roots import DIM_BITS
from moevit.hw.config import AcceleratorConfig

from .buffers import Buffers
from .spill import least_words

__all__ = ["check_limits"]


def _next_power(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()


class _Limits:
    """Collects what does not fit, so that one error names every change a preset needs."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.problems: list[str] = []

    def buffer(self, name: str, needed: int, field: str, unit: int, *, power: bool = False) -> None:
        there = getattr(self.config.memory, field)
        if needed > there:
            change = _next_power(needed) if power else needed
            self.problems.append(
                f"{name} needs {needed * unit} bytes, there are {there * unit}: "
                f"memory.{field}={change} would hold it"
            )

    def count(self, name: str, needed: int, field: str, change: int | None = None) -> None:
        there = getattr(self.config.limits, field)
        if needed > there:
            self.problems.append(
                f"{name} is {needed}, at most {there} can be counted: "
                f"limits.{field}={change or needed} would hold it"
            )

    def require(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)

    def check(self) -> None:
        if self.problems:
            raise ValueError(
                f"The network does not fit preset {self.config.name!r}: " + "; ".join(self.problems)
            )


def _least(b: Buffers) -> tuple[tuple[int, int], str]:
    """Activation and residual words that a network needs at least, and how it would run then."""
    s, n, memory = b.shapes, b.shapes.tokens, b.config.memory
    tile = min(b.config.array.tokens, n)
    work = max(b.pixels, n * s.attention_chunks, tile * max(b.hidden, b.expert), b.head, b.map_tile)
    whole = (n * b.row + b.gate_inputs + work, n * s.words)
    tiles = least_words(b)
    there = (memory.activation_words, memory.residual_words)
    if all(need <= has for need, has in zip(whole, there, strict=True)):
        return whole, "all tokens"
    if whole[0] < tiles[0] and whole[1] <= there[1]:
        return whole, "all tokens"
    return tiles, "tokens in the smallest tiles"


def check_limits(b: Buffers) -> None:
    """Raises ``ValueError`` naming what does not fit, however small its tiles, and what would."""
    config, s, n = b.config, b.shapes, b.shapes.tokens
    limits, array = _Limits(config), config.array
    (activations, residual), how = _least(b)
    limits.buffer(f"Activation memory ({how})", activations, "activation_words", array.inputs)
    limits.buffer(f"Residual memory ({how})", residual, "residual_words", 2 * array.outputs)
    limits.buffer("Key and value memory (one head)", b.head_rows, "kv_rows", config.row_bytes)
    always = ("gate inputs, " if b.gates else "") + ("one in front of the blocks, " * b.entry)
    limits.buffer(
        f"Norm parameter memory ({always}two norms)",
        (min(b.norms, 2) + b.scales) * s.words,
        "norm_rows",
        config.param_row_bytes,
    )
    limits.count("The number of tokens", n, "tokens")
    limits.count("The number of experts", b.experts, "experts")
    limits.count("The number of experts a token", b.top_k, "top_k")
    limits.count("The longest contraction", b.depth * array.inputs, "depth")
    # An output tile is the least that a ring must hold; keys and values are split between heads,
    # a router not at all.
    head_rows = s.head_otiles * s.chunks
    limits.buffer(
        "Weight ring (an output tile, a head's keys)",
        max(b.depth, head_rows),
        "ring_rows",
        config.row_bytes,
        power=True,
    )
    if b.experts:
        deepest = max(s.chunks, b.expert)
        limits.buffer(
            "Demand ring (an output tile)", deepest, "demand_rows", config.row_bytes, power=True
        )
        limits.buffer(
            "Weight ring (a router)", b.router_rows, "ring_rows", config.row_bytes, power=True
        )
    limits.require(
        s.geometry.dim < 1 << DIM_BITS,
        f"the width of {s.geometry.dim} channels is more than the norm engine counts, "
        f"{(1 << DIM_BITS) - 1}",
    )
    limits.check()
