"""The memory plan: where everything lies on the chip, and why no region needs a lock.

The activation memory has two regions. ``tokens`` holds norm outputs and attention outputs, ``work``
holds, one after another in time, pixel patches, queries, hidden activations and head outputs.
Semaphores order every write before the reads of what was written. That nothing is overwritten while
it is still to be read follows from order alone: the compute engine's loader reads instructions in
order, its epilogue writes in the same order, and a write belongs to a tile that was read before.

``tokens``: a norm tile is written when the residual tile that it reads is complete.
  That residual tile comes from a GEMM (projection, second feed-forward layer) or SYNC that follows
  the last reader of what the norm overwrites: before the first norm of a block that is the block
  before (its feed-forward inputs were read before its second layer could start); before the second
  norm it is the projection, which read tile t of the attention output before it wrote residual
  tile t. A token of attention output is at least as wide as a norm output (each head is padded by
  itself), so norm tile t lies within attention tiles 0..t, all read. Attention output replaces norm
  output only after the loader has gone through the GEMMs of keys, values and queries.
``work``: pixels are read by the patch embedding, queries by attention, hidden activations by the
  second layer, and each user's first write comes out of an instruction behind the last reader.
  Two halves of hidden activations let expert e+1 fill one while expert e is read from the other.
``keys``, ``values``: written by GEMMs behind the attention of the block before.
Head outputs are written once a frame and stored; the frame ends when the store has ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from moevit.hw.config import AcceleratorConfig
from moevit.hw.norm import DIM_BITS
from moevit.quant.network import Mlp, Moe, Network

from .layout import Shapes, ceil_div

__all__ = ["MemoryPlan", "Region", "plan_memory"]


@dataclass(frozen=True, kw_only=True)
class Region:
    """``size`` words (or rows) of ``memory`` from ``base`` on."""

    name: str
    memory: str
    base: int
    size: int

    @property
    def end(self) -> int:
        """First word behind the region."""
        return self.base + self.size


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """All regions, and the pitches that follow from them."""

    tokens: Region
    work: Region
    residual: Region
    keys: Region
    values: Region
    norms: Region
    hidden_pitch: int
    """activation words from the first half of experts' hidden activations to the second"""

    @property
    def regions(self) -> tuple[Region, ...]:
        """Every region."""
        return (self.tokens, self.work, self.residual, self.keys, self.values, self.norms)


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


def plan_memory(network: Network, shapes: Shapes) -> MemoryPlan:
    """Place every buffer; raises ``ValueError`` naming what does not fit and what would hold it."""
    config, n = shapes.config, shapes.tokens
    array, limits = config.array, _Limits(config)
    dense = [b.mlp for b in network.blocks if isinstance(b.mlp, Mlp)]
    moes = [b.mlp for b in network.blocks if isinstance(b.mlp, Moe)]
    hidden = max((shapes.hidden_chunks(m.fc1.shape[0]) for m in dense), default=0)
    expert = max((shapes.hidden_chunks(e.fc1.shape[0]) for m in moes for e in m.experts), default=0)
    head = max(
        (
            shapes.stored_words(2 * h.linear.shape[0])
            * (1 if h.class_token else shapes.geometry.patches)
            for h in network.heads.values()
        ),
        default=0,
    )
    users = {
        "pixel patches": shapes.geometry.patches * shapes.patch_chunks,
        "queries": n * shapes.attention_chunks,
        "hidden activations": n * hidden,
        "experts' hidden activations": 2 * n * expert,
        "head outputs": head,
    }
    largest = max(users, key=users.__getitem__)
    row = max(shapes.attention_chunks, shapes.stored_words(shapes.chunks * array.inputs))
    tokens = Region(name="tokens", memory="A", base=0, size=n * row)
    work = Region(name="work", memory="A", base=tokens.end, size=users[largest])
    residual = Region(name="residual", memory="X", base=0, size=n * shapes.words)
    keys = Region(
        name="keys",
        memory="KV",
        base=0,
        size=shapes.geometry.heads * shapes.key_tiles * shapes.head_chunks,
    )
    values = Region(
        name="values",
        memory="KV",
        base=keys.end,
        size=shapes.geometry.heads * shapes.head_otiles * shapes.value_pitch,
    )
    count = 2 * len(network.blocks) + (network.norm is not None)
    norms = Region(name="norm parameters", memory="N", base=0, size=count * shapes.words)

    limits.buffer(
        f"Activation memory (tokens and {largest})", work.end, "activation_words", array.inputs
    )
    limits.buffer("Residual memory", residual.end, "residual_words", 2 * array.outputs)
    limits.buffer("Key and value memory", values.end, "kv_rows", config.row_bytes)
    limits.buffer("Norm parameter memory", norms.end, "norm_rows", config.param_row_bytes)
    limits.count("The number of tokens", n, "tokens")
    limits.count("The number of experts", max((len(m.experts) for m in moes), default=0), "experts")
    limits.count("The number of experts a token", max((m.gate.k for m in moes), default=0), "top_k")
    depth = max(
        shapes.patch_chunks, shapes.chunks, shapes.attention_chunks, hidden, expert
    )  # words of the longest contraction
    limits.count("The longest contraction", depth * array.inputs, "depth")
    # An output tile is the least that a ring must hold; keys and values are split between heads,
    # a router not at all.
    head_rows = shapes.head_otiles * shapes.chunks
    limits.buffer(
        "Weight ring (an output tile, a head's keys)",
        max(depth, head_rows),
        "ring_rows",
        config.row_bytes,
        power=True,
    )
    if moes:
        deepest = max(shapes.chunks, expert)
        limits.buffer(
            "Demand ring (an output tile)", deepest, "demand_rows", config.row_bytes, power=True
        )
        logits = max(ceil_div(len(m.experts), array.outputs) for m in moes)
        router = logits * shapes.chunks
        limits.buffer("Weight ring (a router)", router, "ring_rows", config.row_bytes, power=True)
    row, piece = shapes.patch_bytes, config.piece_bytes
    limits.require(
        row % piece == 0,
        f"a patch's pixel row of {row} bytes is no multiple of the {piece} bytes that are written "
        "at a time (patch x channels must be, or array.outputs smaller)",
    )
    limits.require(
        shapes.geometry.dim < 1 << DIM_BITS,
        f"the width of {shapes.geometry.dim} channels is more than the norm engine counts, "
        f"{(1 << DIM_BITS) - 1}",
    )
    limits.check()
    return MemoryPlan(
        tokens=tokens,
        work=work,
        residual=residual,
        keys=keys,
        values=values,
        norms=norms,
        hidden_pitch=n * expert,
    )
