"""Images that users give: photos in, uint8 RGB of the model's size out."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from moevit.model.config import ModelConfig
from moevit.model.pictures import FORMATS, read_picture
from moevit.model.preprocessing import prepare
from moevit.quant.errors import UserError
from moevit.quant.typing import Bytes

from .files import readable

__all__ = ["load_image"]


def load_image(path: Path, *, height: int, width: int, config: ModelConfig | None = None) -> Bytes:
    """The image in `path` as uint8 of shape (height, width, 3), RGB.

    The image is turned as its EXIF orientation says, scaled to cover the wanted size, and cropped
    to it around its centre, or as `config` says, the model's. Greyscale, palette, CMYK and 16-bit
    images are converted; transparent parts become white.

    Raises
    ------
    UserError
        Naming the file, if it is missing, or as :func:`moevit.model.pictures.read_picture` says.
    """
    readable(path, f"a {FORMATS} image")
    try:
        image = read_picture(path)
    except ValueError as error:
        raise UserError(str(error)) from None
    if config is not None:
        return prepare(image, config)
    fitted = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted, dtype=np.uint8).copy()
