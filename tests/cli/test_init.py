"""`moevit init`: a random model that the other commands take."""

from pathlib import Path

from moevit.model.checkpoint import load


def test_init(moevit, tmp_path: Path) -> None:
    out, again = tmp_path / "m.safetensors", tmp_path / "again.safetensors"
    for path in (out, again):
        status, _, error = moevit("init", "--image-size", "32x64", "--seed", "3", "-o", str(path))
        assert status == 0, error
    assert load(out).config.image == (32, 64)
    assert again.read_bytes() == out.read_bytes()


def test_bad_image_size(moevit, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    for size, text in (("32", "expected HxW"), ("33x64", "multiple of patch")):
        status, _, error = moevit("init", "--image-size", size, "-o", str(out))
        assert status == 2
        assert text in error
        assert not out.exists()
