"""Resources and logic depth of a configuration on its board, by Yosys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

from moevit.hw.config import AcceleratorConfig

from .blocks import Block, blocks, is_check
from .cells import Timing
from .depth import Analysis, Path, analyse
from .fanout import MOST, Net, PortLoads, widest
from .parts import RESOURCES, Part, part, primitives
from .synthesis import synthesise, tally

__all__ = ["BlockReport", "Report", "report"]

_NETS = 32
"""Of each block, the nets that are kept."""


@dataclass(frozen=True)
class BlockReport:
    """``uses``: resources without those of black boxes; ``path``: the longest one, through these
    too; ``nets``: those with most loads; ``clock_mhz``: target of the block's fastest clock."""

    name: str
    uses: dict[str, float]
    path: Path | None
    nets: tuple[Net, ...]
    clock_mhz: float

    @property
    def slack(self) -> float | None:
        """ns that the longest path leaves at the block's clock."""
        return None if self.path is None else self.path.slack(self.clock_mhz)

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
        return {
            **_numbers(self.uses),
            "clock_mhz": self.clock_mhz,
            "path": path,
            "nets": [asdict(net) for net in self.nets],
        }


@dataclass(frozen=True)
class Report:
    """What a configuration takes of its part; all figures are Yosys's, before place and route."""

    config: AcceleratorConfig
    part: Part
    primitives: str
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
        return block.slack is not None and block.slack < 0

    @property
    def wide(self) -> list[tuple[str, Net]]:
        """Nets that drive too much, with their blocks, most first; resets aside."""
        found = [(b.name, n) for b in self.blocks for n in b.nets if n.loads > MOST and not n.reset]
        return sorted(found, key=lambda item: -item[1].loads)

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
            "primitives": self.primitives,
            "nets_too_wide": [f"{block}: {net.name}" for block, net in self.wide],
            "paths_too_long": [block.name for block in self.blocks if self.too_long(block)],
            "blocks": {block.name: block.to_dict() for block in self.blocks},
        }


def _numbers(amounts: dict[str, float]) -> dict[str, float]:
    return {name: int(value) if value == int(value) else value for name, value in amounts.items()}


def report(
    config: AcceleratorConfig,
    *,
    on: Part | None = None,
    made_of: str | None = None,
    jobs: int = 2,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
) -> Report:
    """Synthesise every block of ``config``, ``jobs`` at a time.

    ``on``: the part, the preset's own if not given; ``made_of``: its multipliers, a name of
    ``boards.PRIMITIVES``, likewise.

    Raises
    ------
    SynthesisError
        If Yosys is missing or fails.
    """
    progress("generating", 0.0)
    device = on or part(config.name)
    slices = made_of or primitives(config.name)
    found = blocks(config, slices, family=device.family, ultra=device.has["URAM"] > 0)
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
    loads: dict[str, PortLoads] = {}
    reports = [_analyse(b, netlists[b.name], known, loads, config.clock_mhz) for b in found]
    checks = [r for r in reports if is_check(r.name)]
    others = [r for r in reports if not is_check(r.name)]
    together = [_together("CRCs", checks)] if checks else []
    return Report(config, device, slices, (*together, *others))


def _together(name: str, parts: Sequence[BlockReport]) -> BlockReport:
    """Many small blocks of one kind as one."""
    paths = [part.path for part in parts if part.path is not None]
    nets = sorted((net for part in parts for net in part.nets), key=lambda net: -net.loads)
    return BlockReport(
        name,
        {r: sum(part.uses[r] for part in parts) for r in RESOURCES},
        max(paths, key=lambda path: path.ns, default=None),
        tuple(nets[:_NETS]),
        max(part.clock_mhz for part in parts),
    )


def _analyse(
    block: Block,
    netlist: dict[str, Any],
    known: dict[str, Timing],
    loads: dict[str, PortLoads],
    clock_mhz: float,
) -> BlockReport:
    """``known``, ``loads``: what the blocks before show at their ports; this one's is added."""
    module = block.module.removeprefix("\\")
    found: Analysis = analyse(netlist, known)
    known[module] = found.outside
    nets, loads[module] = widest(netlist, loads, _NETS)
    uses = tally(netlist, inner=block.inner)
    return BlockReport(block.name, uses, found.path, tuple(nets), clock_mhz * block.clock_times)
