"""CRCs against zlib: words of code, and blocks of beats in hardware."""

import random
import zlib

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from moevit.hw.checks import (
    check_offset,
    code_bytes,
    crc32,
    decode_code,
    encode_code,
    instruction_offset,
)
from moevit.hw.lib.crc import BlockCheck, Fold


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=9), st.data())
def test_code(words: list[bytes], data: st.DataObject) -> None:
    code = encode_code(words)
    assert len(code) == code_bytes(len(words))
    assert decode_code(code, len(words)) == [(word, True) for word in words]
    for n, word in enumerate(words):
        assert code[instruction_offset(n) :][:32] == word
    if words:
        n = data.draw(st.integers(0, len(words) - 1))
        where = data.draw(st.sampled_from([check_offset(n), instruction_offset(n)]))
        flipped = bytearray(code)
        flipped[where + data.draw(st.integers(0, 3))] ^= 1 << data.draw(st.integers(0, 7))
        assert [sound for _, sound in decode_code(bytes(flipped), len(words))] == [
            i != n for i in range(len(words))
        ]
        with pytest.raises(ValueError, match="bytes, not"):
            decode_code(code[:-1], len(words))


def test_an_instruction_in_another_place() -> None:
    words = [bytes([n]) * 32 for n in range(4)]
    code = bytearray(encode_code(words))
    for at in (check_offset, instruction_offset):
        size = at(1) - at(0)
        one, two = code[at(0) :][:size], code[at(2) :][:size]
        code[at(0) : at(0) + size], code[at(2) : at(2) + size] = two, one
    assert [sound for _, sound in decode_code(bytes(code), 4)] == [False, True, False, True]


@pytest.mark.parametrize("seed", [1, 2])
def test_blocks_of_beats(seed: int) -> None:
    """Blocks of any length one behind the other, with and without pauses, some of them damaged."""
    rng = random.Random(seed)
    blocks = [rng.randbytes(16 * rng.choice((1, 1, 2, 3, 9))) for _ in range(60)]
    checks = [zlib.crc32(block) ^ 0xFFFF_FFFF for block in blocks]
    assert checks == [crc32(block) for block in blocks]
    wrong = [rng.random() < 0.3 for _ in blocks]
    checked = [rng.random() < 0.8 for _ in blocks]
    m = Module()
    m.submodules.fold, m.submodules.check = fold, check = Fold(), BlockCheck(8)
    m.d.comb += check.folded.eq(fold.o)
    found: list[tuple[int, bool]] = []

    async def watch(ctx) -> None:
        while True:
            _, _, done, damaged, name = await ctx.tick().sample(
                check.done, check.damaged, check.name
            )
            if done:
                found.append((name, bool(damaged)))

    async def feed(ctx) -> None:
        ctx.set(check.clear, 1)
        await ctx.tick()
        ctx.set(check.clear, 0)
        for n, block in enumerate(blocks):
            for at in range(0, len(block), 16):
                while seed == 1 and rng.random() < 0.4:
                    ctx.set(fold.i, rng.getrandbits(128))
                    await ctx.tick()
                    ctx.set(check.beat, 0)
                ctx.set(fold.i, int.from_bytes(block[at : at + 16], "little"))
                await ctx.tick()  # the beat is folded while its flags are registered
                ctx.set(check.beat, 1)
                ctx.set(check.last, at + 16 == len(block))
                ctx.set(check.expected, checks[n] ^ (wrong[n] << rng.randrange(32)))
                ctx.set(check.checked, checked[n])
                ctx.set(check.tag, n)
        await ctx.tick()
        ctx.set(check.beat, 0)
        await ctx.tick().repeat(4)

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(watch, background=True)
    sim.add_testbench(feed)
    sim.run()
    assert found == [(n, w and c) for n, (w, c) in enumerate(zip(wrong, checked, strict=True))]
