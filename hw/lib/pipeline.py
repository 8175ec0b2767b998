"""Straight pipelines without stalls, and the rounding that every scaled result ends in.

The engines' datapaths never wait inside: whoever starts an item has room for its result. So a stage
is a valid bit and registers that are enabled by the valid bit before it: no enable crosses a
pipeline, and an idle datapath neither toggles nor costs simulation time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, ValueLike, signed

from moevit.quant.formats import QFormat

__all__ = [
    "Pipeline",
    "coarse_shift",
    "double_shift",
    "fine_shift",
    "pairwise",
    "round_saturate",
]


class Pipeline:
    """The stages of a datapath in module ``m``; each :meth:`step` adds one.

    ``valid`` is 1 in a cycle in which an item enters. ``tags`` are values that belong to the item;
    ``tag[name]`` is the value as delayed up to the present stage, until :meth:`drop`.
    """

    def __init__(self, m: Module, *, valid: ValueLike, **tags: ValueLike) -> None:
        self._m = m
        self.valids = [Value.cast(valid)]
        """Of each stage, from the entry to the present one."""
        self.tag = {name: Value.cast(value) for name, value in tags.items()}

    @property
    def valid(self) -> Value:
        """1 in a cycle in which there is an item at the present stage."""
        return self.valids[-1]

    @property
    def latency(self) -> int:
        """Cycles from the entry to the present stage."""
        return len(self.valids) - 1

    @contextmanager
    def step(self) -> Iterator[Callable[..., Signal]]:
        """One register stage: in the block, ``reg(value)`` is the register of ``value``."""
        statements = []

        def reg(value: ValueLike, *, name: str = "stage") -> Signal:
            value = Value.cast(value)
            register = Signal(value.shape(), name=f"{name}_{self.latency + 1}", reset_less=True)
            statements.append(register.eq(value))
            return register

        yield reg
        tags: dict[str, Value] = {name: reg(value, name=name) for name, value in self.tag.items()}
        valid = Signal(name=f"valid_{self.latency + 1}")
        self._m.d.sync += valid.eq(self.valid)
        if statements:
            with self._m.If(self.valid):
                self._m.d.sync += statements
        self.valids.append(valid)
        self.tag = tags

    def delay(self, cycles: int) -> None:
        """Stages that only delay: the latency of a memory or of a component beside the pipeline."""
        for _ in range(cycles):
            with self.step():
                pass

    def add(self, **tags: ValueLike) -> None:
        """Further values of the item that is at the present stage."""
        self.tag.update({name: Value.cast(value) for name, value in tags.items()})

    def drop(self, *names: str) -> None:
        """Delay these tags no longer."""
        for name in names:
            del self.tag[name]

    def reduce(
        self, operation: Callable[[Any, Any], Value], *groups: Sequence[Value]
    ) -> list[Value]:
        """Each group of values to one by a tree of ``operation``, a level a stage; equal depths."""
        lists = [list(group) for group in groups]
        while max(len(values) for values in lists) > 1:
            with self.step() as reg:
                lists = [[reg(v) for v in pairwise(operation, values)] for values in lists]
        return [values[0] for values in lists]


def pairwise(operation: Callable[[Any, Any], Value], values: Sequence[Any]) -> list[Any]:
    """One level of a reduction tree; a last odd value passes."""
    pairs = [operation(a, b) for a, b in zip(values[0::2], values[1::2], strict=False)]
    return pairs + ([values[-1]] if len(values) % 2 else [])


def double_shift(value: ValueLike, shift: ValueLike) -> Value:
    """``2 * value >> shift``: what :func:`round_saturate` rounds. Signed values keep their sign."""
    value = Value.cast(value)
    doubled: Value = Cat(Const(0, 1), value)
    if value.shape().signed:
        doubled = doubled.as_signed()
    return Value.cast(doubled >> shift)


_FINE = 3  # bits of a shift that are left to the second stage


def coarse_shift(value: ValueLike, shift: ValueLike, width: int) -> Value:
    """The first of two stages of :func:`double_shift`, by eights; :func:`fine_shift` is the other.

    Of a signed value only the bits that may end in ``width`` go on, and whether others count: so
    both shifters are narrow, where one of the whole product is wide.
    """
    value, shift = Value.cast(value), Value.cast(shift)
    doubled: Value = Cat(Const(0, 1), value)
    sign, bits, span = value[-1], len(value) + 1, width + (1 << _FINE) + 1
    found = []
    for low in range(0, 1 << len(shift), 1 << _FINE):
        start, end = min(low, bits), min(low + span, bits)
        kept = Cat(doubled[start:end], sign.replicate(span - (end - start)))
        found.append(Cat(kept, doubled[end:] != sign.replicate(bits - end)))
    return Cat(Array(found)[shift[_FINE:]], sign, shift[:_FINE])


def fine_shift(coarse: Value, width: int) -> Value:
    """``double_shift`` of what :func:`coarse_shift` took, limited to ``width + 1`` bits, signed."""
    span = width + (1 << _FINE) + 1
    kept, beyond, sign, fine = (
        coarse[:span].as_signed(),
        coarse[span],
        coarse[span + 1],
        coarse[span + 2 :],
    )
    shifted = (kept >> fine)[:span]
    outside = beyond | (shifted[width:] != sign.replicate(span - width))
    return Mux(outside, _edge(sign, width), shifted[: width + 1]).as_signed()


def _edge(sign: Value, width: int) -> Value:
    """The least and the largest even value of ``width + 1`` bits."""
    return Cat(Const(0, 1), (~sign).replicate(width - 1), sign)


def round_saturate(m: Module, doubled: ValueLike, form: QFormat, *, name: str = "rounded") -> Value:
    """``form.saturate((doubled + 1) >> 1)`` of a signed value, as a combinational signal.

    ``quant.formats.round_shift(v, s)`` is ``(double_shift(v, s) + 1) >> 1`` for every ``s >= 0``.
    The value is limited before the addition, so that the carry runs over ``form.width`` bits only.
    """
    if not form.signed:
        raise ValueError(f"Format must be signed, not {form!r}")
    doubled, width = Value.cast(doubled), form.width
    if len(doubled) > width + 1:
        sign, outside = doubled[-1], Signal(name=f"{name}_outside")
        m.d.comb += outside.eq(doubled[width:-1] != sign.replicate(len(doubled) - width - 1))
        doubled = Mux(outside, _edge(sign, width), doubled[: width + 1]).as_signed()
    total = Signal(signed(width + 2), name=f"{name}_sum")
    result = Signal(signed(width), name=name)
    over = ~total[-1] & total[width]  # only from 2**width - 1, by the carry
    m.d.comb += [
        total.eq(doubled + 1),
        result.eq(Cat(total[1:width] | over.replicate(width - 1), total[-1])),
    ]
    return result
