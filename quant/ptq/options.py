"""How to quantise: every choice that :mod:`.quantize` leaves to the user."""

from __future__ import annotations

from dataclasses import dataclass

from ..formats import WEIGHT_BITS
from .ranges import Clip, check_clip
from .rounding import Rounding, check_rounding

__all__ = ["CLASSES", "NARROW", "Options"]

CLASSES = ("patch_embed", "q", "k", "v", "proj", "fc1", "fc2", "routers", "heads")
"""Classes of layers beside the experts; ``fc1`` and ``fc2`` are those of dense blocks, ``heads``
linear ones."""

NARROW = ("q", "k", "v", "proj", "fc1", "fc2")
"""Those that bear 4 bits (docs/accuracy.md) and have all but a percent of these layers' weights."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to quantise.

    ``clip``: range of activations and weight rows. ``percentile``: for the method of that name.
    ``migrate``: exponents to try for per-channel activation scales, 0 one scale for all channels, 1
    each channel its own range. ``headroom``: of the residual stream and the heads' outputs, over
    the calibrated maximum. ``expert_bits``: of the experts' weights, 8 or 4. ``narrow``: classes of
    other layers (:data:`CLASSES`) whose weights have 4 bits as well; the rest have 8.
    ``rounding``: of weights. ``bias_correction``: keep the mean of each layer's outputs.
    ``balance``: channels that matter little to the consumers get wider ranges, instead of all
    channels ranges up to the widest one's. ``margin``: of activations' ranges, over what
    calibration gave. ``compensate``: layers make up for what rounding did to their inputs; a change
    of the weights costs as much as on inputs of that share of the real ones' mean square, and 0
    changes none.
    ``finetune``: steps of fine-tuning with fake quantisation from there
    (``moevit.model.training.qat``).
    """

    clip: Clip = "mse"
    percentile: float = 99.99
    migrate: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0)
    headroom: float = 1.5
    expert_bits: int = 8
    narrow: tuple[str, ...] = ()
    rounding: Rounding = "auto"
    bias_correction: bool = False
    finetune: int = 0
    balance: bool = False
    margin: float = 1.0
    compensate: float = 0.0

    def __post_init__(self) -> None:
        check_clip(self.clip)
        check_rounding(self.rounding)
        if not 50 < self.percentile <= 100:
            raise ValueError(f"Percentile must be above 50, at most 100, not {self.percentile!r}")
        if not self.migrate or not all(0 <= a <= 1 for a in self.migrate):
            raise ValueError(f"Migrate must be exponents from 0 to 1, not {self.migrate!r}")
        if not self.headroom >= 1:
            raise ValueError(f"Headroom must be at least 1, not {self.headroom!r}")
        if not self.margin >= 1:
            raise ValueError(f"Margin must be at least 1, not {self.margin!r}")
        if not self.compensate >= 0:
            raise ValueError(f"Compensate must be at least 0, not {self.compensate!r}")
        if self.finetune < 0:
            raise ValueError(f"Finetune must be at least 0 steps, not {self.finetune!r}")
        if self.expert_bits not in WEIGHT_BITS:
            raise ValueError(f"Expert bits must be 8 or 4, not {self.expert_bits!r}")
        if unknown := [name for name in self.narrow if name not in CLASSES]:
            raise ValueError(f"Narrow must be of {', '.join(CLASSES)}, not {unknown[0]!r}")

    def bits(self, layer: str) -> int:
        """Of the weights of a layer by its name, or of a class."""
        if ".experts." in layer:
            return self.expert_bits
        parts = layer.split(".")
        kind = "routers" if "routers" in parts else parts[-1]
        if parts[0] == "heads" and len(parts) == 2:
            kind = "heads"
        return 4 if kind in self.narrow else 8
