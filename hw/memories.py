"""The activation, residual and key/value memories with their arbiters.

Each is built of banks of at most 64 bits, which map to block or ultra RAM and simulate fast.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib.wiring import In, Out

from .config import AcceleratorConfig
from .interfaces import (
    ActivationRead,
    ActivationWrite,
    KeyValueWrite,
    ReadPort,
    ResidualRead,
    ResidualWrite,
    activation_write,
    weight_row,
)
from .isa import ADDRESS_BITS
from .lib.component import Component
from .lib.storage import BANK_BITS, Memory, sections

__all__ = ["Activations", "KeyValues", "Residual", "banks"]


def banks(m: Module, name: str, *, width: int, depth: int, bank: int = BANK_BITS) -> list[Any]:
    """Memories that together make words of ``width`` bits; adds them to ``m``."""
    memories = []
    for i in range(-(-width // bank)):
        memory = Memory(shape=unsigned(min(bank, width - i * bank)), depth=depth, init=[])
        m.submodules[f"{name}_{i}"] = memory
        memories.append(memory)
    return memories


class Activations(Component):
    """Words of ``inputs`` int8; one masked write and one read a cycle.

    Writes are accepted in the order of priority epilogue (``writes[0]``, never stalled), norm,
    data;
    they land one cycle after they were accepted. Reads: ``reads[0]`` is always granted,
    ``reads[1]``
    when ``grant`` is 1.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "writes": In(ActivationWrite(config)).array(3),
                "reads": In(ActivationRead(config)).array(2),
                "grant": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        piece = 8 * config.piece_bytes
        depth = config.memory.activation_words
        chosen = Signal(activation_write(config))
        valid, landed = Signal(), Signal()
        w: Any = Signal(activation_write(config), reset_less=True)
        first, second, third = self.writes
        m.d.comb += [
            first.ready.eq(1),
            second.ready.eq(~first.valid),
            third.ready.eq(~first.valid & ~second.valid),
            valid.eq(first.valid | second.valid | third.valid),
        ]
        with m.If(first.valid):
            m.d.comb += chosen.eq(first.payload)
        with m.Elif(second.valid):
            m.d.comb += chosen.eq(second.payload)
        with m.Else():
            m.d.comb += chosen.eq(third.payload)
        m.d.sync += landed.eq(valid)
        with m.If(valid):
            m.d.sync += w.eq(chosen)

        a, b = self.reads
        read_en, read_addr = Signal(), Signal(range(depth))
        m.d.comb += [
            self.grant.eq(~a.en),
            read_en.eq(a.en | b.en),
            read_addr.eq(Mux(a.en, a.addr, b.addr)),
        ]
        data = []
        width = 8 * config.array.inputs
        for i, memory in enumerate(banks(m, "bank", width=width, depth=depth, bank=piece)):
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(landed & w.mask[i]),
                write.addr.eq(w.addr),
                write.data.eq(w.data.as_value()[i * piece : (i + 1) * piece]),
                read.en.eq(read_en),
                read.addr.eq(read_addr),
            ]
            data.append(read.data)
        m.d.comb += [port.data.eq(Cat(*data)) for port in self.reads]
        return m


