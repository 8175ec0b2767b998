"""Second pass of a norm: mean, root, gain and bias applied to a token's words."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Value, signed, unsigned
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout, StructLayout, View
from amaranth.lib.wiring import In, Out

from moevit.quant.formats import ACTIVATION, SHIFT_BITS, VALUE
from moevit.quant.operators.layernorm import X_HAT_FRAC

from ..config import BEAT_BYTES, CHANNEL_BYTES, AcceleratorConfig
from ..interfaces import ChannelParams, load_beat, residual_word
from ..isa import Norm
from ..lib.component import Component
from ..lib.pipeline import Pipeline, double_shift, round_saturate
from ..lib.storage import Memory
from .norm_roots import DIM_BITS, NUMBER_BITS, token_root

__all__ = ["CHANNEL_BITS", "NormApply"]

_Channel = StructLayout({"bias": signed(32), "gain": signed(16), "shift": unsigned(SHIFT_BITS)})

CHANNEL_BITS = _Channel.size
"""Of a channel's parameters: bias 32, gain 16, shift 6."""


class NormApply(Component):
    """``sat8(round((x_hat * gain + bias) / 2**shift))`` of the words that the ring gives.

    Throughput: a word a cycle. It cannot be stalled.

    Members
    -------
    order : In
        The instruction; a ``plain`` one goes the same way with a mean of 0 and a root of 1.
    valid, root, row : In
        A word is taken from the ring: of which token, and its row of parameters.
    word : In
        The word, a cycle later.
    load : In(stream of load_beat)
        Beats of norm parameters. Always ready; rows outside the memory are dropped.
    done, bytes : Out
        O bytes.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        outputs = config.array.outputs
        super().__init__(
            {
                "order": In(Norm.layout()),
                "valid": In(1),
                "root": In(token_root()),
                "row": In(range(config.memory.norm_rows)),
                "word": In(residual_word(config)),
                "load": In(stream.Signature(load_beat(config))),
                "done": Out(1),
                "bytes": Out(ArrayLayout(signed(ACTIVATION.width), outputs)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        order, root = self.order, self.root
        # Without normalisation x_hat is x: (1 x - 0) * 2**15 / 2**15.
        one = 1 << (VALUE.width - 1)
        p = Pipeline(
            m,
            valid=self.valid,
            s=Mux(order.plain, 0, root.s),
            r=Mux(order.plain, one, root.r),
            shift=Mux(order.plain, VALUE.width - 1, root.e + (VALUE.width - X_HAT_FRAC)),
            row=self.row,
        )
        p.delay(1)  # the ring's
        with p.step() as reg:
            x = [reg(v, name="x") for v in self.word]
        dim = Mux(order.plain, 1, order.dim[:DIM_BITS])
        with p.step() as reg:
            x = [reg(v * dim, name="dx") for v in x]
        with p.step() as reg:
            number = [reg((v - p.tag["s"])[:NUMBER_BITS].as_signed(), name="number") for v in x]
        p.drop("s")
        with p.step() as reg:
            product = [reg(v * p.tag["r"], name="product") for v in number]
        p.drop("r")
        read = self._parameters(m, p)  # one stage ahead, then registered
        with p.step() as reg:
            doubled = [reg(double_shift(v, p.tag["shift"]), name="doubled") for v in product]
        p.drop("shift", "row")
        with p.step() as reg:
            x_hat = [reg(round_saturate(m, v, VALUE, name="x_hat"), name="x_hat") for v in doubled]
            channels = [View(_Channel, reg(c, name="channel")) for c in read]
        with p.step() as reg:
            scaled = [reg(v * c.gain, name="scaled") for v, c in zip(x_hat, channels, strict=True)]
            bias = [reg(c.bias, name="bias") for c in channels]
            shift = [reg(c.shift, name="shift") for c in channels]
        with p.step() as reg:
            biased = [reg(v + b, name="biased") for v, b in zip(scaled, bias, strict=True)]
            shift = [reg(v, name="shift") for v in shift]
        with p.step() as reg:
            doubled = [
                reg(double_shift(v, n), name="y_doubled")
                for v, n in zip(biased, shift, strict=True)
            ]
        with p.step() as reg:
            y = [reg(round_saturate(m, v, ACTIVATION, name="y"), name="y") for v in doubled]
        m.d.comb += [self.done.eq(p.valid), self.bytes.as_value().eq(Cat(*y))]
        return m

    def _parameters(self, m: Module, p: Pipeline) -> list[Value]:
        """The channels' memories: ``load`` writes, ``tag["row"]`` reads; data one stage later."""
        config = self._config
        per_beat = BEAT_BYTES // CHANNEL_BYTES
        m.d.comb += self.load.ready.eq(1)
        beat = self.load.payload
        data = []
        for n in range(config.array.outputs):
            m.submodules[f"channel_{n}"] = memory = Memory(
                shape=unsigned(CHANNEL_BITS), depth=config.memory.norm_rows, init=[]
            )
            write, read = memory.write_port(), memory.read_port()
            channel = View(ChannelParams, beat.data.word_select(n % per_beat, 8 * CHANNEL_BYTES))
            m.d.comb += [
                write.en.eq(
                    self.load.valid
                    & (beat.part == n // per_beat)
                    & (beat.row < config.memory.norm_rows)
                ),
                write.addr.eq(beat.row),
                write.data.eq(Cat(channel.bias, channel.mult, channel.shift[:SHIFT_BITS])),
                read.en.eq(p.valid),
                read.addr.eq(p.tag["row"]),
            ]
            data.append(read.data)
        return data
