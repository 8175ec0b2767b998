"""Instructions survive encoding, bad fields are refused, and the documentation is up to date."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moevit.hw import isa, isa_doc

ROOT = Path(__file__).parents[2]


@st.composite
def instructions(draw: st.DrawFn) -> isa.Instruction:
    kind = draw(st.sampled_from(sorted(isa.OPCODES.values(), key=lambda k: k.__name__)))
    values = {}
    for name, (width, signed) in kind.widths().items():
        low, high = (
            (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
        )
        values[name] = draw(st.integers(low, high))
    return kind(**values)


@given(instructions())
def test_round_trip(instruction: isa.Instruction) -> None:
    data = instruction.encode()
    assert len(data) == isa.INSTRUCTION_BYTES
    assert isa.decode(data) == instruction


@given(instructions())
def test_layout_is_the_encoding(instruction: isa.Instruction) -> None:
    word = int.from_bytes(instruction.encode(), "little")
    const = type(instruction).layout().from_bits(word)
    for f in fields(instruction):
        assert int(const[f.name]) == getattr(instruction, f.name)


def test_field_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"Gemm.otiles must be from 0 to 1023, not 1024"):
        isa.Gemm(otiles=1024)
    with pytest.raises(ValueError, match=r"Gemm.zero_point must be from -128 to 127, not 128"):
        isa.Gemm(zero_point=128)


def test_illegal_opcode() -> None:
    with pytest.raises(ValueError, match="opcode 15"):
        isa.decode(bytes([15]) + bytes(31))
    with pytest.raises(ValueError, match="32 bytes, not 3"):
        isa.decode(b"abc")


def test_documentation_is_current() -> None:
    assert (ROOT / "docs/isa.md").read_text() == isa_doc.render(), (
        "run: python -m moevit.hw.isa_doc docs/isa.md"
    )
