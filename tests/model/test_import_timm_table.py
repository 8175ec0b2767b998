"""The table of timm's names in the documentation is what the importer does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moevit.model.importers.timm_table import names, rows

DOCUMENT = Path(__file__).parents[2] / "docs" / "importing.md"


def documented() -> dict[str, str]:
    lines = DOCUMENT.read_text().splitlines()
    return {m[1]: line for line in lines if (m := re.match(r"\| `(\w+)` \|", line))}


def test_every_name_is_there_and_they_are_counted() -> None:
    found = documented()
    assert list(found) == names()
    good = sum("| yes |" in line for line in found.values())
    assert f"{good} of the {len(found)} names of timm" in DOCUMENT.read_text()


def test_a_sample_is_true() -> None:
    found = documented()
    sample = [
        "deit_tiny_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_base_patch32_clip_224",
        "vit_tiny_r_s16_p8_224",
        "vit_small_patch16_dinov3",
        "vit_wee_patch16_reg1_gap_256",
    ]
    assert rows(sample) == [found[name] for name in sample]


@pytest.mark.slow
def test_all_of_it_is_true() -> None:
    assert rows(names()) == list(documented().values())