class Residual(Component):
    """Words of ``outputs`` int16, kept twice so that the epilogue and the norm engine read at once.

    Writes: ``writes[0]`` (epilogue, never stalled), then ``writes[1]`` (data engine). Reads:
    ``reads[0]`` (epilogue) has a copy of its own; ``reads[1]`` (norm) is always granted on the
    other, ``reads[2]`` (data engine) when ``grant`` is 1.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "writes": In(ResidualWrite(config)).array(2),
                "reads": In(ResidualRead(config)).array(3),
                "grant": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        depth, width = config.memory.residual_words, 16 * config.array.outputs
        en, addr, data = Signal(), Signal(range(depth)), Signal(width)
        first, second = self.writes
        m.d.comb += [
            first.ready.eq(1),
            second.ready.eq(~first.valid),
            en.eq(first.valid | second.valid),
            addr.eq(Mux(first.valid, first.payload.addr, second.payload.addr)),
            data.eq(Mux(first.valid, first.payload.data, second.payload.data)),
        ]
        epilogue, norm, store = self.reads
        m.d.comb += self.grant.eq(~norm.en)
        outputs: list[Value] = []
        for copy in ("own", "norm"):
            read_en, read_addr = (
                Signal(name=f"{copy}_en"),
                Signal(range(depth), name=f"{copy}_addr"),
            )
            if copy == "own":
                m.d.comb += [read_en.eq(epilogue.en), read_addr.eq(epilogue.addr)]
            else:
                m.d.comb += [
                    read_en.eq(norm.en | store.en),
                    read_addr.eq(Mux(norm.en, norm.addr, store.addr)),
                ]
            outputs.append(self._copy(m, copy, (en, addr, data), (read_en, read_addr)))
        m.d.comb += [
            Value.cast(epilogue.data).eq(outputs[0]),
            Value.cast(norm.data).eq(outputs[1]),
            Value.cast(store.data).eq(outputs[1]),
        ]
        return m

    def _copy(
        self,
        m: Module,
        name: str,
        write: tuple[Signal, Signal, Signal],
        read: tuple[Signal, Signal],
    ) -> Value:
        """One copy, of several memories where the last words are block RAM; the word read."""
        en, addr, data = write
        first, words, chosen = 0, [], []
        sizes = sections(self._config.memory.residual_words)
        for n, depth in enumerate(sizes):
            here, wanted = Signal(name=f"{name}_write_{n}"), Signal(name=f"{name}_read_{n}")
            latest = Signal(name=f"{name}_latest_{n}")  # the word read last is here
            m.d.comb += [here.eq(1), wanted.eq(1)]
            if len(sizes) > 1:
                m.d.comb += [
                    here.eq((addr >= first) & (addr < first + depth)),
                    wanted.eq((read[1] >= first) & (read[1] < first + depth)),
                ]
            with m.If(read[0]):
                m.d.sync += latest.eq(wanted)
            label = f"{name}_{first}" if n else name
            lanes = []
            for i, memory in enumerate(banks(m, label, width=len(data), depth=depth)):
                put, get = memory.write_port(), memory.read_port()
                m.d.comb += [
                    put.en.eq(en & here),
                    put.addr.eq(addr - first),
                    put.data.eq(data[i * BANK_BITS : (i + 1) * BANK_BITS]),
                    get.en.eq(read[0] & wanted),
                    get.addr.eq(read[1] - first),
                ]
                lanes.append(get.data)
            words.append(Cat(*lanes))
            chosen.append(latest)
            first += depth
        word: Value = words[0]
        for there, other in zip(chosen[1:], words[1:], strict=True):
            word = Mux(there, other, word)
        return word


class KeyValues(Component):
    """Rows of ``inputs * outputs`` int8; a group of ``outputs`` bytes is written a cycle, or two.

    Group g is bytes ``g*O..``. ``read``: a row, one cycle later.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "write": In(KeyValueWrite(config)),
                "read": In(ReadPort(ADDRESS_BITS, weight_row(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, depth = self._config.array, self._config.memory.kv_rows
        data = []
        for group in range(a.inputs):
            here: Value = self.write.en & (self.write.group == group)
            flat: Value = self.write.data.as_value()
            if self._config.drain_rows == 2:
                second = self.write.second_en & (self.write.second_group == group)
                flat = Mux(second, self.write.second_data.as_value(), flat)
                here |= second
            for i, memory in enumerate(
                banks(m, f"group_{group}", width=8 * a.outputs, depth=depth)
            ):
                write, read = memory.write_port(), memory.read_port()
                m.d.comb += [
                    write.en.eq(here),
                    write.addr.eq(self.write.addr),
                    write.data.eq(flat[i * BANK_BITS : (i + 1) * BANK_BITS]),
                    read.en.eq(self.read.en),
                    read.addr.eq(self.read.addr),
                ]
                data.append(read.data)
        m.d.comb += self.read.data.eq(Cat(*data))
        return m
