"""Attention weights between the softmax unit and the array: two halves, one a query tile."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In
from amaranth.utils import bits_for, ceil_log2

from moevit.quant.formats import ACTIVATION
from moevit.quant.operators.exp2 import SOFTMAX_EXP

from ..config import AcceleratorConfig
from ..interfaces import AttentionRead, weights_address
from ..lib.component import Component
from ..lib.storage import BANK_BITS, Memory

__all__ = ["WeightBuffer"]


class WeightBuffer(Component):
    """T words of I weights for each word of keys.

    Members
    -------
    valid, pair, group, address, weights : In
        Weights of two rows and O keys: which pair of rows, which O bytes of the word, and which
        word of which half. Groups further on become 0.
    last : In
        They are the last of their half, which is complete then.
    read : In(AttentionRead)
        The array's.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        a = config.array
        super().__init__(
            {
                "valid": In(1),
                "pair": In(ceil_log2(a.tokens // 2)),
                "group": In(range(a.inputs // a.outputs)),
                "address": In(weights_address(config)),
                "weights": In(ArrayLayout(unsigned(bits_for(SOFTMAX_EXP.peak)), 2 * a.outputs)),
                "last": In(1),
                "read": In(AttentionRead(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        array = self._config.array
        complete = Signal(range(3))
        m.d.comb += self.read.ready.eq(complete != 0)
        m.d.sync += complete.eq(complete + (self.valid & self.last) - self.read.release)
        with m.If(self.read.release):
            m.d.sync += self.read.half.eq(~self.read.half)

        lanes = min(array.outputs, BANK_BITS // ACTIVATION.width)
        groups = array.inputs // array.outputs
        up_to = [self.group <= g for g in range(groups - 1)] + [Const(1, 1)]
        data = []
        for t in range(array.tokens):
            mine = [self.weights[t % 2 * array.outputs + o] for o in range(array.outputs)]
            for i in range(0, array.inputs, lanes):
                group, lane = divmod(i, array.outputs)
                m.submodules[f"weights_{t}_{i}"] = memory = Memory(
                    shape=unsigned(lanes * ACTIVATION.width),
                    depth=1 << weights_address(self._config).size,
                    init=[],
                )
                write, read = memory.write_port(), memory.read_port()
                bytes_ = Cat(
                    Cat(w, Const(0, ACTIVATION.width - len(w))) for w in mine[lane : lane + lanes]
                )
                m.d.comb += [
                    write.en.eq(self.valid & (self.pair == t // 2) & up_to[group]),
                    write.addr.eq(self.address),
                    write.data.eq(Mux(self.group == group, bytes_, 0)),
                    read.en.eq(self.read.en),
                    read.addr.eq(self.read.addr),
                ]
                data.append(read.data)
        m.d.comb += self.read.data.eq(Cat(*data))
        return m
