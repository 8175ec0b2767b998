"""Images that users give: PNG or JPEG in, uint8 RGB of the model's size out."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from moevit.model.config import ModelConfig
from moevit.model.preprocessing import prepare
from moevit.quant.errors import UserError
from moevit.quant.typing import Bytes

from .files import readable

__all__ = ["load_image"]

_FORMATS = ("PNG", "JPEG")
_BACKGROUND = (255, 255, 255)

# What Pillow raises, by experience, for files that are cut short or damaged.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def load_image(path: Path, *, height: int, width: int, config: ModelConfig | None = None) -> Bytes:
    """The image in `path` as uint8 of shape (height, width, 3), RGB.

    The image is turned as its EXIF orientation says, scaled to cover the wanted size, and cropped
    to it around its centre, or as `config` says, the model's. Greyscale, palette, CMYK and 16-bit
    images are converted; transparent parts become white.

    Raises
    ------
    UserError
        Naming the file, if it is missing, no PNG or JPEG, damaged, cut short, or larger than
        Pillow's limit.
    """
    readable(path, "a PNG or JPEG image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as opened:
                opened.load()
                image = _rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise UserError(f"{path}: not a PNG or JPEG image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise UserError(f"{path}: more than {limit} million pixels") from None
    except _DAMAGE as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: damaged or cut short: {detail}") from None
    if config is not None:
        return prepare(image, config)
    fitted = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted, dtype=np.uint8).copy()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip
        values = np.asarray(image).astype(np.uint32) >> 8
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*_BACKGROUND, 255))
        image = Image.alpha_composite(ground, layer)
    return image.convert("RGB")
