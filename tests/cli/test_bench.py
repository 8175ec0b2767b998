"""`moevit bench --size`: what it refuses, what it computes from a frame, and its table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from moevit.bench import frames as reference
from moevit.bench.frames_page import BEGIN, END, main, render
from moevit.bench.frames_report import beside_peers, text
from moevit.bench.peers import BOARD_WATTS, PEERS
from moevit.errors import UserError
from moevit.hw.config import preset
from moevit.model.config import PRESETS
from moevit.quant.golden import Golden
from moevit.quant.network import Moe

KEYS = {
    "preset", "size", "tokens", "bit_exact", "cycles", "mac_utilisation", "stall_cycles",
    "bytes_read", "macs_per_cycle", "simulation_s", "simulated_cycles_per_s", "estimate_cycles",
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "zcu999"], "Unknown preset 'zcu999'"),
        (["--size", "huge"], "Size must be one of"),
        (["--image-size", "128"], "--image-size: expected HxW such as 128x256, not '128'"),
        (["--image-size", "100x256"], "--image-size: "),
        (["--experts", "int3"], "--experts: unknown format 'int3'"),
        (["--router", "missing.safetensors"], "missing.safetensors"),
        (["--model", "x.safetensors"], "--model: with --size name the checkpoint by --router"),
    ],
)
def test_refusals(moevit, options, message) -> None:
    status, out, err = moevit("bench", "--size", "tiny", *options)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.fixture
def small(monkeypatch) -> None:
    """A preset of the size that the micro accelerator runs in a moment."""
    tiny = dataclasses.replace(
        PRESETS["nano"], image=(16, 32), dim=16, depth=4, heads=2, experts=4, expert_hidden=16
    )
    monkeypatch.setitem(PRESETS, "nano", tiny)


@pytest.mark.slow
def test_a_frame(moevit, small) -> None:
    frame = ["bench", "--size", "nano", "--preset", "micro", "--json"]
    status, out, err = moevit(
        *frame, "--tasks", "depth,edges,depth", "--all-tasks", "--on-demand", 2
    )
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert set(found) >= KEYS
    assert (found["preset"], found["size"], found["tokens"]) == ("micro", "nano", 9)
    assert found["bit_exact"] is True and found["switch_cycles"] == 0
    assert [f["task"] for f in found["frames"]] == ["depth", "edges", "depth"]
    assert found["frames"][0] == found["frames"][2]
    stalls = found["stall_cycles"]
    assert set(stalls) == {"operand", "weight", "drain", "softmax", "no_work"}
    assert abs(sum(stalls.values()) + found["array_busy_cycles"] - found["cycles"]) <= 2
    macs = found["cycles"] * found["macs_per_cycle"]
    assert found["mac_utilisation"] == pytest.approx(found["useful_macs"] / macs)
    whole = found["all_tasks"]
    assert whole["bit_exact"] and whole["cycles"] < whole["single_cycles_sum"]
    assert whole["single_cycles_sum"] == sum(whole["single_cycles"].values())
    assert found["head_cycles"] > 0
    missed = found["on_demand"]
    layers = len(found["expert_tokens"])
    assert found["misses"] == 0 and missed["misses"] == 2 * layers
    assert missed["extra_cycles"] == missed["cycles"] - found["cycles"] > 0
    assert missed["bytes_a_miss"] == 2 * 16 * 16 + (16 + 16) * 8  # weights, parameters
    low, _high = found["energy_estimate"]["millijoules"]
    assert low == pytest.approx(BOARD_WATTS[0] * found["ms"])
    assert "FPS/(DSP x MHz)" in text(found)
    assert beside_peers([found]).count("\n") == 2 + len(PEERS)


def test_uniform_routers_use_every_expert(moevit, small, micro_cache) -> None:
    about = reference.Reference(size="nano", config=preset("micro"))
    network = reference.reference_network(about, lambda _what, _share: None)
    for task in network.tasks:
        run = Golden(network).run(reference._image(about), task)
        for layer in run.routing:
            assert min(layer.counts) >= 0.5 * np.mean(layer.counts)
    body = reference.backbone(network)
    assert body.norm is None and not body.heads
    assert any(isinstance(block.mlp, Moe) for block in body.blocks)


def test_a_checkpoint_of_another_model(moevit, small, checkpoint) -> None:
    about = reference.Reference(size="tiny", config=preset("micro"), router=str(checkpoint))
    with pytest.raises(UserError, match="is a model of width 16 for 16x32 pixels, expected 192"):
        reference.reference_network(about, lambda _what, _share: None)


# The recorded frames --------------------------------------------------------------------------
ROOT = Path(__file__).parents[2]
RECORDED = sorted((ROOT / "bench/reference").glob("*.json"))


def test_the_page_is_of_the_recorded_frames() -> None:
    assert RECORDED
    frames = [json.loads(path.read_text()) for path in RECORDED]
    text = (ROOT / "docs/benchmarks.md").read_text()
    again = "python -m moevit.bench.frames_page docs/benchmarks.md bench/reference/*.json"
    assert f"{BEGIN}\n\n{render(frames)}\n\n{END}" in text, f"run: {again}"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_frames_agree_with_themselves(path: Path) -> None:
    frame = json.loads(path.read_text())
    assert set(frame) >= KEYS and frame["bit_exact"] is True
    busy = frame["array_busy_cycles"] + sum(frame["stall_cycles"].values())
    assert abs(busy - frame["cycles"]) <= 2
    assert abs(frame["estimate_cycles"] / frame["cycles"] - 1) <= 0.03
    assert frame["switch_cycles"] == 0 if "switch_cycles" in frame else True
    sent = {sum(layer) for layer in frame["expert_tokens"]}
    assert len(sent) == 1 and sent.pop() % frame["tokens"] == 0


def test_a_page_without_its_markers_stays(tmp_path, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text("text")
    assert main([str(page), *map(str, RECORDED)]) == 2
    assert BEGIN in capsys.readouterr().err
    assert page.read_text() == "text"
    page.write_text(f"a\n{BEGIN}\nold\n{END}\nb\n")
    assert main([str(page), *map(str, RECORDED)]) == 0
    assert page.read_text().startswith(f"a\n{BEGIN}\n\n| frame |")
    assert "old" not in page.read_text()
