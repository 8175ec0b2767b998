"""The record of a campaign: a line of JSON for each batch when it ends, and what they add up to."""

from __future__ import annotations

import hashlib
import json
from collections import Counter as Tally
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moevit.quant.errors import UserError
from moevit.quant.typing import Report, silent

from .features import PAIRS, Pair
from .points import POINTS

__all__ = ["Record", "bits_of", "summary"]

_FORMAT = 1


def _universe() -> str:
    """Names what is counted: records of other points or pairs cannot be continued."""
    return hashlib.sha256(repr((POINTS, PAIRS)).encode()).hexdigest()[:12]


def bits_of(pairs: Iterable[Pair]) -> str:
    """Pairs as a hexadecimal number, bit n for ``PAIRS[n]``."""
    number = {pair: n for n, pair in enumerate(PAIRS)}
    return f"{sum(1 << number[pair] for pair in set(pairs)):x}"


class Record:
    """The file of a campaign. Lines of a run that was stopped stay; half a line does not count.

    Raises ``UserError`` for a file that is something else, or of another campaign.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self._head = {"campaign": _FORMAT, **about, "universe": _universe()}
        self.batches: list[dict[str, Any]] = []
        if path.exists():
            self._read()

    def _read(self) -> None:
        lines = self.path.read_bytes().split(b"\n")
        try:
            head, *rest = [json.loads(line) for line in lines[:-1]]
        except ValueError:
            raise UserError(f"{self.path}: no record of a campaign") from None
        if not isinstance(head, dict) or head.get("campaign") != _FORMAT:
            raise UserError(f"{self.path}: no record of a campaign")
        for name, value in self._head.items():
            if head.get(name) != value:
                raise UserError(
                    f"{self.path}: record of a campaign with {name} {head.get(name)!r}, "
                    f"not {value!r}"
                )
        self.batches = rest
        if lines[-1]:  # whoever wrote it was killed
            with self.path.open("r+b") as file:
                file.truncate(sum(len(line) + 1 for line in lines[:-1]))

    @property
    def done(self) -> set[int]:
        """The numbers of all cases that have run."""
        return {n for b in self.batches for n in range(b["first"], b["first"] + b["networks"])}

    def add(self, batch: dict[str, Any]) -> None:
        """Appends a batch that has ended."""
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            for data in ([self._head] if new else []) + [batch]:
                file.write(json.dumps(data, separators=(",", ":")).encode() + b"\n")
        self.batches.append(batch)


def summary(batches: Iterable[dict[str, Any]], report: Report = silent) -> dict[str, Any]:
    """What batches add up to: counts, failures, and the points and pairs that nothing has hit."""
    sums: Tally[str] = Tally()
    points: Tally[str] = Tally()
    machines: Tally[str] = Tally()
    sources: Tally[str] = Tally()
    failures: list[dict[str, Any]] = []
    pairs = 0
    for batch in batches:
        for name in ("networks", "frames", "cycles", "redrawn"):
            sums[name] += batch[name]
        points.update(batch["points"])
        pairs |= int(batch["pairs"] or "0", 16)
        machines[str(batch["machine"])] += batch["networks"]
        sources[batch["sources"]] += batch["networks"]
        failures += batch["failures"]
    missing = [pair for n, pair in enumerate(PAIRS) if not pairs >> n & 1]
    return {
        **{name: sums[name] for name in ("networks", "frames", "cycles", "redrawn")},
        "failures": failures,
        "points": {name: points[name] for name in POINTS},
        "holes": [name for name in POINTS if not points[name]],
        "pairs": len(PAIRS),
        "missing_pairs": [f"{a} {x}, {b} {y}" for a, x, b, y in missing],
        "by_machine": dict(sorted(machines.items(), key=lambda item: int(item[0]))),
        "by_sources": dict(sources),
    }
