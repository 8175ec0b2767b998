"""Reading the files of data sets; whatever is wrong with one is named in a ``ValueError``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from .base import RANGES

__all__ = [
    "decode_normals",
    "fit_size",
    "read_array",
    "read_image",
    "read_labels",
    "read_list",
    "read_mat",
    "read_unit_image",
    "vectors",
]

_STRETCH = 0.02  # relative difference of two sides' ratios that is rounding


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read_list(path: Path) -> list[str]:
    """Names in a text file, one a line, without empty ones."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the names of a split, one a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable: {_reason(error)}") from None
    return [line.strip() for line in lines if line.strip()]


def _opened(path: Path, mode: str | None) -> NDArray[Any]:
    values: NDArray[Any]
    try:
        with Image.open(path) as opened:
            opened.load()
            values = np.asarray(opened.convert(mode) if mode else opened)
            return values
    except Exception as error:  # what Pillow raises for damage is of many kinds
        raise ValueError(f"{path}: not a whole image: {_reason(error)}") from None


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image as RGB, ``(H, W, 3)`` uint8."""
    return np.array(_opened(path, "RGB"), np.uint8)


def read_labels(path: Path, what: str, *, above: int = 255) -> NDArray[np.int64]:
    """An image of one channel, grey or indices of a palette, ``(H, W)``, values 0 to ``above``."""
    values = _opened(path, None)
    if values.ndim != 2:
        raise ValueError(
            f"{path}: has shape {values.shape}; expected {what} in one channel, (H, W)"
        )
    values = values.astype(np.int64)
    if values.min() < 0 or values.max() > above:
        found = f"has values {values.min()} to {values.max()}"
        raise ValueError(f"{path}: {found}; expected {what} from 0 to {above}")
    return values


def read_array(path: Path, what: str, *, ndim: int) -> NDArray[Any]:
    """A NumPy file of finite numbers with ``ndim`` axes; a last axis of 1 is dropped."""
    values: NDArray[Any]
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a whole NumPy file: {_reason(error)}") from None
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{path}: is an archive; expected {what} in one array")
    if values.ndim == ndim + 1 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != ndim or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: has shape {values.shape} of {values.dtype}; expected {what} with {ndim} axes"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: has values that are not finite; expected {what}")
    return values


def read_mat(path: Path, key: str, what: str) -> Any:
    """Variable ``key`` of a MATLAB file (version 7 or older), structures as objects."""
    try:
        found: Mapping[str, Any] = scipy.io.loadmat(
            path, squeeze_me=True, struct_as_record=False, variable_names=[key]
        )
    except Exception as error:  # scipy raises whatever parsing meets
        raise ValueError(f"{path}: not a whole MATLAB file: {_reason(error)}") from None
    if key not in found:
        raise ValueError(f"{path}: has no variable {key!r}; expected {what}")
    return found[key]


def read_unit_image(path: Path) -> NDArray[np.uint8]:
    """An image that is stored as a NumPy file of floats from 0 to 1, as ``(H, W, 3)`` uint8."""
    values = read_array(path, "an image from 0 to 1", ndim=3)
    if values.shape[2] != 3 or values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"{path}: has shape {values.shape} and values {values.min()} to {values.max()}; "
            "expected (H, W, 3) from 0 to 1"
        )
    return np.asarray(np.rint(255 * values.astype(np.float64)), np.uint8)


def decode_normals(values: NDArray[Any], how: str) -> NDArray[np.float32]:
    """Components from -1 to 1 of what is stored as ``how`` says (:data:`.base.RANGES`)."""
    low, high = RANGES[how]
    return np.asarray((values.astype(np.float32) - low) * (2 / (high - low)) - 1, np.float32)


def fit_size(values: NDArray[Any], size: tuple[int, ...], path: Path) -> NDArray[Any]:
    """``values`` ``(H, W, ...)`` at ``size`` by nearest neighbour; of another shape they are
    refused."""
    if values.shape[:2] == tuple(size):
        return values
    ratio = (values.shape[0] * size[1]) / (values.shape[1] * size[0])
    if abs(ratio - 1) > _STRETCH:
        raise ValueError(
            f"{path}: is {values.shape[0]}x{values.shape[1]}; expected the image's "
            f"{size[0]}x{size[1]}, or the same shape smaller or larger"
        )
    rows = (np.arange(size[0]) + 0.5) * values.shape[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * values.shape[1] / size[1]
    fitted: NDArray[Any] = values[rows.astype(np.intp)][:, columns.astype(np.intp)]
    return fitted


def vectors(values: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """Normals ``(H, W, 3)`` to unit length; those shorter than a half are not known."""
    if values.ndim != 3 or values.shape[2] != 3:
        raise ValueError(f"{path}: has shape {values.shape}; expected normals, (H, W, 3)")
    length = np.linalg.norm(values.astype(np.float32), axis=-1, keepdims=True)
    return np.asarray(np.where(length > 0.5, values / np.maximum(length, 1e-6), 0), np.float32)
