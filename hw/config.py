"""The accelerator's configuration: every size of a build, its presets, and its hash.

A program is compiled for one configuration; the configuration's hash stands in the program header
and in an ID register, and a device refuses a program with another hash.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

__all__ = [
    "BEAT_BYTES",
    "FINISHED_TILES",
    "MAX_PORTS",
    "NEARLY_EMPTY",
    "PRESETS",
    "AcceleratorConfig",
    "ArrayConfig",
    "LimitConfig",
    "MemoryConfig",
    "preset",
]

BEAT_BYTES = 16
"""Bytes of one beat on every AXI memory port (128 bits)."""

CHANNEL_BYTES = 8
"""Bytes of one channel's parameters (bias, multiplier, shift) in memory and on chip."""

MAX_PORTS = 4
"""Memory ports: a FETCH has a check for each."""

FINISHED_TILES = 16
"""Finished tiles of sums that can wait for the epilogue, and as many for the softmax unit; those in
the array's pipeline hold a place as well."""

NEARLY_EMPTY = 12
"""A ring that has less than this part of its rows does not leave the memory to LOADs."""

ISA_VERSION = 9
"""Part of every configuration hash: changes whenever an instruction's layout or meaning does."""


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"{type(owner).__name__}.{name} must be a positive integer, not {value!r}"
            )


@dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """Shape of the compute unit: ``tokens x inputs x outputs`` products a cycle."""

    tokens: int
    inputs: int
    outputs: int

    def __post_init__(self) -> None:
        _positive(self, "tokens", "inputs", "outputs")
        if self.tokens % 2:
            raise ValueError(
                f"ArrayConfig.tokens must be even (two share a weight), not {self.tokens}"
            )
        if self.outputs < 2 or self.outputs & (self.outputs - 1):
            raise ValueError(
                f"ArrayConfig.outputs must be a power of two from 2, not {self.outputs}"
            )
        if self.inputs < 2 * self.outputs or self.inputs & (self.inputs - 1):
            raise ValueError(
                "ArrayConfig.inputs must be a power of two from twice the outputs, "
                f"not {self.inputs}"
            )

    @property
    def macs(self) -> int:
        """Multiply-accumulates a cycle."""
        return self.tokens * self.inputs * self.outputs


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """On-chip memories (depths in their own words, see docs/spec.md) and weight ports.

    ``activation_words``: words of ``inputs`` bytes. ``residual_words``: words of ``outputs`` 16-bit
    values. ``kv_rows``, ``ring_rows``, ``demand_rows``: rows of ``inputs * outputs`` bytes.
    ``param_rows``, ``demand_param_rows``, ``norm_rows``: rows of ``outputs`` channels' parameters.
    ``ports``: 128-bit memory ports; weights come through all, everything else through the first.
    ``landing_beats``: beats of each requester of a port that can be in flight.
    """

    activation_words: int
    residual_words: int
    kv_rows: int
    ring_rows: int
    demand_rows: int
    param_rows: int
    demand_param_rows: int
    norm_rows: int
    ports: int
    landing_beats: int = 256

    def __post_init__(self) -> None:
        _positive(self, *(f.name for f in fields(self)))
        if self.ports > MAX_PORTS:
            raise ValueError(f"MemoryConfig.ports must be at most {MAX_PORTS}, not {self.ports}")
        for name in (
            "ring_rows",
            "demand_rows",
            "param_rows",
            "demand_param_rows",
            "landing_beats",
        ):
            value = getattr(self, name)
            if value & (value - 1) or value < 32:
                raise ValueError(f"MemoryConfig.{name} must be a power of two from 32, not {value}")


