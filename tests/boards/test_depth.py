"""Longest paths of netlists written by hand, and what cells take."""

from __future__ import annotations

from typing import Any

import pytest

from moevit.boards.cells import CLOCK_TO_Q, LEVEL, SETUP, Cost, resources, timing
from moevit.boards.depth import analyse
from moevit.boards.synthesis import tally


def cell(kind: str, parameters: dict[str, str] | None = None, **wires: Any) -> dict[str, Any]:
    bits = {port: wire if isinstance(wire, list) else [wire] for port, wire in wires.items()}
    return {"type": kind, "parameters": parameters or {}, "connections": bits}


def module(
    *cells: dict[str, Any],
    i: list[int] | None = None,
    o: list[int] | None = None,
    names: dict[str, list[int]] | None = None,
) -> dict[str, Any]:
    return {
        "cells": {f"c{n}": c for n, c in enumerate(cells)},
        "ports": {
            **({"i": {"direction": "input", "bits": i}} if i else {}),
            **({"o": {"direction": "output", "bits": o}} if o else {}),
        },
        "netnames": {name: {"bits": bits} for name, bits in (names or {}).items()},
    }


def register(d: int, q: int) -> dict[str, Any]:
    return cell("FDRE", C=1, CE="1", R="0", D=d, Q=q)


def test_the_longest_of_two_ways() -> None:
    found = analyse(
        module(
            register(2, 3),
            cell("LUT2", I0=3, I1=4, O=5),
            cell("LUT1", I0=3, O=4),
            register(5, 6),
            names={"from": [3], "to": [7, 6]},
        ),
        {},
    ).path
    assert found is not None
    assert (found.luts, found.carries, found.marks) == (2, 0, ())
    assert found.ns == pytest.approx(CLOCK_TO_Q + 2 * LEVEL + SETUP)
    assert (found.start, found.end) == ("from", "to[1]")


def test_no_path_without_registers_at_both_ends() -> None:
    assert analyse(module(cell("LUT1", I0=2, O=3), register(3, 4), i=[2]), {}).path is None


def test_a_carry_chain_counts_each_cell_once() -> None:
    chain = [
        cell("CARRY4", CI="0", CYINIT="0", S=[10, 11, 12, 13], DI=["0"] * 4, O=[20, 21, 22, 23],
             CO=[30, 31, 32, 33]),
        cell("CARRY4", CI=33, CYINIT="0", S=["0"] * 4, DI=["0"] * 4, O=[24, 25, 26, 27],
             CO=[34, 35, 36, 37]),
    ]  # fmt: skip
    found = analyse(module(register(2, 10), *chain, register(27, 40)), {}).path
    assert found is not None
    assert (found.luts, found.carries) == (0, 2)
    # A chain does not run backwards.
    low = analyse(module(register(2, 13), *chain[:1], register(20, 40)), {}).path
    assert low is None


def test_rams_and_multipliers_are_marked() -> None:
    plain = {"AREG": "0", "BREG": "0", "MREG": "0", "PREG": "0"}
    netlist = module(
        cell("RAMB36E2", {"DOA_REG": "0"}, CLKARDCLK=1, ADDRARDADDR=[2], DOUTADOUT=[3, 4]),
        cell("DSP48E2", plain, A=[3, 4], B=[5], P=[6, 7]),
        register(7, 8),
    )
    found = analyse(netlist, {}).path
    assert found is not None
    assert found.marks == ("BRAM", "DSP")
    assert found.ns == pytest.approx(1.5 + 1.9 + SETUP)
    # The operands' and the product's registers cut it.
    inside = dict.fromkeys(plain, "1")
    netlist["cells"]["c1"]["parameters"] = inside
    assert analyse(netlist, {}).path.ns == pytest.approx(1.5 + 0.6)


def test_paths_cross_modules() -> None:
    inner = module(
        register(9, 2), cell("LUT2", I0=2, I1=3, O=4), cell("LUT1", I0=4, O=5), i=[3], o=[5]
    )
    outside = analyse(inner, {}).outside
    assert outside.starts["o"] == Cost(pytest.approx(CLOCK_TO_Q + 2 * LEVEL), 2)
    assert outside.arcs[0].cost == Cost(2 * LEVEL, 2)
    # The inner module twice in a row.
    outer = module(cell("inner", i=[10], o=[11]), cell("inner", i=[11], o=[12]), register(12, 13))
    found = analyse(outer, {"inner": outside}).path
    assert found is not None
    assert found.luts == 4


def test_a_loop_ends() -> None:
    loop = module(
        register(2, 3), cell("LUT2", I0=3, I1=5, O=4), cell("LUT1", I0=4, O=5), register(5, 6)
    )
    assert analyse(loop, {}).path.luts == 2


def test_tally() -> None:
    netlist = module(
        register(2, 3), register(3, 4), cell("LUT6", O=5), cell("RAMB18E2"), cell("box"),
        cell("RAM64M8"), cell("$scopeinfo"), cell("CARRY4"),
    )  # fmt: skip
    assert tally(netlist, inner=("\\box",)) == {
        "LUT": 9, "FF": 2, "DSP": 0, "BRAM36": 0.5, "URAM": 0
    }  # fmt: skip


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="Cell box: not known"):
        tally(module(cell("box")))
    with pytest.raises(ValueError, match="Cell MAGIC"):
        timing("MAGIC", {}, {})
    with pytest.raises(ValueError, match="Cell MAGIC"):
        resources("MAGIC")
