"""Bundles: written whole or not at all, read with every file checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.boards import make_case

from moevit.boards.contents import add_program
from moevit.boards.driver.bundle import MANIFEST, Bundle, Manifest, Timing, Writer
from moevit.boards.driver.errors import BundleError

ABOUT = Manifest(
    board="zcu104",
    part="xczu7ev",
    config_name="tiny",
    config_hash="0123456789abcdef",
    clock_mhz=299.997,
    register_base=0xA000_0000,
    register_bytes=0x1000,
    timing=Timing(met=False, wns_ns=-0.1, allowed=True),
    notes=("not closed",),
)
IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
OUTPUT = np.arange(-6, 6, dtype=np.int16).reshape(3, 4)


def make(target: Path) -> None:
    with Writer(target, ABOUT) as bundle:
        bundle.add("moevit.bit", b"bits", role="bitstream")
        bundle.add("programs/p.moevit", b"program", role="program")
        bundle.add_case(program="programs/p.moevit", name="x", image=IMAGE, outputs={"t": OUTPUT})


def test_round_trip(tmp_path: Path) -> None:
    for _ in range(2):  # the second one replaces the first
        make(tmp_path / "b")
    bundle = Bundle.read(tmp_path / "b")
    assert bundle.manifest == ABOUT
    assert bundle.one("bitstream").read_bytes() == b"bits"
    (case,) = bundle.cases
    assert (case.program, case.task) == ("programs/p.moevit", "t")
    np.testing.assert_array_equal(np.load(bundle.root / case.image), IMAGE)
    np.testing.assert_array_equal(np.load(bundle.root / case.output), OUTPUT)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    with pytest.raises(BundleError, match="the bundle has no overlay"):
        bundle.one("overlay")


def test_nothing_is_left_of_a_bundle_that_fails(tmp_path: Path) -> None:
    make(tmp_path / "b")
    before = (tmp_path / "b" / MANIFEST).read_text()
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), Writer(tmp_path / "b", ABOUT) as bundle:
            bundle.add("moevit.bit", b"other", role="bitstream")
            raise error
    assert (tmp_path / "b" / MANIFEST).read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda b: b.add("x", b"", role="poem"), "unknown role 'poem'; expected one of bitstream"),
        (lambda b: b.add("../x", b"", role="report"), "is no path within a bundle"),
        (lambda b: b.add("/x", b"", role="report"), "is no path within a bundle"),
        (lambda b: b.add("moevit.bit", b"", role="report"), "is in the bundle already"),
        (lambda b: b.add(MANIFEST, b"", role="report"), "is in the bundle already"),
        (lambda b: b.add("y.bit", b"", role="bitstream"), "the bundle has a bitstream already"),
        (
            lambda b: b.add_case(program="moevit.bit", name="x", image=IMAGE, outputs={}),
            "moevit.bit: is no program of the bundle",
        ),
    ],
)
def test_what_cannot_be_added(tmp_path: Path, action: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message), Writer(tmp_path / "b", ABOUT) as bundle:
        bundle.add("moevit.bit", b"bits", role="bitstream")
        action(bundle)
    assert not list(tmp_path.iterdir())


def test_only_bundles_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    make(tmp_path / "b")  # an empty folder is
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("")
    with pytest.raises(BundleError, match="c: exists and is no bundle"):
        make(tmp_path / "c")
    (tmp_path / "d").write_text("")
    with pytest.raises(BundleError, match="d: exists and is no bundle"):
        make(tmp_path / "d")


def damage(**changes: Any) -> Any:
    def change(root: Path) -> None:
        about = json.loads((root / MANIFEST).read_text())
        for key, value in changes.items():
            if value is None:
                del about[key]
            else:
                about[key] = value
        (root / MANIFEST).write_text(json.dumps(about))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / MANIFEST).unlink(), "bundle.json: No such file or directory; expected a b"),
        (lambda r: (r / MANIFEST).write_text("{"), "bundle.json: is not JSON"),
        (lambda r: (r / MANIFEST).write_text("[]"), "format is None, expected 'moevit-bundle-1'"),
        (damage(format="moevit-bundle-9"), "format is 'moevit-bundle-9', expected"),
        (damage(board=None), "field 'board' is missing or wrong"),
        (damage(files=[{"path": "x"}]), "is missing or wrong"),
        (damage(files=[]), "case t names programs/p.moevit, which is no program"),
        (lambda r: (r / "moevit.bit").unlink(), "moevit.bit: No such file or dir.*; the bundle"),
        (lambda r: (r / "moevit.bit").write_bytes(b"bit"), "moevit.bit: has 3 bytes, expected 4"),
        (lambda r: (r / "moevit.bit").write_bytes(b"bitz"), "moevit.bit: is damaged: its SHA-256"),
    ],
)
def test_damaged_bundles(tmp_path: Path, change: Any, message: str) -> None:
    make(tmp_path / "b")
    change(tmp_path / "b")
    with pytest.raises(BundleError, match=message):
        Bundle.read(tmp_path / "b")


def test_a_program_and_its_cases(tmp_path: Path) -> None:
    """The interpreter's integers, which are the golden model's."""
    case = make_case()
    with Writer(tmp_path / "b", ABOUT) as bundle:
        add_program(bundle, "p", case.compiled.to_bytes(), list(case.images))
        add_program(bundle, "q", case.compiled.to_bytes())
    bundle = Bundle.read(tmp_path / "b")
    assert [path.name for path in bundle.all("program")] == ["p.moevit", "q.moevit"]
    assert [path.name for path in bundle.all("c")] == ["p.mvp", "q.mvp"]
    assert len(bundle.cases) == 3 * len(case.images) + 3
    for found in bundle.cases[:9]:
        image = int(Path(found.image).stem.rpartition("-")[2])
        wanted = case.golden[image][found.task]
        np.testing.assert_array_equal(np.load(bundle.root / found.output), wanted)
