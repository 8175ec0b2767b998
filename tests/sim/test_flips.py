"""Damage to programs in memory shows: in RTL, in the interpreter, and in the driver's words."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.programs import rewritten, run_program
from support.rtl import SMALL

from moevit.compiler import Program, compile_network
from moevit.hw.isa import Fetch, Load
from moevit.hw.registers import Error
from moevit.quant.golden import Golden
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.sim.errors import DeviceError
from moevit.sim.flips import KINDS, apply, damages, run_campaign
from moevit.sim.rtl import RtlDevice

pytestmark = pytest.mark.slow  # the first use of a configuration builds its simulator

SIZES = Sizes(experts=5, top_k=2, moe=(1,), expert_hidden=40, hidden=50)
SHOWN = {
    "header": {Error.HEADER},
    "instructions": {Error.CODE},
    "weight stream": {Error.STREAM, Error.WEIGHTS},
    "fetched weights": {Error.FETCHED},
    "embedding": {Error.TABLE},
    "tables": {Error.TABLE},
}


@pytest.fixture(scope="module")
def device() -> Iterator[RtlDevice]:
    with RtlDevice(SMALL, max_cycles=400_000) as made:
        yield made


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_network(random_network(3, SIZES), SMALL, threshold=3.0)


@pytest.fixture(scope="module")
def image(program: Program) -> Any:
    return random_images(3, program.geometry)[0]


@pytest.fixture(scope="module")
def wanted(image: Any) -> dict[str, Any]:
    network = random_network(3, SIZES)
    return {task: Golden(network).run(image, task).output for task in network.tasks}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_silent(
    device: RtlDevice, program: Program, image: Any, wanted: dict[str, Any], kind: str
) -> None:
    """Each flip shows, or does no harm; the interpreter ends in the same error."""
    todo = list(damages(program, 5, range(6), [kind]))
    verdicts = list(run_campaign([device], program, todo, image, wanted))
    assert not [str(v) for v in verdicts if v.fault]
    errors = {v.error for v in verdicts}
    assert errors & SHOWN.get(kind, errors)
    if kind in SHOWN:
        assert errors <= SHOWN[kind] | {Error.NONE}
    one = kind != "truncation"  # what of much is met first is not said
    for verdict in verdicts[: 4 * one]:
        damaged = replace(program, memory=apply(program.memory, verdict.damage))
        try:
            run_program(damaged, image, verdict.damage.task)
            found = Error.NONE, 0
        except DeviceError as error:
            found = error.code, error.damage
        assert found == (verdict.error, verdict.place), str(verdict)


def test_it_finds_what_is_not_checked(
    device: RtlDevice, program: Program, image: Any, wanted: dict[str, Any]
) -> None:
    """Tables and fetched weights without checks: wrong pictures, and the campaign says so."""
    memory = program.memory.copy()
    for task, about in program.tasks.items():
        start = about.base + program.header(task).code_offset
        for n, i in enumerate(program.instructions(task)):
            if isinstance(i, Load | Fetch):
                for offset, data in rewritten(n, replace(i, checked=0).encode()).items():
                    at = start + offset
                    memory[at : at + len(data)] = np.frombuffer(data, np.uint8)
    bare = replace(program, memory=memory)
    todo = list(damages(bare, 5, range(12), ["embedding", "tables", "fetched weights"]))
    verdicts = list(run_campaign([device], bare, todo, image, wanted))
    assert any(v.silent for v in verdicts)
    assert not any(v.error for v in verdicts)
    assert all(v.next_right and not v.escaped for v in verdicts)
