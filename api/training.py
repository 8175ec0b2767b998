"""Training, as `moevit train` does it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from moevit.model.config import ModelConfig
from moevit.model.config import preset as size_preset

from .errors import documented
from .files import writable

__all__ = ["train"]


def train(
    output: str | os.PathLike[str],
    model: ModelConfig | str = "nano",
    *,
    show: str = "none",
    **options: Any,
) -> dict[str, dict[str, float]]:
    """Trains a model and writes its checkpoint to `output`; returns the last validation scores.

    Parameters
    ----------
    model:
        A configuration, or the name of a size.
    show:
        What is printed meanwhile: "none", "people" or "json" lines.
    options:
        Fields of :class:`moevit.model.training.settings.TrainConfig`, which are called as the
        options of the command: `data`, `root`, `steps`, `batch`, `learning_rate`, `seed` ...

    Raises
    ------
    UserError
        For options, data or a saved state that cannot be used.
    moevit.model.training.train.Stopped
        Which is a `KeyboardInterrupt`, after Ctrl-C, everything being saved for `resume=True`.
    """
    from moevit.model.training.settings import TrainConfig
    from moevit.model.training.train import train as run

    target = Path(output)
    writable(target)
    with documented():
        config = size_preset(model) if isinstance(model, str) else model
        return run(TrainConfig(out=target, model=config, **options), show=show)
