"""Configurations: JSON round trip, what the hash covers, refusals."""

from __future__ import annotations

import pytest

from moevit.hw.config import PRESETS, AcceleratorConfig, preset


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip(name: str) -> None:
    config = preset(name)
    again = AcceleratorConfig.from_dict(config.to_dict())
    assert again == config
    assert again.hash == config.hash


def test_hashes_differ() -> None:
    assert len({config.hash for config in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize(
    "change",
    [{"array__tokens": 6}, {"memory__ring_rows": 2048}, {"limits__experts": 8, "limits__top_k": 2}],
)
def test_hash_covers_what_programs_depend_on(change: dict[str, int]) -> None:
    config = preset("default")
    assert config.but(**change).hash != config.hash


def test_hash_ignores_the_clock() -> None:
    config = preset("default")
    assert config.but(clock_mhz=100.0, name="other", watchdog_cycles=99).hash == config.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"array__tokens": 3}, "tokens must be even"),
        ({"array__inputs": 24}, "power of two from twice the outputs"),
        ({"array__outputs": 6}, "power of two from 2"),
        ({"array__outputs": 1}, "power of two from 2"),
        ({"memory__ring_rows": 1000}, "ring_rows must be a power of two"),
        ({"memory__kv_rows": 0}, "kv_rows must be a positive integer"),
        ({"memory__ports": 3}, "Weight row of 128 bytes"),
        ({"limits__depth": 100}, "depth must be a multiple of 16"),
        ({"limits__top_k": 17}, "top_k must be at most experts"),
    ],
)
def test_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset("default").but(**change)


def test_from_dict_names_the_field() -> None:
    data = preset("micro").to_dict()
    del data["memory"]["ports"]
    with pytest.raises(ValueError, match="ports"):
        AcceleratorConfig.from_dict(data)


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match=r"Unknown preset 'big'; expected one of micro, default"):
        preset("big")
