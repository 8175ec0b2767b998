"""Kinds of dense task, each one object: how it is decoded, trained, scored and shown.

To add a kind is to write its module, enter it here, and have ``scenes/`` or a data set give its
truth.
"""

from __future__ import annotations

from .base import UNKNOWN, Colours, Picture, Scale, TaskKind
from .binary import EDGES, SALIENCY
from .depth import DEPTH
from .labels import HUMAN_PARTS, SEGMENTATION
from .normals import NORMALS
from .orientation import ORIENTATION

__all__ = ["TASK_KINDS", "UNKNOWN", "Colours", "Picture", "Scale", "TaskKind", "task_kind"]

TASK_KINDS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (SEGMENTATION, DEPTH, NORMALS, EDGES, SALIENCY, HUMAN_PARTS, ORIENTATION)
}
"""All of them by name."""


def task_kind(name: str) -> TaskKind:
    """A kind by name; ``ValueError`` naming the known ones otherwise."""
    if name not in TASK_KINDS:
        raise ValueError(f"Task kind must be one of {', '.join(TASK_KINDS)}, not {name!r}")
    return TASK_KINDS[name]
