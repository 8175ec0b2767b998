"""Published accelerators of mixture-of-experts vision transformers, to stand beside our figures."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BOARD_WATTS", "PEERS", "PEER_NOTE", "Peer"]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What was published of one accelerator; None where nothing was.

    ``ms``, ``watts``, ``millijoules`` a frame and ``fps_per_dsp_mhz`` are printed in its paper or
    its successors' tables.
    """

    name: str
    board: str
    mhz: int
    bits: str
    dsp: int | None
    ms: float
    watts: float
    millijoules: float
    fps_per_dsp_mhz: float | None

    @property
    def fps(self) -> float:
        """Frames a second, computed from the printed milliseconds."""
        return 1e3 / self.ms


PEERS = (
    Peer(
        name="Edge-MoE",
        board="ZCU102",
        mhz=300,
        bits="16/32",
        dsp=None,
        ms=34.64,
        watts=14.54,
        millijoules=504.0,
        fps_per_dsp_mhz=None,
    ),
    Peer(
        name="UbiMoE",
        board="ZCU102",
        mhz=300,
        bits="16/32",
        dsp=1850,
        ms=25.76,
        watts=11.50,
        millijoules=296.0,
        fps_per_dsp_mhz=7.0e-5,
    ),
    Peer(
        name="CoQMoE",
        board="ZCU102",
        mhz=300,
        bits="8/8, attention 4",
        dsp=1754,
        ms=6.47,
        watts=9.83,
        millijoules=63.6,
        fps_per_dsp_mhz=2.94e-4,
    ),
)
"""M3ViT-Tiny, batch 1, measured on boards by their authors."""

PEER_NOTE = (
    "Peers: ms, W, mJ, DSP and FPS/(DSP x MHz) as printed in their papers; fps computed from the "
    "printed ms. Tokens: Edge-MoE's released code has 129 (read); the operation counts in the "
    "papers imply 197 (computed), so both of our token counts stand beside them."
)

BOARD_WATTS = (min(p.watts for p in PEERS), max(p.watts for p in PEERS))
"""What the peers' boards draw: the assumption behind every estimate of energy here."""
