"""The operand loader alone: which words it reads for which row, and where the rows go.

Random GEMMs, of queues and of windows of maps, and attention between them, against the text of
hw/isa.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from amaranth.sim import Simulator
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from moevit.hw.compute.loader import Loader
from moevit.hw.config import AcceleratorConfig, preset
from moevit.hw.isa import WITH_LINES, Attention, Destination, Gemm, Instruction
from moevit.hw.registers import Error

MICRO = preset("micro")
CONFIGS = {t: MICRO.but(array__tokens=t) for t in (2, 4, 6)}
WORDS = MICRO.memory.activation_words
QUEUE = [(token * 7 % 50, 100 + token) for token in range(9)]


@dataclass
class Tile:
    """What the array gets: words of each row, destination rows, and the last tile's flag."""

    words: list[list[int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    last: bool = False


def tiles(i: Instruction, t: int) -> list[Tile]:
    """The pseudo-code of hw/isa.py."""
    out = []
    if isinstance(i, Attention):
        for first in range(0, i.queries, t):
            rows = list(range(first, min(first + t, i.queries)))
            for h in range(i.heads):
                start = [i.source + r * i.stride + h * i.chunks for r in rows]
                words = [list(range(s, s + i.chunks)) for s in start]
                out.append(Tile(words, rows, False))
    elif isinstance(i, Gemm):
        n = len(QUEUE) if i.use_queue else i.tokens
        for first in range(0, n, t):
            tile = Tile()
            for r in range(first, min(first + t, n)):
                token = QUEUE[r][0] if i.use_queue else None
                y, c = divmod(r, i.line) if i.line else (0, r)
                at = token if i.use_queue and i.gather else y * i.source_line + c
                row = []
                for w in range(i.depth):
                    s, u = divmod(w, i.span) if i.span else (0, w)
                    row.append(i.source + at * i.stride + s * i.source_line * i.stride + u)
                tile.words.append(row)
                scattered = i.use_queue and i.scatter
                tile.rows.append(token if scattered else y * i.target_line + c)
            out.append(tile)
    out[-1].last = True
    return out


def run(
    config: AcceleratorConfig, code: list[Instruction], seed: int = 0
) -> tuple[int, list[Tile]]:
    """The loader's fault, and the tiles it made until then; the array is of uneven speed."""
    loader = Loader(config)
    sim = Simulator(loader)
    sim.add_clock(1e-6)
    found: list[Tile] = []
    written: list[dict[tuple[int, int], int]] = [{}, {}]  # of each half: (row, word) to address
    fault = 0

    async def bench(ctx):
        nonlocal fault
        ctx.set(loader.lengths[3], len(QUEUE))
        ctx.set(loader.take.ready, 1)
        todo, half, wait, quiet, before, cycles = list(code), 0, 0, 0, 0, 0
        while quiet < 20 and not fault:
            cycles += 1
            assert cycles < 20_000, "the loader hangs"
            ctx.set(loader.i.valid, bool(todo))
            if todo:
                ctx.set(loader.i.payload, int.from_bytes(todo[0].encode(), "little"))
            wait = wait - 1 if wait else (seed * 7 + len(found) * 5) % 23
            ctx.set(loader.o.ready, wait == 0)
            ctx.set(loader.half_released, 0)
            taken = ctx.get(loader.i.ready) and todo
            address = ctx.get(loader.activations.addr)
            en, row, where, word = (
                ctx.get(s)
                for s in (
                    loader.operands.en,
                    loader.operands.row,
                    loader.operands.half,
                    loader.operands.word,
                )
            )
            if en:
                written[where][row, word] = before
            before = address
            if wait == 0 and ctx.get(loader.o.valid):
                d = loader.o.payload
                count, depth = ctx.get(d.drain.count), ctx.get(d.depth)
                rows = [ctx.get(d.drain.rows[n]) for n in range(count)]
                words = [[written[half][n, w] for w in range(depth)] for n in range(count)]
                assert len(written[half]) == count * depth
                found.append(Tile(words, rows, bool(ctx.get(d.drain.last))))
                written[half].clear()
                half ^= 1
                ctx.set(loader.half_released, 1)
            asked, place = ctx.get(loader.queue.en), ctx.get(loader.queue.addr)
            quiet = 0 if todo or ctx.get(loader.busy) else quiet + 1
            await ctx.tick()
            if asked:
                assert place.expert == 3
                ctx.set(loader.queue.data.token, QUEUE[place.slot][0])
            if taken:
                todo.pop(0)
            fault = ctx.get(loader.fault)

    sim.add_testbench(bench)
    sim.run()
    return fault, found


@st.composite
def gemms(draw: st.DrawFn) -> Gemm:
    depth, queued = draw(st.integers(1, 9)), draw(st.booleans())
    common = {"source": draw(st.integers(0, 40)), "stride": draw(st.integers(1, 5)), "otiles": 1}
    if queued:
        bits = {name: draw(st.integers(0, 1)) for name in ("gather", "scatter")}
        return Gemm(use_queue=1, queue=3, depth=min(depth, 4), mode=Destination.EXPERT,
                    **common, **bits)  # fmt: skip
    lines = {n: draw(st.integers(0, 9)) for n in ("line", "source_line", "target_line", "span")}
    flags = {name: draw(st.integers(0, 1)) for name in ("gather", "scatter")}
    return Gemm(depth=depth, tokens=draw(st.integers(1, 20)), **common, **lines, **flags)


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    """Its ``out_mult`` lies where a GEMM has ``line``."""
    return Attention(
        source=draw(st.integers(0, 40)), stride=draw(st.integers(1, 9)),
        chunks=draw(st.integers(1, 3)), heads=draw(st.integers(1, 3)),
        queries=draw(st.integers(1, 9)), keys=5, v_otiles=1, v_tile_pitch=1,
        target=draw(st.integers(0, (1 << 20) - 1)), target_stride=draw(st.integers(0, 4095)),
        score_mult=draw(st.integers(0, 65535)), score_shift=draw(st.integers(0, 63)),
        out_mult=draw(st.integers(0, 2)), out_shift=draw(st.integers(0, 63)),
    )  # fmt: skip


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    code=st.lists(st.one_of(gemms(), gemms(), attentions()), min_size=1, max_size=8),
    t=st.sampled_from(sorted(CONFIGS)),
    seed=st.integers(0, 22),
)
def test_words_and_rows(code: list[Instruction], t: int, seed: int) -> None:
    fault, found = run(CONFIGS[t], code, seed)
    assert fault == Error.NONE
    assert found == [tile for i in code for tile in tiles(i, t)]


FIELDS = ("line", "source_line", "target_line", "span")
PLAIN = {"depth": 2, "otiles": 1, "tokens": 3, "head_otiles": 1, "experts": 2, "top_k": 1}


@pytest.mark.parametrize("mode", Destination)
def test_refused(mode: Destination) -> None:
    """Lines and spans: four destinations, and no queue."""
    for name in FIELDS:
        fault, _ = run(MICRO, [Gemm(mode=mode, **PLAIN, **{name: 1 << 9})])
        allowed = mode in WITH_LINES
        assert fault == (Error.NONE if allowed else Error.FIELD), name
        queued = Gemm(mode=mode, use_queue=1, queue=3, **PLAIN, **{name: 1})
        assert run(MICRO, [queued])[0] == Error.FIELD
    assert run(MICRO, [Gemm(mode=mode, **PLAIN)])[0] == Error.NONE


@pytest.mark.parametrize("side", ["source_line", "target_line"])
def test_rows_beyond_twelve_bits(side: str) -> None:
    """Row 4,095 is the last one."""
    for last, pitch, error in (
        (5, 819, Error.NONE),
        (5, 820, Error.ADDRESS),
        (9, 1023, Error.ADDRESS),
    ):
        gemm = Gemm(depth=1, otiles=1, tokens=last + 1, line=1, **{side: pitch})
        fault, found = run(MICRO, [gemm])
        assert fault == error
        if not error:
            assert found == tiles(gemm, 2)


def test_a_span_beyond_the_memory() -> None:
    gemm = {"depth": 2, "otiles": 1, "tokens": 1, "stride": 4, "span": 1}
    assert run(MICRO, [Gemm(source=WORDS - 41, source_line=10, **gemm)])[0] == Error.NONE
    assert run(MICRO, [Gemm(source=WORDS - 40, source_line=10, **gemm)])[0] == Error.ADDRESS