@dataclass(frozen=True, kw_only=True)
class LimitConfig:
    """Largest network that the control logic can count: tokens, contraction length, experts,
    top-k. ``routed``: tokens that a router can send at a time, the length of an expert's queue."""

    tokens: int
    depth: int
    experts: int
    top_k: int
    routed: int = 256

    def __post_init__(self) -> None:
        _positive(self, "tokens", "depth", "experts", "top_k", "routed")
        if self.top_k > self.experts:
            raise ValueError(f"LimitConfig.top_k must be at most experts, not {self.top_k}")


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """One build of the accelerator. ``clock_mhz`` is a target for reports, never a measured
    figure. ``drain_rows``: rows of sums, 1 or 2, that the epilogue takes in a cycle where they
    become bytes of activations, keys or values; programs are the same for both."""

    name: str
    array: ArrayConfig
    memory: MemoryConfig
    limits: LimitConfig
    clock_mhz: float = field(default=300.0)
    watchdog_cycles: int = 1 << 16
    drain_rows: int = 1

    def __post_init__(self) -> None:
        a, m = self.array, self.memory
        for what, size, least in (
            ("Weight row", a.inputs * a.outputs, 2 * BEAT_BYTES),  # one beat of 4-bit weights
            ("Parameter row", a.outputs * CHANNEL_BYTES, BEAT_BYTES),
        ):
            if size % (m.ports * least):
                raise ValueError(
                    f"{what} of {size} bytes must be a multiple of {m.ports} ports x {least} bytes"
                )
        if self.limits.depth % a.inputs:
            raise ValueError(
                f"LimitConfig.depth must be a multiple of {a.inputs}, not {self.limits.depth}"
            )
        _positive(self, "watchdog_cycles", "drain_rows")
        if self.drain_rows > 2:
            raise ValueError(f"drain_rows must be 1 or 2, not {self.drain_rows}")

    # Derived sizes -----------------------------------------------------------------------------
    @property
    def row_bytes(self) -> int:
        """Bytes of a weight row: what the array multiplies in one cycle."""
        return self.array.inputs * self.array.outputs

    @property
    def row_beats(self) -> int:
        """Beats of a weight row on each port; of 4-bit weights half as many."""
        return self.row_bytes // (self.memory.ports * BEAT_BYTES)

    @property
    def param_row_bytes(self) -> int:
        """Bytes of a parameter row: ``outputs`` channels."""
        return self.array.outputs * CHANNEL_BYTES

    @property
    def param_row_beats(self) -> int:
        """Beats of a parameter row on each port."""
        return self.param_row_bytes // (self.memory.ports * BEAT_BYTES)

    @property
    def piece_bytes(self) -> int:
        """Write granularity of the activation memory."""
        return min(8, self.array.outputs)

    # Identity ----------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AcceleratorConfig:
        """Inverse of :meth:`to_dict`; raises ``ValueError`` naming a missing or unknown field."""
        try:
            return cls(
                **{
                    **data,
                    "array": ArrayConfig(**data["array"]),
                    "memory": MemoryConfig(**data["memory"]),
                    "limits": LimitConfig(**data["limits"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"Accelerator configuration: {error}") from None

    @property
    def hash(self) -> int:
        """64 bits over everything that a program depends on (not the name, the clock, the watchdog
        or how fast the epilogue is)."""
        data = self.to_dict()
        for key in ("name", "clock_mhz", "watchdog_cycles", "drain_rows"):
            del data[key]
        data["isa"] = ISA_VERSION
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    def but(self, **changes: Any) -> AcceleratorConfig:
        """A copy with other values; keys may be ``section__name``."""
        top: dict[str, Any] = {}
        inner: dict[str, dict[str, Any]] = {}
        for key, value in changes.items():
            section, _, name = key.partition("__")
            if name:
                inner.setdefault(section, {})[name] = value
            else:
                top[section] = value
        for section, values in inner.items():
            top[section] = replace(top.get(section, getattr(self, section)), **values)
        return replace(self, **top)


_MICRO = AcceleratorConfig(
    name="micro",
    array=ArrayConfig(tokens=2, inputs=8, outputs=4),
    memory=MemoryConfig(
        activation_words=4096,
        residual_words=2048,
        kv_rows=512,
        ring_rows=512,
        demand_rows=128,
        param_rows=256,
        demand_param_rows=64,
        norm_rows=128,
        ports=1,
        landing_beats=64,
    ),
    limits=LimitConfig(tokens=128, depth=1024, experts=8, top_k=8),
    clock_mhz=100.0,
)

_DEFAULT = AcceleratorConfig(
    name="default",
    array=ArrayConfig(tokens=4, inputs=16, outputs=8),
    memory=MemoryConfig(
        activation_words=8192,
        residual_words=2048,
        kv_rows=512,
        ring_rows=1024,
        demand_rows=512,
        param_rows=512,
        demand_param_rows=64,
        norm_rows=256,
        ports=2,
    ),
    limits=LimitConfig(tokens=256, depth=2304, experts=16, top_k=8),
)

# The ZCU104's memories, of which at most 90 % may be used: 86 of 96 URAM (4,096 words of 72 bits),
# 280 of 312 block RAM (512 of 72). Rows of 512 bytes are 64 banks of 64 bits, words of 32 bytes 4.
# Tiles of eight tokens: a slice of the multipliers does four products a cycle at twice the clock.
#   URAM: ring 64, activations 12,288 words 3 x 4, residual 4,096 words twice 2 x 4: 84.
#   block RAM: keys and values 64, demand ring 64, parameters 16, residual's last 1,024 words twice
#   2 x 4, norm parameters 16, operands 32, landing buffers 14, scores 16, expert queues 3, tables
#   12: 253 (hw/footprint.py). Attention weights are in look-up tables: 80 of 512 words a bank.
# The weight ring holds 2 MB: as much as lets the memory work on through attention and dense layers
# and so be a MoE layer ahead (M3ViT-Tiny has 2.4 MB a layer; the array uses up a part meanwhile).
# Cycles of M3ViT-Tiny at 129 tokens, all 16 experts in use, estimated for 1,024, 2,048, 3,072 and
# 4,096 rows in the ring: with experts of 4 bits 319 k, 286 k, 255 k, 255 k, of 8 bits 432 k, 390 k,
# 385 k, 385 k. 512 rows of parameters are as good as 1,024.
# Rows of operands up to 4,096 bytes, such as a 3 x 3 window of 448 channels, take no more block
# RAM than shorter ones (256 of its 512 words), and are about what 27 bits can add up.
# With these sizes `small` at 224x224 stays on the chip as a whole (11,820 activation words, 4,728
# residual words); wider and longer networks go in tiles.
_ZCU104 = AcceleratorConfig(
    name="zcu104",
    array=ArrayConfig(tokens=8, inputs=32, outputs=16),
    memory=MemoryConfig(
        activation_words=12288,
        residual_words=5120,
        kv_rows=512,
        ring_rows=4096,
        demand_rows=512,
        param_rows=512,
        demand_param_rows=64,
        norm_rows=512,
        ports=4,
    ),
    limits=LimitConfig(tokens=1280, depth=4096, experts=16, top_k=8, routed=256),
    drain_rows=2,
)

_ZCU104_2048 = _ZCU104.but(name="zcu104-2048", array__tokens=4, drain_rows=1)
"""Half as many products a cycle, as many slices: for one clock."""

_ZCU102 = _ZCU104.but(name="zcu102", memory__ring_rows=2048)
"""Without ultra RAM everything is block RAM, of which there are 912: a ring of half the rows leaves
room for the router (boards/fit.py counts)."""

_PYNQ_Z2 = _MICRO.but(
    name="pynq-z2",
    array__tokens=4,
    memory__activation_words=8192,
    memory__residual_words=4096,
    memory__ring_rows=2048,
    memory__landing_beats=128,
    limits__tokens=256,
)
"""128 products a cycle: as many as 220 multipliers leave room for, at one product each."""

# The ULX3S's ECP5 LFE5U-85F: 156 multipliers of 18 x 18 and 208 block RAMs of 18 Kbit. Two outputs,
# so that everything around the array has two lanes (docs/ulx3s.md). `nano` stays on the chip: its
# 129 tokens are 774 activation words and 6,192 residual words.
_ULX3S = AcceleratorConfig(
    name="ulx3s",
    array=ArrayConfig(tokens=2, inputs=16, outputs=2),
    memory=MemoryConfig(
        activation_words=4096,
        residual_words=8192,
        kv_rows=512,
        ring_rows=1024,
        demand_rows=128,
        param_rows=512,
        demand_param_rows=128,
        norm_rows=256,
        ports=1,
        landing_beats=64,
    ),
    limits=LimitConfig(tokens=136, depth=1024, experts=8, top_k=2, routed=136),
    clock_mhz=50.0,
)

_ULX3S_128 = _ULX3S.but(name="ulx3s-128", array__tokens=4)
"""Twice the products a cycle: fits by count."""

_ALL = (_MICRO, _DEFAULT, _ZCU104, _ZCU104_2048, _ZCU102, _PYNQ_Z2, _ULX3S, _ULX3S_128)
PRESETS = {config.name: config for config in _ALL}


def preset(name: str) -> AcceleratorConfig:
    """The preset called ``name``; raises ``ValueError`` listing those that exist."""
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
