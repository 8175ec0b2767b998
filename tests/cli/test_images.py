"""Images of users: every kind that is right, and every way to be wrong."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moevit.errors import UserError
from moevit.images import load_image
from moevit.inputs import image_files, output_names
from moevit.quant.notes import Note

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
    with pytest.raises(UserError, match=rf"cut\.{kind}: (damaged or cut short|not a PNG, JPEG)"):
        load_image(path, height=H, width=W)


@pytest.mark.filterwarnings("ignore::moevit.quant.notes.Note")
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
    with pytest.raises(UserError, match=r"a\.png: not a PNG, JPEG, WebP, BMP, TIFF or HEIC image"):
        load_image(text, height=H, width=W)
    gif = save(tmp_path / "b.gif", gradient())
    with pytest.raises(UserError, match=r"b\.gif: not a PNG, JPEG"):
        load_image(gif, height=H, width=W)
    with pytest.raises(UserError, match="no such file; expected a PNG, JPEG, WebP"):
        load_image(tmp_path / "none.png", height=H, width=W)
    with pytest.raises(UserError, match="is a folder"):
        load_image(tmp_path, height=H, width=W)


def test_too_large(tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "a.png", gradient())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="more than 0 million pixels"):
        load_image(path, height=H, width=W)


@pytest.mark.parametrize("kind", ["webp", "bmp", "tiff"])
def test_other_formats(tmp_path: Path, kind: str) -> None:
    options = {"lossless": True} if kind == "webp" else {}
    path = save(tmp_path / f"a.{kind}", gradient(), **options)
    np.testing.assert_array_equal(load_image(path, height=H, width=W), gradient())


def test_heic(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.heic"
    try:
        from pillow_heif import from_bytes
    except ImportError:
        path.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 200)
    else:
        from_bytes("RGB", (W, H), gradient().tobytes()).save(path, quality=100)
        got = load_image(path, height=H, width=W)
        assert np.abs(got.astype(int) - gradient()).mean() < 4
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"a\.heic: is a HEIC image; `pip install pillow-heif`"):
        load_image(path, height=H, width=W)


def exif(*entries: bytes) -> bytes:
    """An EXIF block, big endian, of 12-byte directory entries."""
    head = b"MM\x00*\x00\x00\x00\x08" + struct.pack(">H", len(entries))
    return b"Exif\0\0" + head + b"".join(entries) + bytes(4)


TURN = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)


@pytest.mark.parametrize(
    "entry",
    [
        struct.pack(">HHI4s", 0x011A, 2, 4, b"72\0\0"),  # XResolution as text
        struct.pack(">HHI4s", 0x011A, 7, 4, b"\1\2\3\4"),  # as bytes of no type
        struct.pack(">HHII", 0x011A, 5, 1 << 30, 8),  # more of them than the file has
    ],
)
@pytest.mark.filterwarnings("error::moevit.quant.notes.Note")
def test_a_wrong_exif_type_does_not_hide_the_orientation(tmp_path: Path, entry: bytes) -> None:
    stored = np.rot90(gradient())
    path = save(tmp_path / "a.png", stored, exif=exif(TURN, entry))
    np.testing.assert_array_equal(load_image(path, height=H, width=W), gradient())


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        (struct.pack(">HHI4s", 0x0112, 2, 2, b"6\0\0\0"), "'6'"),
        (struct.pack(">HHIHH", 0x0112, 3, 1, 99, 0), "99"),
    ],
)
def test_an_orientation_that_is_none_is_told(tmp_path: Path, entry: bytes, shown: str) -> None:
    path = save(tmp_path / "a.png", gradient(), exif=exif(entry))
    with pytest.warns(Note, match=rf"a\.png: its EXIF orientation is {shown}, not 1 to 8"):
        got = load_image(path, height=H, width=W)
    np.testing.assert_array_equal(got, gradient())


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes(tmp_path: Path, progressive: bool) -> None:
    path = save(tmp_path / "a.jpg", gradient(), quality=95, progressive=progressive)
    whole = load_image(path, height=H, width=W)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.warns(Note, match=r"a\.jpg: its last bytes are missing, 0\.00% of its pixels"):
        np.testing.assert_array_equal(load_image(path, height=H, width=W), whole)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_much_is_refused(tmp_path: Path, progressive: bool) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype="u1")
    path = save(tmp_path / "a.jpg", noise, quality=95, progressive=progressive)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 97 // 100])
    with pytest.raises(UserError, match=r"a\.jpg: damaged or cut short"):
        load_image(path, height=H, width=W)


def test_a_damaged_chunk_is_no_black_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", gradient())
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png: damaged or cut short"):
        load_image(path, height=H, width=W)


def test_what_is_no_brightness(tmp_path: Path) -> None:
    for name, values in {"f": np.ones((4, 4), "f4"), "i": np.full((4, 4), 70000, "i4")}.items():
        path = save(tmp_path / f"{name}.tiff", values)
        with pytest.raises(UserError, match=rf"{name}\.tiff: has .*; expected .*8 or 16 bits"):
            load_image(path, height=H, width=W)


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"a\.png: is a pointer of Git LFS"):
        load_image(tmp_path / "a.png", height=H, width=W)


# names -------------------------------------------------------------------------------------------
def test_folders_and_patterns(tmp_path: Path) -> None:
    names = ["b.PNG", "a.webp", "._a.webp", ".hidden.png", "notes.txt", "[1].png", "c1.png"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()

    def found(*words: str) -> list[str]:
        return [path.name for path in image_files(tmp_path / word for word in words)]

    assert found("") == ["[1].png", "a.webp", "b.PNG", "c1.png"]
    assert found("*.png") == ["[1].png", "c1.png"]
    assert found("[1].png") == ["[1].png"]  # a file, not the pattern that it might be
    assert found("c[1].png", "a.webp") == ["c1.png", "a.webp"]
    assert found("._a.webp") == ["._a.webp"]  # asked for by its name
    with pytest.raises(UserError, match=r"\*\.tiff: matches no image"):
        found("*.tiff")
    with pytest.raises(UserError, match=r"sub\.png: has no images"):
        found("sub.png")
    with pytest.raises(UserError, match=r"d\.png: no such file; expected a PNG, JPEG.* image"):
        found("d.png")


NAMES = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])


@given(st.lists(st.text(NAMES, min_size=1, max_size=240)))
def test_output_names_are_names_and_unique(names: list[str]) -> None:
    made = output_names([f"folder/{name}.png" for name in names], room=20)
    assert len({name.casefold() for name in made}) == len(names)
    for name in made:
        assert len(f"{name}{20 * 'x'}".encode("utf-8", "surrogateescape")) <= 255
        assert "/" not in name and not any(c.isspace() for c in name)


def test_output_names_are_the_stems() -> None:
    given = ["a/x.png", "b/x.jpg", "x-2.png", "X.png", "scene 0", "写真 $[b].png"]
    assert output_names(given) == ["x", "x-2", "x-2-2", "X-3", "scene-0", "写真-$[b]"]
