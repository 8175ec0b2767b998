"""The operand buffer: two halves of a tile's words, one filled while the other is multiplied."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import ACTIVATION

from ..config import AcceleratorConfig
from ..interfaces import OperandWrite, operand_words
from ..lib.component import Component
from ..memories import banks

__all__ = ["OperandBuffer"]


class OperandBuffer(Component):
    """Words of T tokens.

    Members
    -------
    write : In(OperandWrite)
    en, half, word : In
        Read of a word of every token.
    data : Out
        T words, a cycle later.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        bits = ACTIVATION.width * config.array.inputs * config.array.tokens
        super().__init__(
            {
                "write": In(OperandWrite(config)),
                "en": In(1),
                "half": In(1),
                "word": In(range(operand_words(config))),
                "data": Out(unsigned(bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, words = self._config, operand_words(self._config)
        address = Signal(range(2 * words))
        m.d.comb += address.eq(self.word + Mux(self.half, words, 0))
        data = []
        for slot in range(config.array.tokens):
            width = ACTIVATION.width * config.array.inputs
            position = 0
            for memory in banks(m, f"operand_{slot}", width=width, depth=2 * words):
                write, read = memory.write_port(), memory.read_port()
                m.d.comb += [
                    write.en.eq(self.write.en & (self.write.row == slot)),
                    write.addr.eq(self.write.word + Mux(self.write.half, words, 0)),
                    write.data.eq(self.write.data[position : position + len(write.data)]),
                    read.en.eq(self.en),
                    read.addr.eq(address),
                ]
                position += len(write.data)
                data.append(read.data)
        m.d.comb += self.data.eq(Cat(*data))
        return m
