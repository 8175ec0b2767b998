"""`moevit run --backend board`: a board is a backend like the others."""

from __future__ import annotations

import json

import pytest
from support.boards import make_bundle, make_case, simulated_board

from moevit.boards.backend import BUNDLE, TRANSPORT


@pytest.mark.slow  # the first use of the configuration builds its simulator
def test_bit_for_bit_against_the_golden_model(moevit, checkpoint, tmp_path, monkeypatch) -> None:
    bundle = make_bundle(tmp_path / "bundle", make_case(count=1))
    monkeypatch.setenv(BUNDLE, str(bundle.root))
    run = ("run", "--backend", "board", "--model", checkpoint, "--preset", "micro")
    with simulated_board() as board:
        monkeypatch.setenv(TRANSPORT, f"sim:{board.path}")
        status, out, err = moevit(*run, "--task", "depth", "-o", "out")
        assert (status, err) == (0, "")
        assert "frames/s by the clock of this host, transfers included;" in out
        assert (tmp_path / "out" / "scene-0-panel.png").is_file()
        status, out, _ = moevit(*run, "--json", "--task", "depth,edges")
        assert status == 0
        assert [result["bit_exact"] for result in json.loads(out)["results"]] == [True, True]
        status, out, err = moevit("eval", *run[1:], "--images", 2, "--task", "depth", "--json")
        assert status == 0, err


def test_without_a_board(moevit, checkpoint, tmp_path, monkeypatch) -> None:
    run = ("run", "--backend", "board", "--model", checkpoint, "--preset", "micro")
    monkeypatch.delenv(BUNDLE, raising=False)
    status, out, err = moevit(*run)
    assert (status, out) == (2, "") and "needs a bundle: set MOEVIT_BUNDLE" in err
    monkeypatch.setenv(BUNDLE, str(make_bundle(tmp_path / "bundle", make_case(count=1)).root))
    monkeypatch.setenv(TRANSPORT, "sim:nowhere")
    status, _, err = moevit(*run)
    assert status == 2 and "nowhere: " in err and err.count("\n") == 1
