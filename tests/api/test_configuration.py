"""A hardware configuration of one's own, wherever a preset may stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import moevit
from moevit.configurations import read_configuration
from moevit.hw.config import PRESETS, preset


def write(folder: Path, data: Any, name: str = "own.json") -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


@given(
    base=st.sampled_from(sorted(PRESETS)),
    tokens=st.integers(1, 8).map(lambda n: 2 * n),
    rows=st.integers(5, 12).map(lambda n: 1 << n),
    clock=st.floats(1, 1000),
)
def test_what_is_written_is_read(
    base: str, tokens: int, rows: int, clock: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wanted = preset(base).but(
        name="own", array__tokens=tokens, memory__ring_rows=rows, clock_mhz=clock
    )
    folder = tmp_path_factory.mktemp("configuration")
    whole = write(folder, wanted.to_dict())
    assert moevit.configuration(whole) == moevit.configuration(str(whole)) == wanted
    changes = {
        "base": base,
        "array": {"tokens": tokens},
        "memory": {"ring_rows": rows},
        "clock_mhz": clock,
    }
    assert read_configuration(write(folder, changes)) == wanted  # named as its file
    described = {"config": wanted.to_dict(), "hash": f"{wanted.hash:#018x}", "top": "moevit"}
    assert read_configuration(write(folder, described)) == wanted


def test_names_and_objects() -> None:
    assert moevit.configuration("zcu104") == preset("zcu104")
    assert moevit.configuration() == preset("default")
    own = preset("micro").but(name="own")
    assert moevit.configuration(own) is own
    with pytest.raises(moevit.UserError, match="Unknown preset 'huge'; expected one of micro"):
        moevit.configuration("huge")
    with pytest.raises(moevit.UserError, match=r"huge\.json: no such file"):
        moevit.configuration("huge.json")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("{", "not JSON"),
        ([1], "expected an object, not list"),
        ({"base": "huge"}, "base: unknown preset 'huge'"),
        ({"base": "micro", "speed": 1}, "speed: unknown; expected name, array, memory"),
        ({"base": "micro", "array": {"lanes": 2}}, "array.lanes: unknown; expected tokens"),
        ({"base": "micro", "array": 3}, "array: expected an object, not 3"),
        ({"base": "micro", "array": {"tokens": 3}}, "ArrayConfig.tokens must be even"),
        ({"base": "micro", "array": {"tokens": "4"}}, "must be a positive integer, not '4'"),
        ({"base": "micro", "clock_mhz": "fast"}, "clock_mhz: expected a number above 0"),
        ({"base": "micro", "clock_mhz": True}, "clock_mhz: expected a number above 0"),
        ({"base": "micro", "name": ""}, "name: expected a text"),
        ({"base": "micro", "limits": {"depth": 12}}, "LimitConfig.depth must be a multiple"),
        ({"array": {"tokens": 2, "inputs": 8, "outputs": 4}}, 'memory: missing; give it, or a "b'),
        ({**preset("micro").to_dict(), "array": {"tokens": 2}}, "array.inputs: missing"),
        (
            {"config": preset("micro").to_dict(), "hash": "0x1"},
            "hash: is 0x1, expected 0x",
        ),
    ],
)
def test_mistakes_name_the_file_and_the_field(data: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(moevit.UserError) as info:
        read_configuration(write(tmp_path, data))
    assert str(info.value).startswith(f"{tmp_path}/own.json: ") and text in str(info.value)


def test_a_program_for_a_configuration_of_ones_own(network: moevit.Network, tmp_path: Path) -> None:
    own = preset("micro").but(name="own", array__tokens=4, memory__ring_rows=256)
    program = network.compile(own, "depth")
    assert program.config is own
    path = write(tmp_path, own.to_dict())
    assert network.compile(path, "depth").config == own
    assert moevit.estimate(network, "depth", preset=path).cycles < (
        moevit.estimate(network, "depth", preset="micro").cycles
    )
