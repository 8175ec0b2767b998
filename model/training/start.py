"""Training that starts from another model's weights: fine-tuning, or new heads on a known body."""

from __future__ import annotations

from pathlib import Path

import torch

from ..checkpoint import load
from ..m3vit import M3ViT

__all__ = ["start_from"]


def start_from(model: M3ViT, path: Path | str) -> tuple[str, ...]:
    """Copy the weights of the checkpoint ``path`` into ``model`` and return the names of those that
    it does not have: new heads, for instance, which keep their initial values.

    A tensor fits by name and shape; what a router has for each task, by the task's name. Raises
    ``ValueError`` for a file that is no checkpoint, or from which nothing fits.
    """
    source = load(path)
    theirs, ours = source.state_dict(), model.state_dict()
    tasks, known = model.config.task_names, source.config.task_names
    left = []
    with torch.no_grad():
        for name, tensor in ours.items():
            other = theirs.get(name)
            each = ".router." in name and other is not None and len(other) == len(known)
            if other is not None and each and len(tensor) == len(tasks):
                rows = [known.index(task) if task in known else -1 for task in tasks]
                fits = -1 not in rows and other.shape[1:] == tensor.shape[1:]
                other = other[rows] if fits else None
            if other is None or other.shape != tensor.shape:
                left.append(name)
            else:
                tensor.copy_(other)
    if len(left) == len(ours):
        raise ValueError(f"Checkpoint {path} has no weight that this model has")
    return tuple(left)
