"""`moevit report`: what the page has, that its figures add up, and what is refused."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from moevit.bench.explain import Explanation, explain, part_of_frame
from moevit.bench.memory_map import memory_map
from moevit.cli.commands.run import images_of
from moevit.cli.workload import hardware, open_workload
from moevit.quant.typing import silent

CACHE = os.environ.get("MOEVIT_CACHE")
"""The cache of other tests, where a simulator that records is already."""

SECTIONS = ("tasks", "timeline", "costs", "bytes", "maps", "queues", "memory", "about")


@pytest.fixture(scope="module")
def found(checkpoint: Path) -> Explanation:
    """Two tasks of the micro model, without the study of accuracy."""
    workload = open_workload(hardware("micro"), size="nano", model=checkpoint)
    (image,) = images_of([], 0, workload.model_config)
    return explain(workload, image, ["depth", "edges"], scenes=0, report=silent)


@pytest.mark.slow
def test_parts_add_up_to_the_frame(found: Explanation) -> None:
    for cost in found.costs:
        counters = cost.counters
        assert sum(sum(p.states.values()) for p in cost.parts.values()) == counters["cycles"]
        for state, counter in (("busy", "array_busy"), ("waits for weights", "stall_weight")):
            total = sum(p.states.get(state, 0) for p in cost.parts.values())  # type: ignore[call-overload]
            assert total == counters[counter]
        beats = sum(counters[name] for name in ("weight_beats", "data_read_beats"))
        moved = sum(p.streamed + p.fetched + p.moved for p in cost.parts.values())
        assert moved == 16 * (beats + counters["data_write_beats"])
        assert sum(p.estimated for p in cost.parts.values()) == cost.expected.cycles
        assert {"block 0", "block 1", "embedding", "heads", "end"} <= set(cost.parts)


@pytest.mark.slow
def test_what_lies_in_memory(found: Explanation) -> None:
    held = memory_map(found.real, 0)
    frame = found.real.frames[0]
    notes = found.real.program.entry(frame.task).notes
    assert {part_of_frame(notes[h.index]) for h in held} >= {"block 0", "block 1", "embedding"}
    for h in held:
        assert 0 <= h.low < h.high and 0 <= h.start < h.end <= frame.end - frame.start
    # A result of the first block's norm is gone before the second block's own is there.
    first, second = (
        [h for h in held if re.match(f"block {n} norm1", notes[h.index])] for n in range(2)
    )
    assert first and second and max(h.end for h in first) <= min(h.start for h in second)


@pytest.mark.slow
def test_a_page(moevit, checkpoint: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["moevit", "report", "a b.png"])
    monkeypatch.delenv("MOEVIT_CACHE")
    if CACHE is not None:
        monkeypatch.setenv("MOEVIT_CACHE", CACHE)
    status, out, err = moevit(
        "report", "--model", checkpoint, "--preset", "micro", "--task", "depth,segmentation",
        "--scenes", 1, "-o", "new/page.html", "--json",
    )  # fmt: skip
    assert (status, err) == (0, "")
    about = json.loads(out)
    page = Path("new/page.html").read_text(encoding="utf-8")
    assert about["bytes"] == len(page.encode()) < 4_000_000
    assert [r["bit_exact"] for r in about["results"]] == [True, True]
    for section in (*SECTIONS, "accuracy"):
        assert f'<section id="{section}">' in page
    # Nothing is fetched from anywhere.
    text = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert not re.search(r"<script[^>]*src", page)
    assert "moevit report &#39;a b.png&#39;" in page
    for result in about["results"]:
        assert f"<td>{result['cycles']:,}</td>" in page
    assert "block 1, depth" in page and "block 1 expert" in page
    assert [p.name for p in Path("new").iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png"], "missing.png: no such file; expected a"),
        (["text.png"], "text.png: "),
        (["-o", "text.png/page.html"], "text.png: is a file; expected a folder"),
        (["-o", "."], ".: is a folder; expected the name of a file"),
        (["--task", "smell"], "smell"),
    ],
)
def test_refusals(moevit, checkpoint: Path, arguments: list[str], message: str) -> None:
    Path("text.png").write_text("no picture")
    status, out, err = moevit("report", "--model", checkpoint, "--preset", "micro", *arguments)
    assert (status, out) == (2, "")
    assert message in err and len(err.strip().splitlines()) == 1
    assert [p.name for p in Path().iterdir()] == ["text.png"]


def test_without_the_library(moevit, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr("moevit.cli.registry._exists", lambda _name: True)
    status, out, err = moevit("report")
    assert (status, out) == (2, "")
    assert "bokeh: not installed; expected the extra 'report'" in err
