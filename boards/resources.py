"""Resources and logic depth of a configuration on its board, by Yosys."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from moevit.hw.config import AcceleratorConfig

from .blocks import Block, blocks
from .cells import Timing
from .depth import Analysis, Path, analyse
from .dsp48e2 import Platform
from .parts import RESOURCES, Part, part
from .synthesis import synthesise, tally

__all__ = ["BlockReport", "Report", "report"]

_SLICES = Platform()


@dataclass(frozen=True)
class BlockReport:
    """``uses``: resources without those of black boxes; ``path``: the longest one, through these
    too."""

    name: str
    uses: dict[str, float]
    path: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        path = self.path and {
            "ns": self.path.ns,
            "luts": self.path.luts,
            "carry4": self.path.carries,
            "through": list(self.path.marks),
            "from": self.path.start,
            "to": self.path.end,
        }
        return {**_numbers(self.uses), "path": path}


@dataclass(frozen=True)
class Report:
    """What a configuration takes of its part; all figures are Yosys's, before place and route."""

    config: AcceleratorConfig
    part: Part
    blocks: tuple[BlockReport, ...]

    @property
    def uses(self) -> dict[str, float]:
        """Of the whole accelerator."""
        return {r: sum(block.uses[r] for block in self.blocks) for r in RESOURCES}

    @property
    def over(self) -> list[str]:
        """Resources beyond the budget."""
        return [r for r, amount in self.uses.items() if amount > self.part.budget[r]]

    def too_long(self, block: BlockReport) -> bool:
        """Whether the block's longest path leaves nothing at the target clock."""
        return block.path is not None and block.path.slack(self.config.clock_mhz) < 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "preset": self.config.name,
            "device": self.part.device + self.part.speed,
            "clock_mhz": self.config.clock_mhz,
            **_numbers(self.uses),
            "budget": dict(self.part.budget),
            "available": dict(self.part.has),
            "within_budget": not self.over,
            "paths_too_long": [block.name for block in self.blocks if self.too_long(block)],
            "blocks": {block.name: block.to_dict() for block in self.blocks},
        }


def _numbers(amounts: dict[str, float]) -> dict[str, float]:
    return {name: int(value) if value == int(value) else value for name, value in amounts.items()}


def report(
    config: AcceleratorConfig,
    *,
    on: Part | None = None,
    platform: Any = _SLICES,
    jobs: int = 2,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
) -> Report:
    """Synthesise every block of ``config``, ``jobs`` at a time.

    ``on``: the part, the preset's own if not given; ``platform``: its multipliers.

    Raises
    ------
    SynthesisError
        If Yosys is missing or fails.
    """
    progress("generating", 0.0)
    device = on or part(config.name)
    found = blocks(config, platform, family=device.family, ultra=device.has["URAM"] > 0)
    netlists: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        # The longest text first, so that it does not end the row alone.
        order = sorted(found, key=lambda block: -len(block.text))
        running = {pool.submit(synthesise, block): block for block in order}
        try:
            for future in as_completed(running):
                netlists[running[future].name] = future.result()
                progress(f"synthesis ({len(netlists)}/{len(found)})", len(netlists) / len(found))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    known: dict[str, Timing] = {}
    return Report(config, device, tuple(_analyse(b, netlists[b.name], known) for b in found))


def _analyse(block: Block, netlist: dict[str, Any], known: dict[str, Timing]) -> BlockReport:
    found: Analysis = analyse(netlist, known)
    known[block.module.removeprefix("\\")] = found.outside
    return BlockReport(block.name, tally(netlist, inner=block.inner), found.path)
