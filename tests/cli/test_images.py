"""Images of users: every kind that is right, and every way to be wrong."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moevit.errors import UserError
from moevit.images import load_image

H, W = 16, 32


def gradient(height: int = H, width: int = W) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, columns * 255 // width, 0 * rows + 90], -1).astype("u1")


def save(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_an_image_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    got = load_image(save(tmp_path / "a.png", gradient()), height=H, width=W)
    assert got.dtype == np.uint8
    assert got.flags.writeable
    np.testing.assert_array_equal(got, gradient())


def test_jpeg(tmp_path: Path) -> None:
    got = load_image(save(tmp_path / "a.jpg", gradient(), quality=95), height=H, width=W)
    assert np.abs(got.astype(int) - gradient()).mean() < 4


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40))
def test_any_size_fits(tmp_path_factory, height: int, width: int, h: int, w: int) -> None:
    path = tmp_path_factory.mktemp("fit") / "a.png"
    got = load_image(save(path, gradient(height, width)), height=h, width=w)
    assert got.shape == (h, w, 3)


def test_the_crop_is_central_and_keeps_proportions(tmp_path: Path) -> None:
    wide = np.zeros((H, 3 * W, 3), "u1")
    wide[:, W : 2 * W] = 200
    got = load_image(save(tmp_path / "a.png", wide), height=H, width=W)
    assert (got == 200).all()


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to view
    upright = gradient()
    stored = np.rot90(upright)
    path = save(tmp_path / "a.png", stored, exif=exif)
    np.testing.assert_array_equal(load_image(path, height=H, width=W), upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_modes(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    if mode == "I;16":
        image = Image.fromarray(np.full((H, W), 128 << 8, "u2"))
    else:
        image = Image.new("RGB", (W, H), (128, 128, 128)).convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    got = load_image(tmp_path / f"a.{suffix}", height=H, width=W)
    assert got.shape == (H, W, 3)
    assert abs(int(got.mean()) - 128) <= 3


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((H, W, 4), "u1"))
    assert (load_image(path, height=H, width=W) == 255).all()


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.95])
def test_cut_short(tmp_path: Path, kind: str, share: float) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype="u1")
    Image.fromarray(noise).save(buffer, kind)
    data = buffer.getvalue()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=rf"cut\.{kind}: (damaged or cut short|not a PNG or JPEG)"):
        load_image(path, height=H, width=W)


@given(st.data())
def test_damage_is_an_error_or_an_image(tmp_path_factory, data) -> None:
    buffer = io.BytesIO()
    kind = data.draw(st.sampled_from(["PNG", "JPEG"]))
    Image.fromarray(gradient()).save(buffer, kind)
    body = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damage") / "a"
    path.write_bytes(body)
    try:
        assert load_image(path, height=H, width=W).shape == (H, W, 3)
    except UserError as error:
        assert str(path) in str(error)


def test_other_files(tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("no image")
    with pytest.raises(UserError, match=r"a\.png: not a PNG or JPEG image"):
        load_image(text, height=H, width=W)
    gif = save(tmp_path / "b.gif", gradient())
    with pytest.raises(UserError, match=r"b\.gif: not a PNG or JPEG image"):
        load_image(gif, height=H, width=W)
    with pytest.raises(UserError, match="no such file; expected a PNG or JPEG image"):
        load_image(tmp_path / "none.png", height=H, width=W)
    with pytest.raises(UserError, match="is a folder"):
        load_image(tmp_path, height=H, width=W)


def test_too_large(tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "a.png", gradient())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="more than 0 million pixels"):
        load_image(path, height=H, width=W)
