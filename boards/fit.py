"""Whether a configuration fits a part, as far as that is known without synthesis.

Block RAM, ultra RAM and the array's multipliers follow from the configuration alone. Look-up tables
and the multipliers of the engines around the array are what `moevit resources --board` counts.
"""

from __future__ import annotations

from dataclasses import replace

from moevit.hw.config import PRESETS, AcceleratorConfig
from moevit.hw.footprint import buffers
from moevit.hw.lib.storage import Bank, Style

from .parts import Part

__all__ = ["PRODUCTS_PER_DSP", "least", "shortage", "suggestion"]

PRODUCTS_PER_DSP = {"none": 1, "dsp48e2": 2, "dsp48e2x2": 4}
"""int8 products a cycle of the accelerator's clock in one multiplier, by primitives."""


def least(config: AcceleratorConfig, part: Part, primitives: str) -> dict[str, float]:
    """``DSP``, ``BRAM36`` and ``URAM`` that ``config`` takes at least.

    On a part without ultra RAM its memories are block RAM.
    """
    banks = [bank for group in buffers(config).values() for bank in group]
    if not part.has["URAM"]:
        banks = [_block(bank) for bank in banks]
    return {
        "DSP": config.array.macs / PRODUCTS_PER_DSP[primitives],
        "BRAM36": sum(bank.block_rams for bank in banks),
        "URAM": sum(bank.ultra_rams for bank in banks),
    }


def _block(bank: Bank) -> Bank:
    return replace(bank, initialised=True) if bank.style is Style.ULTRA else bank


def shortage(config: AcceleratorConfig, part: Part, primitives: str) -> str:
    """What ``config`` takes beyond what the part has, or an empty string."""
    wanted = least(config, part, primitives)
    over = [r for r, amount in wanted.items() if amount > part.has[r]]
    return ", ".join(f"{wanted[r]:g} {r} of {part.has[r]}" for r in over)


def suggestion(part: Part, primitives: str) -> str:
    """The preset with the most products a cycle that fits, or ``none``."""
    fitting = [c for c in PRESETS.values() if not shortage(c, part, primitives)]
    return max(fitting, key=lambda c: c.array.macs).name if fitting else "none"
