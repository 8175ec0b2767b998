"""Checkpoints: safetensors files that carry the model's configuration in their metadata.

Metadata keys: ``moevit`` (format version), ``config`` (:meth:`ModelConfig.to_json`), ``training``
(free JSON: command, seed, steps). Files are written beside their place and moved into it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .config import ModelConfig, preset
from .m3vit import M3ViT

__all__ = [
    "load",
    "load_shipped",
    "read_training",
    "remove_partial",
    "shipped_path",
    "store",
    "to_bytes",
    "write_atomically",
]

_FORMAT = "1"


def remove_partial(path: Path) -> None:
    """Remove what :func:`write_atomically` left beside ``path`` when its process was killed."""
    for partial in path.parent.glob(f".{path.name}-*"):
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by a file with ``data``; an interruption leaves the old file whole.

    Also the loss of power: the data are on the disk before the name is theirs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def to_bytes(model: M3ViT, training: Mapping[str, Any] | None = None) -> bytes:
    """A model with its configuration as a file; ``training`` is kept as JSON beside it."""
    tensors = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = {
        "moevit": _FORMAT,
        "config": model.config.to_json(),
        "training": json.dumps(dict(training or {})),
    }
    return _in_order(save(tensors, metadata))


def store(model: M3ViT, path: Path, training: Mapping[str, Any] | None = None) -> None:
    """Write :func:`to_bytes` to a file, whole or not at all."""
    write_atomically(Path(path), to_bytes(model, training))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted: safetensors writes it in an order that varies
    from run to run, and equal models should be equal files."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"Checkpoint {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"Checkpoint {path} is not a whole safetensors file: {reason}") from None
    for key in ("moevit", "config"):
        if key not in metadata:
            raise ValueError(f"Checkpoint {path} has no {key!r} metadata: not a moevit checkpoint")
    if metadata["moevit"] != _FORMAT:
        raise ValueError(
            f"Checkpoint {path} has format {metadata['moevit']!r}, this version reads {_FORMAT!r}"
        )
    return metadata, tensors


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unexpected" for name in found if name not in expected]
    for name, tensor in expected.items():
        if name in found and found[name].shape != tensor.shape:
            problems.append(f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}")
        elif name in found and not found[name].is_floating_point():
            problems.append(f"{name} is {found[name].dtype}, expected floating point")
        elif name in found and not torch.isfinite(found[name]).all():
            problems.append(f"{name} has values that are not finite")
    return problems


def load(path: Path | str) -> M3ViT:
    """Read a checkpoint into a new model in eval mode.

    Raises ``ValueError``, one line naming the file and what is wrong with it: absent, truncated or
    of another format, a bad configuration, or tensors missing, unexpected, misshapen, not
    floating point or not finite.
    """
    path = Path(path)
    metadata, tensors = _read(path)
    try:
        config = ModelConfig.from_json(metadata["config"])
    except ValueError as error:
        raise ValueError(f"Checkpoint {path}: {error}") from None
    model = M3ViT(config)
    problems = _differences(model.state_dict(), tensors)
    if problems:
        shown = "; ".join(problems[:6]) + ("; ..." if len(problems) > 6 else "")
        raise ValueError(f"Checkpoint {path} does not fit its configuration: {shown}")
    model.load_state_dict(tensors)
    return model.eval()


def read_training(path: Path | str) -> dict[str, Any]:
    """What :func:`store` was told about the training."""
    metadata, _ = _read(Path(path))
    training: dict[str, Any] = json.loads(metadata.get("training", "{}"))
    return training


def shipped_path(size: str = "nano") -> Path:
    """Where the package's own checkpoint of a size is; ``ValueError`` where none is shipped."""
    preset(size)
    path = Path(str(resources.files("moevit.model") / "checkpoints" / f"{size}.safetensors"))
    if not path.is_file():
        raise ValueError(f"Size {size!r} has no shipped checkpoint; train one or name a file")
    return path


def load_shipped(size: str = "nano") -> M3ViT:
    """The trained model that the package ships."""
    return load(shipped_path(size))
