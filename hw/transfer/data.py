"""The data engine: everything that moves between memory and chip except weights."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..config import AcceleratorConfig
from ..image import HEADER_BYTES
from ..interfaces import (
    ActivationRead,
    ActivationWrite,
    AxiRead,
    AxiWrite,
    GiveSignature,
    ResidualRead,
    ResidualWrite,
    TakeSignature,
    code_word,
    damage_place,
    load_beat,
)
from ..lib.component import Component
from ..registers import Error
from . import bursts
from . import code as data_code
from . import load as data_load
from . import store as data_store

__all__ = ["CODE", "LOAD", "DataEngine"]

CODE, LOAD = 0, 1
"""AXI IDs of the two requesters on the reading master; CODE goes first."""


class DataEngine(Component):
    """Header, instruction prefetch, LOAD and STORE, independent of one another.

    Latency of memory is hidden by ``landing_beats`` of loads and 16 instructions on their way.

    Members
    -------
    load, store:
        In(stream of ``isa.Load.layout()`` and ``isa.Store.layout()``). An instruction is taken from
        its stream when it is complete.
    code, code_o, header_start, header_valid, header_data, header_damaged:
        See :class:`data_code.Prefetcher`.
    header_address:
        In(32). A program's, a multiple of 64.
    program, image, output:
        In(32). Bases, multiples of 16.
    load_take, load_give, store_take, store_give:
        Out. Semaphores. A LOAD gives its credit when its last write was accepted, a STORE when its
        last burst was answered.
    a_write, x_write, norm:
        Out(ActivationWrite), Out(ResidualWrite), Out(stream of
        ``load_beat``). May stall.
    a_read, a_grant, x_read, x_grant:
        Out(ReadPort), In(1): a word is read in a cycle in which ``en`` and the grant are 1.
    axi_r, axi_w:
        Out(AxiRead).array(sides), Out(AxiWrite). The second reads for LOAD alone.
    abort:
        In(1). From this cycle on nothing more is asked for, reads on their way are dropped and
        write bursts completed with no byte enabled, until reset.
    quiet:
        Out(1). Nothing in flight, also in the cycle of ``abort``.
    loading:
        Out(sides). Data of a LOAD is being read through this port.
    pixels:
        Out(1). A LOAD of pixels is under way.
    load_busy, store_busy:
        Out(1). An instruction is waiting or executed.
    fault, place:
        Out(Error), Out(damage_place). FIELD, ADDRESS, READ, WRITE or TABLE; which table. Held.

    Raises
    ------
    ValueError
        If the words of a memory and the beats of the bus do not divide one another.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._load, self._store = data_load.LoadEngine(config), data_store.StoreEngine(config)
        super().__init__(
            {
                "load": In(stream.Signature(isa.Load.layout())),
                "store": In(stream.Signature(isa.Store.layout())),
                "code": In(data_code.CodeStart),
                "code_o": Out(stream.Signature(code_word)),
                "header_start": In(1),
                "header_address": In(32),
                "header_valid": Out(1),
                "header_data": Out(8 * HEADER_BYTES),
                "header_damaged": Out(1),
                "program": In(32),
                "image": In(32),
                "output": In(32),
                "load_take": Out(TakeSignature),
                "load_give": Out(GiveSignature),
                "store_take": Out(TakeSignature),
                "store_give": Out(GiveSignature),
                "a_write": Out(ActivationWrite(config)),
                "x_write": Out(ResidualWrite(config)),
                "norm": Out(stream.Signature(load_beat(config))),
                "a_read": Out(ActivationRead(config)),
                "a_grant": In(1),
                "x_read": Out(ResidualRead(config)),
                "x_grant": In(1),
                "axi_r": Out(AxiRead).array(data_load.sides(config)),
                "axi_w": Out(AxiWrite),
                "abort": In(1),
                "quiet": Out(1),
                "loading": Out(data_load.sides(config)),
                "pixels": Out(1),
                "load_busy": Out(1),
                "store_busy": Out(1),
                "fault": Out(Error),
                "place": Out(damage_place),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        readers = []
        for n in range(data_load.sides(config)):
            readers.append(
                bursts.Reader(
                    burst=(data_code.BURST, bursts.longest(config)),
                    capacity=(data_code.CAPACITY, config.memory.landing_beats),
                    first=CODE,
                )
            )
            m.submodules[f"reader_{n}"] = readers[n]
            wiring.connect(m, wiring.flipped(self.axi_r[n]), readers[n].axi)
        m.submodules.code_unit = code = data_code.Prefetcher()
        m.submodules.load_unit = load = self._load
        m.submodules.store_unit = store = self._store

        cancel = Signal()  # until a reset
        with m.If(self.abort):
            m.d.sync += cancel.eq(1)

        restart = Signal()
        m.d.sync += restart.eq(code.cancel)

        for outer, inner in (
            (self.code_o, code.code_o),
            (self.load, load.i),
            (self.load_take, load.take),
            (self.load_give, load.give),
            (self.a_write, load.a_write),
            (self.x_write, load.x_write),
            (self.norm, load.norm),
            (self.store, store.i),
            (self.store_take, store.take),
            (self.store_give, store.give),
            (self.a_read, store.a_read),
            (self.x_read, store.x_read),
            (self.axi_w, store.axi),
        ):
            wiring.connect(m, wiring.flipped(outer), inner)
        reader = readers[0]
        wiring.connect(m, code.job, reader.jobs[CODE])
        m.d.comb += [
            code.beat.eq(reader.valid[CODE]),
            code.data.eq(reader.data),
            reader.freed[CODE].eq(code.freed),
            reader.cancel[CODE].eq(cancel | restart),
        ]
        for n, each in enumerate(readers):
            wiring.connect(m, load.job[n], each.jobs[LOAD])
            m.d.comb += [
                load.beat[n].eq(each.valid[LOAD]),
                load.data[n].eq(each.data),
                each.freed[LOAD].eq(load.freed[n]),
                each.cancel[LOAD].eq(cancel),
                self.loading[n].eq(~each.idle[LOAD]),
            ]
        m.d.comb += [
            code.program.eq(self.header_address),
            code.header_start.eq(self.header_start),
            code.code.eq(self.code),
            code.idle.eq(reader.idle[CODE]),
            self.header_valid.eq(code.header_valid),
            self.header_data.eq(code.header_data),
            self.header_damaged.eq(code.header_damaged),
            load.program.eq(self.program),
            load.image.eq(self.image),
            load.output.eq(self.output),
            store.output.eq(self.output),
            store.a_grant.eq(self.a_grant),
            store.x_grant.eq(self.x_grant),
            store.cancel.eq(cancel),
            self.quiet.eq(Cat(idle for each in readers for idle in each.idle).all() & store.quiet),
            self.load_busy.eq(load.busy),
            self.pixels.eq(load.pixels),
            self.store_busy.eq(store.busy),
        ]
        with m.If(self.fault == Error.NONE):
            with m.If(Cat(each.error for each in readers).any()):
                m.d.sync += self.fault.eq(Error.READ)
            with m.Elif(load.fault != Error.NONE):
                m.d.sync += [self.fault.eq(load.fault), self.place.eq(load.place)]
            with m.Elif(store.fault != Error.NONE):
                m.d.sync += self.fault.eq(store.fault)
        return m
