"""Two judges of mutants: whatever the order of the engines shows to be harmful, the proof finds.

`bench/mutants.py` does the same with more of them (docs/verification.md has its table).
"""

import numpy as np
import pytest
from support.memories import random_program

from moevit.quant.golden import Golden
from moevit.quant.random_network import random_images
from moevit.sim.mutants import KINDS, judge, mutants


@pytest.mark.parametrize("seed", [6, 7])
def test_harmful_mutants_are_found(seed: int) -> None:
    made = random_program(seed)
    assert made is not None
    network, program = made
    task, image = network.tasks[0], random_images(seed, network.geometry)[0]
    want = Golden(network).run(image, task).output
    harmful = set()
    for mutant in mutants(program, task, np.random.default_rng([seed, 7])):
        verdict = judge(mutant, image, want, range(4))
        if verdict.harm:
            harmful.add(mutant.kind)
            assert verdict.alarms, f"{mutant.what}: {verdict.harm}"
    assert len(harmful) >= len(KINDS) // 2


def test_a_sound_program_passes_both() -> None:
    """The judges themselves: no alarm and no harm without a mistake."""
    made = random_program(6)
    assert made is not None
    network, program = made
    task, image = network.tasks[0], random_images(6, network.geometry)[0]
    want = Golden(network).run(image, task).output
    (mutant,) = mutants(program, task, np.random.default_rng(1), ["wait dropped"])
    verdict = judge(
        type(mutant)(kind="", what="", task=task, program=program), image, want, range(3)
    )
    assert (verdict.alarms, verdict.harm, verdict.other) == ((), "", False)
    assert judge(mutant, image, want, range(1)).alarms
