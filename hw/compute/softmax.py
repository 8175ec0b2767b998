"""Softmax unit: tiles of sums in, attention weights and row scales out.

The integers are those of quant/operators/softmax.py.

A score is exponentiated once, when the maximum of its row is known. So the scores of a query tile
are kept in one half of a buffer, while those of the tile before it, in the other, become weights.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from moevit.quant.formats import LOGIT, MULTIPLIER_BITS, SHIFT_BITS
from moevit.quant.operators.exp2 import SOFTMAX_EXP

from ..config import AcceleratorConfig
from ..interfaces import AttentionRead, accumulators, row_scales, score_tile, weights_address
from ..lib import exp2
from ..lib.component import Component
from ..lib.fifo import MemoryFifo
from ..lib.pipeline import Pipeline, double_shift, round_saturate
from ..memories import banks
from .row_scales import OUTPUT_SCALE, WAITING, RowScales, key_tiles
from .weight_buffer import WeightBuffer

__all__ = ["Softmax"]

_SCORE = signed(LOGIT.width)


class _ScoreBuffer:
    """Scores of two query tiles; whether each half is taken and full, maxima, its last key tile."""

    def __init__(self, m: Module, config: AcceleratorConfig, address_bits: int) -> None:
        a = config.array
        self.occupied, self.full = Signal(2, name="occupied"), Signal(2, name="full")
        self.maxima = [
            [Signal(_SCORE, name=f"maximum_{h}_{t}", reset_less=True) for t in range(a.tokens)]
            for h in range(2)
        ]
        last = StructLayout(
            {
                "at": address_bits,
                "single": 1,
                "valid": range(a.outputs + 1),
                "mult": MULTIPLIER_BITS,
                "shift": SHIFT_BITS,
            }
        )
        self.end: list[Any] = [Signal(last, name=f"end_{h}", reset_less=True) for h in range(2)]
        width = LOGIT.width * 2 * a.outputs
        self.memories = banks(m, "scores", width=width, depth=2 << address_bits)


class _Reading:
    """Which scores are read and where their weights go; query tiles whose weights are held, and
    whose scales are under way."""

    def __init__(self, config: AcceleratorConfig, address_bits: int) -> None:
        a = config.array
        self.active, self.fresh, self.source = Signal(), Signal(), Signal()
        self.at = Signal(address_bits)
        self.pair, self.group = Signal(range(a.tokens // 2)), Signal(range(a.inputs // a.outputs))
        self.word = Signal(weights_address(config)["word"].shape)
        self.half = Signal(init=1)
        self.first, self.finish = Signal(), Signal()
        self.held, self.scales = Signal(range(3)), Signal(range(WAITING + 1))


class Softmax(Component):
    """Two rows x O lanes of scaling, maximum, exponential and sum.

    Latency: :attr:`latency` cycles and T/2 cycles for each key tile, from the last key tile of a
    query tile to ``ready``. Throughput: a key tile every T/2 cycles, while the query tile before it
    is exponentiated at the same rate (with a single key tile: one every T cycles). Back-pressure:
    ``i`` waits while both halves of the score buffer are full; exponentiation of a query tile
    begins when a half of the weights is free and fewer than 4 row scales wait.

    Rows beyond the real queries give harmless garbage; more keys than ``limits.tokens`` overwrite
    one another (the loader refuses them).

    Parameters
    ----------
    config:
        The accelerator.

    Members
    -------
    i:
        Key tiles of T x O sums. Keys from ``valid`` on of a ``last`` tile have weight 0.
    weights:
        In(AttentionRead).
    rows:
        Multiplier and shift of T rows for each query tile.
    busy:
        Anything in the unit.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        a = config.array
        tile = StructLayout({"tile": score_tile(config), "acc": accumulators(config)})
        super().__init__(
            {
                "i": In(stream.Signature(tile)),
                "weights": In(AttentionRead(config)),
                "rows": Out(stream.Signature(row_scales(config))),
                "busy": Out(1),
            }
        )
        self._pairs = a.tokens // 2
        self._buffer_bits = max(1, ceil_log2(key_tiles(config) * self._pairs))
        self.latency = ceil_log2(a.outputs) + exp2.LATENCY + 9

    def elaborate(self, platform: object) -> Module:
        m = Module()
        buffer = _ScoreBuffer(m, self._config, self._buffer_bits)
        filling = self._fill(m, buffer)
        held, scales = self._empty(m, buffer)
        m.d.comb += self.busy.eq(filling | buffer.occupied.any() | (held != 0) | (scales != 0))
        return m

    def _fill(self, m: Module, buffer: _ScoreBuffer) -> Value:
        """Sums to scores and their row maxima; returns whether a query tile is half way in."""
        outputs, pairs = self._config.array.outputs, self._pairs
        tile = self.i.payload.tile
        half, pair, at = Signal(), Signal(range(pairs)), Signal(self._buffer_bits)
        enter, tile_end, finish, first = Signal(), Signal(), Signal(), Signal(init=1)
        m.d.comb += [
            tile_end.eq(pair == pairs - 1),
            finish.eq(tile_end & tile.last),
            enter.eq(self.i.valid & ~buffer.occupied.bit_select(half, 1)),
            self.i.ready.eq(~buffer.occupied.bit_select(half, 1) & tile_end),
        ]
        with m.If(enter):
            m.d.sync += [pair.eq(Mux(tile_end, 0, pair + 1)), at.eq(at + 1)]
            with m.If(tile_end):
                m.d.sync += first.eq(0)
            with m.If(finish):
                m.d.sync += [at.eq(0), half.eq(~half), first.eq(1)]
                for h in range(2):
                    with m.If(half == h):
                        m.d.sync += [
                            buffer.occupied[h].eq(1),
                            buffer.end[h].at.eq(at),
                            buffer.end[h].single.eq(first),
                            buffer.end[h].valid.eq(tile.valid),
                            buffer.end[h].mult.eq(tile.out_mult),
                            buffer.end[h].shift.eq(tile.out_shift),
                        ]

        beyond = Cat(tile.last & (tile.valid <= o) for o in range(outputs))
        p = Pipeline(
            m, valid=enter, mult=tile.mult, shift=tile.shift, half=half, pair=pair, at=at,
            first=first, finish=finish, beyond=beyond,
        )  # fmt: skip
        rows = [Array(self.i.payload.acc[2 * q + r] for q in range(pairs))[pair] for r in range(2)]
        with p.step() as reg:
            sums = [reg(row[o], name="sum") for row in rows for o in range(outputs)]
        with p.step() as reg:
            product = [reg(v * p.tag["mult"], name="product") for v in sums]
        p.drop("mult")
        with p.step() as reg:
            doubled = [reg(double_shift(v, p.tag["shift"]), name="doubled") for v in product]
        p.drop("shift")
        with p.step() as reg:
            score = [reg(round_saturate(m, v, LOGIT, name="score"), name="score") for v in doubled]
        for memory, word in zip(buffer.memories, _split(Cat(*score), buffer.memories), strict=True):
            write = memory.write_port()
            m.d.comb += [
                write.en.eq(p.valid),
                write.addr.eq(Cat(p.tag["at"], p.tag["half"])),
                write.data.eq(word),
            ]
        p.drop("at")
        with p.step() as reg:
            candidates = [
                reg(Mux(p.tag["beyond"][n % outputs], LOGIT.min, v), name="candidate")
                for n, v in enumerate(score)
            ]
        p.drop("beyond")
        largest = p.reduce(_larger, candidates[:outputs], candidates[outputs:])
        with m.If(p.valid):
            for h in range(2):
                with m.If(p.tag["half"] == h):
                    with m.If(p.tag["finish"]):
                        m.d.sync += buffer.full[h].eq(1)
                    for q in range(pairs):
                        with m.If(p.tag["pair"] == q):
                            for r in range(2):
                                kept = buffer.maxima[h][2 * q + r]
                                with m.If(p.tag["first"] | (largest[r] > kept)):
                                    m.d.sync += kept.eq(largest[r])
        return (pair != 0) | ~first

    def _read(self, m: Module, buffer: _ScoreBuffer) -> _Reading:
        """Query tiles follow one another without a gap; each is read without a pause."""
        pairs, tokens = self._pairs, self._config.array.tokens
        now = _Reading(self._config, self._buffer_bits)
        start, ending, stop = Signal(), Signal(), Signal(self._buffer_bits)
        turn = Signal(self._buffer_bits)  # where the last key tile begins, less one
        upcoming, gap = Signal(), Signal(range(tokens))
        crowded, single, gone = Signal(), Signal(), Signal()  # gone: rows' scales, a cycle ago
        last_pair = now.active & now.finish & (now.pair == 0)
        m.d.comb += [
            # Scales are made one row a cycle: last key tiles of two query tiles are T cycles apart.
            single.eq(Mux(upcoming, buffer.end[1].single, buffer.end[0].single)),
            crowded.eq(single & ((gap != 0) | last_pair)),
            ending.eq(now.at == stop),
            start.eq(
                buffer.full.bit_select(upcoming, 1)
                & (~now.active | ending)
                & (now.held != 2)
                & (now.scales != WAITING)
                & ~crowded
            ),
        ]
        m.d.sync += [
            now.fresh.eq(start),
            now.held.eq(now.held + start - self.weights.release),
            now.scales.eq(now.scales + start - gone),
            gone.eq(self.rows.valid & self.rows.ready),
        ]
        with m.If(last_pair):
            m.d.sync += gap.eq(tokens - 2)
        with m.Elif(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        with m.If(start):
            end = Mux(upcoming, buffer.end[1].at, buffer.end[0].at)
            m.d.sync += [
                now.active.eq(1),
                now.at.eq(0),
                now.source.eq(upcoming),
                upcoming.eq(~upcoming),
                stop.eq(end),
                turn.eq(end - pairs),
                now.finish.eq(single),
                now.pair.eq(0),
                now.group.eq(0),
                now.word.eq(0),
                now.first.eq(1),
                now.half.eq(~now.half),
            ]
            for h in range(2):
                with m.If(upcoming == h):  # what comes in stays behind what is read
                    m.d.sync += [buffer.full[h].eq(0), buffer.occupied[h].eq(0)]
        with m.Elif(now.active):
            m.d.sync += [
                now.at.eq(now.at + 1),
                now.active.eq(~ending),
                now.pair.eq(now.pair + 1),
            ]
            with m.If(now.at == turn):
                m.d.sync += now.finish.eq(1)
            with m.If(now.pair == pairs - 1):
                m.d.sync += [now.pair.eq(0), now.first.eq(0), now.group.eq(now.group + 1)]
                with m.If(now.group == self._config.array.inputs // self._config.array.outputs - 1):
                    m.d.sync += [now.group.eq(0), now.word.eq(now.word + 1)]
        return now

    def _empty(self, m: Module, buffer: _ScoreBuffer) -> tuple[Signal, Signal]:
        """Scores to weights and sums; returns the halves held and the scales under way."""
        config, outputs, pairs = self._config, self._config.array.outputs, self._pairs
        tokens = config.array.tokens
        now = self._read(m, buffer)

        # The tile's own values, from the cycle on in which its first scores come out of the buffer.
        maximum = [Signal(_SCORE, name=f"maximum_{t}", reset_less=True) for t in range(tokens)]
        beyond = Signal(outputs, reset_less=True)
        m.submodules.row_scales = scaling = RowScales(config)
        wiring.connect(m, scaling.rows, wiring.flipped(self.rows))
        m.submodules.outs = outs = MemoryFifo(OUTPUT_SCALE, depth=WAITING)
        wiring.connect(m, outs.o, scaling.output)
        with m.If(now.fresh):
            for h in range(2):
                with m.If(now.source == h):
                    m.d.sync += [
                        kept.eq(new) for kept, new in zip(maximum, buffer.maxima[h], strict=True)
                    ]
                    m.d.sync += beyond.eq(Cat(buffer.end[h].valid <= o for o in range(outputs)))
                    m.d.comb += [
                        outs.i.payload.mult.eq(buffer.end[h].mult),
                        outs.i.payload.shift.eq(buffer.end[h].shift),
                    ]
        m.d.comb += outs.i.valid.eq(now.fresh)

        p = Pipeline(
            m, valid=now.active, pair=now.pair, group=now.group, word=now.word, half=now.half,
            first=now.first, finish=now.finish,
        )  # fmt: skip
        words = []
        for memory in buffer.memories:
            read = memory.read_port()
            m.d.comb += [read.en.eq(now.active), read.addr.eq(Cat(now.at, now.source))]
            words.append(read.data)
        p.delay(1)  # the buffer's
        score, width = Cat(*words), LOGIT.width
        rows = [Array(maximum[2 * q + r] for q in range(pairs))[p.tag["pair"]] for r in range(2)]
        with p.step() as reg:
            # A key that is not there is as far away as can be: its exponential is 0.
            distance = [
                reg(
                    (rows[n // outputs] - score[n * width : (n + 1) * width].as_signed())[:width]
                    | (p.tag["finish"] & beyond[n % outputs]).replicate(width),
                    name="distance",
                )
                for n in range(2 * outputs)
            ]
        weights = exp2.lanes(m, p, SOFTMAX_EXP, distance, name="octave")
        m.submodules.weight_buffer = kept = WeightBuffer(config)
        wiring.connect(m, wiring.flipped(self.weights), kept.read)
        m.d.comb += [
            kept.valid.eq(p.valid),
            kept.pair.eq(p.tag["pair"]),
            kept.group.eq(p.tag["group"]),
            kept.address.word.eq(p.tag["word"]),
            kept.address.half.eq(p.tag["half"]),
            *(lane.eq(weight) for lane, weight in zip(kept.weights, weights, strict=True)),
            kept.last.eq(p.tag["finish"] & (p.tag["pair"] == pairs - 1)),
        ]
        p.drop("group", "word", "half")
        sums = p.reduce(lambda a, b: a + b, weights[:outputs], weights[outputs:])
        m.d.comb += [
            scaling.valid.eq(p.valid),
            scaling.pair.eq(p.tag["pair"]),
            scaling.first.eq(p.tag["first"]),
            scaling.finish.eq(p.tag["finish"]),
            *(part.eq(value) for part, value in zip(scaling.sums, sums, strict=True)),
        ]
        return now.held, now.scales


def _split(word: Value, memories: list[Any]) -> list[Value]:
    """``word`` in pieces as wide as the memories, which make it up."""
    pieces, position = [], 0
    for memory in memories:
        width = memory.shape.width
        pieces.append(word[position : position + width])
        position += width
    return pieces


def _larger(a: Value, b: Value) -> Value:
    return Mux(a > b, a, b)
