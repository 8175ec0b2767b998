"""`moevit eval --dial`: the points, the RTL's cycles beside the golden model's scores, the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from moevit.bench.dial import FRAMES, chosen_points, label
from moevit.bench.dial_report import BEGIN, END
from moevit.cli.commands import eval as command
from moevit.errors import UserError
from moevit.quant.dial import AS_COMPILED, Dial


def test_the_points_of_a_sweep() -> None:
    compiled = Dial(top_k=2)
    usual = chosen_points([], compiled)
    assert usual[0] == {} and label(usual[0]) == "as compiled"
    assert {"top_k": 1} in usual and {"top_k": 2} not in usual
    own = chosen_points(["top-p=0.5,1", "top_k=2"], compiled)
    assert own == [{}, {"top_p": 0.5}, {"top_p": 1.0}, {"top_k": 2}]
    assert label(own[1]) == "top-p 0.5"
    narrow = chosen_points([], Dial.of(top_k=1, top_p=0.5, min_score=0.3))
    assert [name for point in narrow for name in point] == ["top_p"]
    for text in ("top_p", "top_q=1", "top_k=0.5", "top_p=1.5", "top_k=3"):
        with pytest.raises(UserError, match="--points: "):
            chosen_points([text], compiled)
    with pytest.raises(UserError, match="nothing in the program has experts"):
        chosen_points([], AS_COMPILED)
    assert command.FRAMES == FRAMES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--points", "top_p=0.5"), "--points: is an option of --dial"),
        (("--dial", "--backend", "sim"), "--backend: --dial scores the golden model, not sim"),
        (("--dial", "--docs", "none.md"), "none.md"),
        (("--dial", "--points", "top_p=2"), "--points: top_p must be above 0 to 1, not 2.0"),
    ],
)
def test_sweeps_that_are_refused(moevit, checkpoint, given, message, tmp_path) -> None:
    status, out, err = moevit("eval", "--model", checkpoint, "--preset", "micro", *given)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_accuracy_against_cycles(moevit, checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MOEVIT_CACHE")  # the simulator of `micro` is there or is used again
    page = Path("page.md")
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    found = ("eval", "--dial", "--model", checkpoint, "--preset", "micro", "--task", "depth,edges")
    status, out, err = moevit(
        *found, "--images", 4, "--frames", 2, "--points", "top_k=1", "--json", "--docs", page
    )
    assert (status, err) == (0, "")
    about = json.loads(out)
    assert (about["images"], about["frames"]) == (4, 2)
    whole, one = about["points"]
    assert (whole["dial"], one["dial"]) == ({}, {"top_k": 1})
    for task in ("depth", "edges"):
        assert whole["tasks"][task]["experts"] == 2.0 and one["tasks"][task]["experts"] == 1.0
        assert one["tasks"][task]["cycles"] < whole["tasks"][task]["cycles"]
        assert one["tasks"][task]["low"] <= one["tasks"][task]["value"]
        assert whole["tasks"][task]["change"]["value"] == 0
    with Image.open(about["chart"]) as image:
        assert image.format == "PNG" and image.width > 600
    text = page.read_text()
    assert "| as compiled |" in text and "| top-k 1 |" in text and text.endswith("after\n")
