"""Photos as people have them: decoded, turned upright, in RGB."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from moevit.quant.notes import note

__all__ = ["FORMATS", "SUFFIXES", "read_picture"]

FORMATS = "PNG, JPEG, WebP, BMP, TIFF or HEIC"
"""The formats that are read, for messages; HEIC where pillow-heif is installed."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif")
"""Endings, in lower case, of the files that count as pictures where a folder is given."""

_READERS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_BACKGROUND = (255, 255, 255)
_ORIENTATION = 0x0112
# EXIF 2.32, tag 0x0112: what brings a picture upright that is stored so.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LOST = 0.01  # of the pixels of a JPEG that may be missing at its end
_FILLER = 1 << 16  # bytes

# What Pillow raises, by experience, for files that are cut short or damaged.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
)


def read_picture(path: Path) -> Image.Image:
    """The picture in `path` as RGB, turned as its EXIF orientation says.

    Greyscale, palette, CMYK and 16-bit pictures are converted; transparent parts become white; of
    several pictures it is the first. A JPEG that lacks no more than the hundredth of its pixels is
    read with a note, and so is one whose orientation cannot be read.

    Raises
    ------
    ValueError
        Naming the file, if it is in none of `FORMATS`, damaged, cut short, of numbers that are no
        brightness, or larger than Pillow's limit.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: is a pointer of Git LFS; `git lfs pull` fetches the image")
    readers = (*_READERS, *_heif(path, head))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that nobody asks for
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image, orientation, remarks = _decoded(path, readers)
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a {FORMATS} image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise ValueError(f"{path}: more than {limit} million pixels") from None
    except _DAMAGE as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: damaged or cut short: {detail}") from None
    for remark in remarks:
        note(f"{path}: {remark}")
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    elif orientation not in (None, 1):
        shown = repr(orientation)[:40]
        note(f"{path}: its EXIF orientation is {shown}, not 1 to 8; the image is not turned")
    return _rgb(image, path)


def _decoded(path: Path, readers: tuple[str, ...]) -> tuple[Image.Image, object, list[str]]:
    """The picture as it is stored, its orientation (None if not said), and what is to be noted."""
    remarks = []
    with Image.open(path, formats=readers) as opened:
        frames = getattr(opened, "n_frames", 1)
        if frames > 1 and opened.format != "MPO":  # a photo with previews or depth
            remarks.append(f"has {frames} pictures; the first is used")
        try:
            opened.load()
            image = opened.copy()
        except OSError:
            whole = _without_end(path) if opened.format in ("JPEG", "MPO") else None
            if whole is None:
                raise
            image, lost = whole
            remarks.append(f"its last bytes are missing, {lost:.2%} of its pixels; read as it is")
        return image, _orientation(opened), remarks


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation, whatever its type; None where there is none."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception as error:  # what Pillow raises for metadata is of any kind
        return f"unreadable ({type(error).__name__})"


def _without_end(path: Path) -> tuple[Image.Image, float] | None:
    """A JPEG without its last bytes and the share of its pixels that is lost; None if too many.

    The decoder makes up what follows the last byte. So what differs with what is appended was
    missing.
    """
    data = path.read_bytes()
    ends = (b"\xff\xd9", b"\x55" * _FILLER + b"\xff\xd9")
    try:
        images = [Image.open(io.BytesIO(data + end), formats=("JPEG",)) for end in ends]
        first, second = (np.asarray(image) for image in images)
    except _DAMAGE:
        return None
    differs = (first != second).reshape(*first.shape[:2], -1).any(axis=-1)
    lost = float(differs.mean())
    return None if lost > _LOST else (images[0], lost)


def _heif(path: Path, head: bytes) -> tuple[str, ...]:
    """The reader of HEIC files, if the file is one."""
    if head[4:8] != b"ftyp" or head[8:12] not in (b"heic", b"heix", b"heim", b"heis", b"mif1"):
        return ()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ValueError(
            f"{path}: is a HEIC image; `pip install pillow-heif` to read it, or give a JPEG"
        ) from None
    register_heif_opener()
    return ("HEIF",)


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise ValueError(f"{path}: has floating-point values; expected integers of 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            found = f"{values.min()} to {values.max()}"
            raise ValueError(f"{path}: has values {found}; expected 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*_BACKGROUND, 255))
        image = Image.alpha_composite(ground, layer)
    return image.convert("RGB")
