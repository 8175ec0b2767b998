"""Kinds of RAM, and the model of a configuration's block and ultra RAM against the hardware."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from moevit.hw.config import AcceleratorConfig, preset
from moevit.hw.footprint import buffers
from moevit.hw.lib.storage import Bank, Style, banks_of, sections, style
from moevit.hw.verilog import rtlil


@pytest.mark.parametrize(
    ("width", "depth", "initialised", "expected"),
    [
        (64, 64, False, Style.DISTRIBUTED),
        (64, 128, False, Style.DISTRIBUTED),
        (64, 129, False, Style.BLOCK),
        (64, 2047, False, Style.BLOCK),
        (64, 2048, False, Style.ULTRA),
        (35, 4096, False, Style.BLOCK),
        (64, 4096, True, Style.BLOCK),
    ],
)
def test_style(width: int, depth: int, initialised: bool, expected: Style) -> None:
    assert style(width, depth, initialised=initialised) == expected


@pytest.mark.parametrize(
    ("bank", "block", "ultra"),
    [
        (Bank(64, 512), 1, 0),
        (Bank(72, 129), 1, 0),
        (Bank(36, 512), 0.5, 0),
        (Bank(37, 512), 1, 0),
        (Bank(64, 1024), 2, 0),
        (Bank(17, 256, 3, initialised=True), 1.5, 0),
        (Bank(27, 4096), 3, 0),
        (Bank(64, 4096, 64), 0, 64),
        (Bank(64, 12288, 4), 0, 12),
        (Bank(73, 4097), 0, 4),
        (Bank(64, 64), 0, 0),
    ],
)
def test_rams_of_a_bank(bank: Bank, block: float, ultra: int) -> None:
    assert (bank.block_rams, bank.ultra_rams) == (block, ultra)


def test_banks_of() -> None:
    assert banks_of(150, 100, count=2) == [Bank(64, 100, 4), Bank(22, 100, 2)]
    assert banks_of(12, 100) == [Bank(12, 100, 1)]


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(100, [100]), (4096, [4096]), (5120, [4096, 1024]), (5121, [5121]), (8192, [8192])],
)
def test_sections(depth: int, expected: list[int]) -> None:
    assert sections(depth) == expected


def _odd() -> AcceleratorConfig:
    """Sizes that no preset has, each memory with another depth."""
    return preset("micro").but(
        memory__activation_words=5000,
        memory__residual_words=4300,
        memory__kv_rows=300,
        memory__ring_rows=2048,
        memory__demand_rows=256,
        memory__param_rows=512,
        memory__demand_param_rows=128,
        memory__norm_rows=77,
        memory__landing_beats=128,
        limits__tokens=200,
        limits__depth=512,
        limits__experts=6,
        limits__top_k=2,
    )


@pytest.mark.parametrize(
    "config", [preset("micro"), preset("default"), _odd()], ids=lambda c: c.hash
)
def test_buffers_are_those_of_the_hardware(config: AcceleratorConfig) -> None:
    expected: Counter[tuple[int, int]] = Counter()
    for banks in buffers(config).values():
        for bank in banks:
            expected[bank.width, bank.depth] += bank.count
    found: Counter[tuple[int, int]] = Counter()
    text = rtlil(config)
    memories = re.findall(r'attribute \\ram_style "(\w+)"\n  memory width (\d+) size (\d+)', text)
    assert len(memories) == len(re.findall(r"^  memory ", text, re.M))  # none without a kind
    for kind, width, depth in memories:
        if kind not in (Style.DISTRIBUTED, Style.LOGIC):
            found[int(width), int(depth)] += 1
            initialised = (int(width), int(depth)) in {
                (bank.width, bank.depth)
                for banks in buffers(config).values()
                for bank in banks
                if bank.initialised
            }
            assert kind == style(int(width), int(depth), initialised=initialised)
    assert found == expected
