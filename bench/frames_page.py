"""Frames that `moevit bench --size -o FILE` recorded, as a part of a page.

``python -m moevit.bench.frames_page docs/benchmarks.md bench/reference/*.json`` replaces what
stands between the page's markers. Nothing is measured here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moevit.files import write_text

from .frames_report import beside_peers, formats
from .peers import PEER_NOTE

__all__ = ["BEGIN", "END", "main", "render"]

BEGIN, END = "<!-- moevit bench --size: begin -->", "<!-- moevit bench --size: end -->"

Frame = Mapping[str, Any]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _name(f: Frame) -> str:
    return f"{f['size']} {f['image_size']}, {f['preset']}, {f['router']}, {formats(f)}"


def render(frames: Sequence[Frame]) -> str:
    """Tables of all frames: cycles, waits, experts, tasks, and the peers."""
    parts = [_cycles(frames), _waits(frames), _tokens(frames), _tasks(frames), _misses(frames)]
    peers = [f for f in frames if f["size"] == "tiny"]
    parts += ["### Beside the peers", beside_peers([*peers]), PEER_NOTE]
    energy = frames[0]["energy_estimate"]["assumes"]
    parts.append(f"Energy of ours is an estimate: {energy}.")
    return "\n\n".join(part for part in parts if part)


def _cycles(frames: Sequence[Frame]) -> str:
    rows = [
        [
            _name(f),
            f"{f['tokens']:,}",
            f"{f['cycles']:,}",
            f"{f['ms']:.3f}",
            f"{f['mac_utilisation']:.1%}",
            f"{f['bytes_read'] / 1e6:.1f}",
            f"{f['estimate_error']:+.1%}",
            f"{f['head_cycles']:,}",
            f"{f['simulation_s']:.1f}",
            f"{f['simulated_cycles_per_s']:,.0f}",
        ]
        for f in frames
    ]
    headings = ["frame", "tokens", "cycles", "ms", "MAC util.", "MB read", "estimate's error"]
    headings += ["head, cycles", "simulation, s", "cycles/s"]
    return _table(headings, rows)


def _waits(frames: Sequence[Frame]) -> str:
    causes = list(frames[0]["stall_cycles"])
    rows = [
        [
            _name(f),
            f"{f['array_busy_cycles']:,}",
            *(f"{f['stall_cycles'][c]:,}" for c in causes),
        ]
        for f in frames
    ]
    headings = ["frame", "busy", *(c.replace("_", " ") for c in causes)]
    return "The array's cycles, and those in which it waits, by cause:\n\n" + _table(headings, rows)


def _tokens(frames: Sequence[Frame]) -> str:
    rows = []
    for f in frames:
        layers = f["expert_tokens"]
        empty = sum(count == 0 for layer in layers for count in layer)
        total = sum(len(layer) for layer in layers)
        least, most = min(map(min, layers)), max(map(max, layers))
        rows.append([_name(f), f"{least}", f"{most}", f"{empty} of {total}"])
    headings = ["frame", "fewest", "most", "without a token"]
    return "Tokens of an expert in a layer:\n\n" + _table(headings, rows)


def _tasks(frames: Sequence[Frame]) -> str:
    parts = []
    for f in frames:
        if "switch_cycles" in f:
            each = ", ".join(f"{g['task']} {g['cycles']:,}" for g in f["frames"])
            parts.append(
                f"Task switching ({_name(f)}): {each} cycles; against repeating each task "
                f"{f['switch_cycles']} cycles more."
            )
        if "all_tasks" in f:
            a = f["all_tasks"]
            parts.append(
                f"All {len(a['tasks'])} tasks of one image with their heads in one run "
                f"({_name(f)}): {a['cycles']:,} cycles, bit-exact, against "
                f"{a['single_cycles_sum']:,} one by one: {a['saved']:.1%} saved. MAC utilisation "
                f"{a['mac_utilisation']:.1%}, estimate {a['estimate_error']:+.1%}."
            )
        if "stream" in f:
            s = f["stream"]
            each = ", ".join(f"{g['task']} {g['cycles']:,}" for g in s["frames"])
            parts.append(
                f"Scenes back to back ({_name(f)}): {each} cycles, bit-exact; behind another frame "
                f"{s['mean_cycles']:,.0f} on average, "
                f"{f['clock_mhz'] * 1e6 / s['mean_cycles']:,.0f} a second."
            )
    return "\n\n".join(parts)


def _misses(frames: Sequence[Frame]) -> str:
    return "\n\n".join(
        f"A miss ({_name(f)}, the {f['on_demand']['experts_a_layer']} least used experts of each "
        f"layer left out of the stream): {f['on_demand']['misses']} misses, "
        f"{f['on_demand']['extra_cycles_a_miss']:,.0f} cycles more and "
        f"{f['on_demand']['bytes_a_miss']:,.0f} bytes fetched each; outputs bit-exact."
        for f in frames
        if "on_demand" in f
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Page and results as named; 2 for a page without markers or no results."""
    names = list(sys.argv[1:] if arguments is None else arguments)
    if len(names) < 2:
        sys.stderr.write("usage: python -m moevit.bench.frames_page PAGE RESULT...\n")
        return 2
    page, frames = (
        Path(names[0]),
        [json.loads(Path(name).read_text(encoding="utf-8")) for name in names[1:]],
    )
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.stderr.write(f"{page}: lacks the lines {BEGIN} and {END}\n")
        return 2
    write_text(page, f"{before}{BEGIN}\n\n{render(frames)}\n\n{END}{after}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
