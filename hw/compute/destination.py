"""Where a row of values goes: address, part of the word, and the write itself."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from moevit.quant.formats import ACTIVATION, RESIDUAL, WEIGHT

from ..config import AcceleratorConfig
from ..interfaces import ActivationWrite, KeyValueWrite, ResidualWrite
from ..isa import (
    ADDRESS_BITS,
    TO_ACTIVATIONS,
    TO_BYTES,
    TO_KEY_VALUE,
    TO_RESIDUAL,
    TOKEN_BITS,
    Destination,
    Gemm,
)
from ..lib.component import Component
from ..lib.pipeline import Pipeline
from ..registers import Error
from .descriptors import drain_tile, issued_row

__all__ = ["DestinationAddress", "WriteBack"]


class DestinationAddress(Component):
    """``target + row * stride + column``, or the place of a key or a value.

    Latency: :attr:`latency` cycles. Throughput: one row a cycle. It cannot be stalled.

    Members
    -------
    valid, tile, row : In
        A row enters, and the tile that it is of.
    address, otile, group : Out
        Word or row; output tile in the destination; bytes ``group * O ..`` of a key/value row.
    """

    latency = 3

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "valid": In(1),
                "tile": In(drain_tile(config)),
                "row": In(issued_row(config)),
                "address": Out(ADDRESS_BITS),
                "otile": Out(Gemm.shape("otile_base")),
                "group": Out(ceil_log2(config.array.inputs)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        array, d, row = self._config.array, self.tile, self.row
        inputs, outputs = ceil_log2(array.inputs), ceil_log2(array.outputs)
        groups = inputs - outputs  # log2 of the output tiles in an activation word
        number, otile = Signal(TOKEN_BITS), Signal.like(self.otile)
        m.d.comb += [number.eq(Array(d.rows)[row.slot]), otile.eq(d.ct + row.otile)]

        factor_a, factor_b = Signal(TOKEN_BITS), Signal(Gemm.shape("target_stride"))
        column, group = Signal.like(self.otile), Signal.like(self.group)
        j = row.head_otile
        with m.If(d.mode == Destination.KEY):
            # target + head*head_pitch + tile*tile_pitch + j/groups
            m.d.comb += [
                factor_a.eq(number >> outputs),
                factor_b.eq(d.tile_pitch),
                column.eq(j >> groups),
                group.eq(Cat(j[:groups], number[:outputs])),
            ]
        with m.Elif(d.mode == Destination.VALUE):
            m.d.comb += [
                factor_a.eq(j),
                factor_b.eq(d.tile_pitch),
                column.eq(number >> inputs),
                group.eq(number[:inputs]),
            ]
        with m.Else():
            m.d.comb += [factor_a.eq(number), factor_b.eq(d.target_stride)]
            with m.If(d.mode.matches(*TO_BYTES)):
                m.d.comb += column.eq(otile >> groups)
            with m.Elif(d.mode == Destination.ACT16):
                m.d.comb += column.eq((otile << 1) >> groups)
            with m.Else():
                m.d.comb += column.eq(otile)

        p = Pipeline(m, valid=self.valid, otile=otile, group=group)
        in_head = Mux(d.mode.matches(*TO_KEY_VALUE), row.head * d.head_pitch, 0)
        with p.step() as reg:
            factors = reg(factor_a, name="factor_a"), reg(factor_b, name="factor_b")
            to_head = reg(in_head[:ADDRESS_BITS], name="to_head")
            start = reg((d.target + column)[:ADDRESS_BITS], name="start")
        with p.step() as reg:
            product = reg((factors[0] * factors[1])[:ADDRESS_BITS], name="product")
            start = reg((start + to_head)[:ADDRESS_BITS], name="start")
        with p.step() as reg:
            address = reg((product + start)[:ADDRESS_BITS], name="address")
        m.d.comb += [
            self.address.eq(address),
            self.otile.eq(p.tag["otile"]),
            self.group.eq(p.tag["group"]),
        ]
        return m


class WriteBack(Component):
    """Writes a row's values, or two rows', where the destination says, in the same cycle; never
    refused.

    Members
    -------
    valid, mode, address, otile, group : In
        See :class:`DestinationAddress`.
    bytes, words : In
        The values as 8 and as 16 bits.
    next_row, next_otile, second : In
        ``second`` are the bytes of the next row, or of the next output tile (``otile`` is even), of
        the same word or row; with ``config.drain_rows`` of 2.
    activations, residual, kv : Out
        Writes to the memories.
    fault : Out
        ``ADDRESS`` after a write outside its memory, held.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        values = ArrayLayout(signed(ACTIVATION.width), config.array.outputs)
        second = {"next_row": In(1), "next_otile": In(1), "second": In(values)}
        super().__init__(
            {
                "valid": In(1),
                "mode": In(Gemm.shape("mode")),
                "address": In(ADDRESS_BITS),
                "otile": In(Gemm.shape("otile_base")),
                "group": In(ceil_log2(config.array.inputs)),
                "bytes": In(values),
                "words": In(ArrayLayout(signed(RESIDUAL.width), config.array.outputs)),
                **(second if config.drain_rows == 2 else {}),
                "activations": Out(ActivationWrite(config)),
                "residual": Out(ResidualWrite(config)),
                "kv": Out(KeyValueWrite(config)),
                "fault": Out(Error),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, mem = self._config, self._config.memory
        groups = config.array.inputs // config.array.outputs
        pieces = config.array.outputs // config.piece_bytes  # of an output tile of bytes
        bits = ceil_log2(groups)
        write, data16 = self.activations.payload, self.words.as_value()
        with m.If(self.mode == Destination.ACT16):
            place: Value = (self.otile << 1)[:bits] if groups > 2 else Const(0, 1)
            m.d.comb += [
                Value.cast(write.data).eq(data16.replicate(groups // 2)),
                write.mask.eq(((1 << (2 * pieces)) - 1) << (place * pieces)),
            ]
        with m.Else():
            m.d.comb += [
                Value.cast(write.data).eq(self.bytes.as_value().replicate(groups)),
                write.mask.eq(((1 << pieces) - 1) << (self.otile[:bits] * pieces)),
            ]
        m.d.comb += [
            write.addr.eq(self.address),
            self.activations.valid.eq(self.valid & self.mode.matches(*TO_ACTIVATIONS)),
            self.residual.valid.eq(self.valid & self.mode.matches(*TO_RESIDUAL)),
            self.residual.payload.addr.eq(self.address),
            Value.cast(self.residual.payload.data).eq(data16),
            self.kv.en.eq(self.valid & self.mode.matches(*TO_KEY_VALUE)),
            self.kv.addr.eq(self.address),
            self.kv.group.eq(self.group),
        ]
        self._keep(m, self.kv.data, self.bytes)
        if config.drain_rows == 2:
            self._second(m, bits)
        outside = (
            (self.activations.valid & (self.address >= mem.activation_words))
            | (self.residual.valid & (self.address >= mem.residual_words))
            | (self.kv.en & (self.address >= mem.kv_rows))
        )
        with m.If(outside):
            m.d.sync += self.fault.eq(Error.ADDRESS)
        return m

    def _keep(self, m: Module, data: Any, values: Any) -> None:
        """Keys and values are within +-127, as the array demands: -128 becomes -127."""
        m.d.comb += [
            kept.eq(Mux(value == ACTIVATION.min, -WEIGHT.max, value))
            for kept, value in zip(data, values, strict=True)
        ]

    def _second(self, m: Module, bits: int) -> None:
        """The other row: beside the one in the word, or a token further."""
        write, kv = self.activations.payload, self.kv
        groups = 1 << bits
        pieces = len(write.mask) // groups
        with m.If(self.next_otile & (self.mode != Destination.ACT16)):
            both = Cat(self.bytes, self.second)
            m.d.comb += [
                Value.cast(write.data).eq(both.replicate(groups // 2)),
                write.mask.eq(((1 << (2 * pieces)) - 1) << (self.otile[:bits] * pieces)),
            ]
        token = Mux(self.mode == Destination.VALUE, 1, groups)
        m.d.comb += [
            kv.second_en.eq(kv.en & self.next_row),
            kv.second_group.eq(self.group | token),
        ]
        self._keep(m, kv.second_data, self.second)
