"""Programs with one mistake each, and two judges of them: the proof and the order of the engines.

A mutant is a compiled program with one instruction, credit or address changed. The proof
(:mod:`moevit.compiler.check`) looks at its file alone. The other judge runs it in many orders
(:mod:`.interleave`): it is *harmful* if some order gives another result than the program's own
(the interpreter's), an error or a deadlock. A mutant that computes something else in every order
alike is a sound program for another network, and counted by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moevit.compiler import Program
from moevit.compiler.check import verify
from moevit.compiler.link import sealed
from moevit.hw.checks import encode_code
from moevit.hw.image import HEADER_BYTES
from moevit.hw.isa import (
    TO_KEY_VALUE,
    TO_RESIDUAL,
    Attention,
    Destination,
    Fetch,
    Gemm,
    Halt,
    Instruction,
    Load,
    Norm,
    Store,
)
from moevit.hw.isa import Sync as SyncInstruction

from .errors import DeviceError
from .interleave import run_interleaved
from .interpreter import Interpreter

__all__ = ["KINDS", "Mutant", "Verdict", "judge", "mutants", "with_code"]

Ints = np.ndarray[Any, np.dtype[Any]]
Code = list[Instruction]
_PAGE = 4096


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """``program`` with the mistake ``what`` of a ``kind`` (:data:`KINDS`) in the entry ``task``."""

    kind: str
    what: str
    task: str
    program: Program


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judges say. ``alarms``: kinds of the proof's findings, in order.

    ``harm``: why it is harmful, empty if no order showed that. ``other``: its own order already
    gives another result than the program that it was made from.
    """

    alarms: tuple[str, ...]
    harm: str
    other: bool


def with_code(program: Program, task: str, code: Sequence[Instruction]) -> Program:
    """``program`` with other instructions for a task, behind everything that its memory holds.

    Their checks are those of what they read: a mistake is the compiler's, which makes them.
    """
    entry, header = program.task(task), program.header(task)
    start = -(-len(program.memory) // HEADER_BYTES) * HEADER_BYTES
    reads = program.memory[entry.base :]
    words = [sealed(i, reads, program.config).encode() for i in code]
    text = np.frombuffer(encode_code(words), np.uint8)
    memory = np.zeros(start + len(text), np.uint8)
    memory[: len(program.memory)] = program.memory
    memory[start:] = text
    header = replace(header, code_offset=start - entry.base, code_count=len(code))
    memory[entry.base : entry.base + HEADER_BYTES] = np.frombuffer(header.encode(), np.uint8)
    notes = tuple(entry.notes[n] if n < len(entry.notes) else "" for n in range(len(code)))
    tasks = {**program.tasks, task: replace(entry, notes=notes)}
    return replace(program, memory=memory, tasks=tasks)


# Mistakes --------------------------------------------------------------------------------------
Mistake = Callable[[np.random.Generator, Program, Code], "tuple[Code, str] | None"]


def _pick(rng: np.random.Generator, code: Code, which: Callable[[Instruction], bool]) -> int | None:
    places = [n for n, i in enumerate(code) if which(i)]
    return int(rng.choice(places)) if places else None


def _changed(code: Code, n: int, what: str, **fields: int) -> tuple[Code, str] | None:
    try:
        new = replace(code[n], **fields)
    except ValueError:  # does not fit the field
        return None
    return [*code[:n], new, *code[n + 1 :]], f"{what} of {_name(code, n)}"


def _name(code: Code, n: int) -> str:
    return f"instruction {n} ({type(code[n]).__name__.upper()})"


def _no_wait(rng: np.random.Generator, _: Program, code: Code) -> tuple[Code, str] | None:
    n = _pick(rng, code, lambda i: bool(i.wait))
    return None if n is None else _changed(code, n, "no wait", wait=0, wait_count=0)


def _no_signal(rng: np.random.Generator, _: Program, code: Code) -> tuple[Code, str] | None:
    n = _pick(rng, code, lambda i: bool(i.signal))
    if n is None:
        return None
    count = {"count": 0} if isinstance(code[n], SyncInstruction) else {}
    return _changed(code, n, "no credit", signal=0, **count)


def _is_sync(i: Instruction) -> bool:
    return isinstance(i, SyncInstruction)


def _no_sync(rng: np.random.Generator, _: Program, code: Code) -> tuple[Code, str] | None:
    n = _pick(rng, code, _is_sync)
    return None if n is None else ([*code[:n], *code[n + 1 :]], f"without {_name(code, n)}")


def _two_syncs(rng: np.random.Generator, _: Program, code: Code) -> tuple[Code, str] | None:
    n = _pick(rng, code, _is_sync)
    return None if n is None else ([*code[: n + 1], *code[n:]], f"{_name(code, n)} twice")


def _moved(
    rng: np.random.Generator, code: Code, which: Callable[[Instruction], bool], most: int
) -> tuple[Code, str] | None:
    n = _pick(rng, code, which)
    if n is None:
        return None
    to = n + int(rng.integers(1, most + 1)) * int(rng.choice([-1, 1]))
    to = min(max(to, 0), len(code) - 2)  # in front of HALT
    rest = [*code[:n], *code[n + 1 :]]
    found = [*rest[:to], code[n], *rest[to:]]
    return None if found == code else (found, f"{_name(code, n)} at {to}")


def _moved_sync(rng: np.random.Generator, _: Program, code: Code) -> tuple[Code, str] | None:
    return _moved(rng, code, _is_sync, 8)


def _moved_other(rng: np.random.Generator, _: Program, code: Code) -> tuple[Code, str] | None:
    return _moved(rng, code, lambda i: not isinstance(i, Halt | SyncInstruction), 4)


def _counts(i: Instruction) -> bool:
    return isinstance(i, SyncInstruction) and i.count > 0


def _count(rng: np.random.Generator, _: Program, code: Code) -> tuple[Code, str] | None:
    """One credit more or less, taken or given."""
    by = int(rng.choice([-1, 1]))
    n = _pick(rng, code, lambda i: i.wait_count > 0 or _counts(i))
    if n is None:
        return None
    i = code[n]
    taken = i.wait_count > 0 and not (_counts(i) and rng.random() < 0.5)
    field = "wait_count" if taken else "count"
    return _changed(code, n, f"{field} {by:+d}", **{field: getattr(i, field) + by})


def _semaphore(rng: np.random.Generator, _: Program, code: Code) -> tuple[Code, str] | None:
    """Another semaphore."""
    field = str(rng.choice(["wait", "signal"]))
    n = _pick(rng, code, lambda i: bool(getattr(i, field)))
    others = sorted({i.wait for i in code if i.wait})
    if n is None or len(others) < 2:
        return None
    number = int(rng.choice([s for s in others if s != getattr(code[n], field)]))
    return _changed(code, n, f"{field} {number}", **{field: number})


def _amount(i: Instruction, tokens: int, *, gives: bool) -> int:
    """Credits that an instruction gives or takes; 1 of a queue, for all its tiles."""
    if gives and isinstance(i, SyncInstruction):
        return i.count
    if not gives and i.wait_count:
        return i.wait_count
    once = isinstance(i, Load | Fetch) or (gives and isinstance(i, Store))
    if once or (isinstance(i, Gemm) and (i.use_queue or (i.mode == Destination.GATE and gives))):
        return 1
    rows = {Norm: "tokens", Gemm: "tokens", Attention: "queries", Store: "rows"}
    return -(-getattr(i, rows[type(i)]) // tokens) if type(i) in rows else 0


def _pair(rng: np.random.Generator, program: Program, code: Code) -> tuple[Code, str] | None:
    """Credits of one instruction that another one takes, and the wait for them.

    All others are given and taken as before, so that only the order of the two is lost.
    """
    tokens = program.config.array.tokens
    held: dict[int, list[list[int]]] = {}
    pairs = []
    for n, i in enumerate(code):
        needed = _amount(i, tokens, gives=False) if i.wait else 0
        wanted = needed
        while needed and held.get(i.wait):
            group = held[i.wait][0]
            used = min(needed, group[1])
            whole = _amount(code[group[0]], tokens, gives=True) == used
            if (whole or isinstance(code[group[0]], SyncInstruction)) and (
                used == wanted or i.wait_count
            ):
                pairs.append((group[0], n, used))
            needed -= used
            group[1] -= used
            if not group[1]:
                held[i.wait].pop(0)
        if i.signal:
            held.setdefault(i.signal, []).append([n, _amount(i, tokens, gives=True)])
    if not pairs:
        return None
    g, t, used = pairs[int(rng.integers(len(pairs)))]
    found, giver, taker = list(code), code[g], code[t]
    if isinstance(giver, SyncInstruction):
        count = giver.count - used
        found[g] = replace(giver, count=count, signal=giver.signal if count else 0)
    else:
        found[g] = replace(giver, signal=0)
    count = max(taker.wait_count - used, 0)
    found[t] = replace(taker, wait_count=count, wait=taker.wait if count else 0)
    return found, f"no credit of {_name(code, g)} for {_name(code, t)}"


_ADDRESSES: dict[type[Instruction], dict[str, str]] = {
    Load: {"target": "by kind"},
    Norm: {"source": "X", "target": "A", "params": "N"},
    Gemm: {"source": "A", "target": "by mode"},
    Attention: {"source": "A", "target": "A", "k_base": "KV", "v_base": "KV"},
    Store: {"source": "by kind"},
}


def _memory(i: Instruction, field: str) -> str:
    """Which memory an address field points into, as :class:`Region` names it."""
    memory = _ADDRESSES[type(i)][field]
    if isinstance(i, Load):
        return ("A", "X", "N", "A")[i.kind]
    if isinstance(i, Store):
        return "X" if i.residual else "A"
    if memory == "by mode":
        assert isinstance(i, Gemm)
        if i.mode == Destination.GATE:
            return ""
        return "X" if i.mode in TO_RESIDUAL else "KV" if i.mode in TO_KEY_VALUE else "A"
    return memory


def _address(rng: np.random.Generator, _: Program, code: Code) -> tuple[Code, str] | None:
    """An address a word or row away."""
    n = _pick(rng, code, lambda i: type(i) in _ADDRESSES)
    if n is None:
        return None
    i, by = code[n], int(rng.choice([-1, 1]))
    field = str(rng.choice(list(_ADDRESSES[type(i)])))
    if isinstance(i, Gemm) and i.mode == Destination.GATE:
        field = "source"
    return _changed(code, n, f"{field} {by:+d}", **{field: getattr(i, field) + by})


def _region(rng: np.random.Generator, program: Program, code: Code) -> tuple[Code, str] | None:
    """A region of the memory plan a word away, wherever it is used."""
    regions = [r for r in program.regions if r.size]
    region = regions[int(rng.integers(len(regions)))]
    by = int(rng.choice([-1, 1]))
    found, count = list(code), 0
    for n, i in enumerate(code):
        for field in _ADDRESSES.get(type(i), {}):
            at = getattr(i, field)
            if _memory(i, field) == region.memory and region.base <= at < region.end:
                try:
                    found[n] = replace(found[n], **{field: at + by})
                except ValueError:
                    return None
                count += 1
    return (found, f"region {region.name} {by:+d}, {count} addresses") if count else None


def _rows(rng: np.random.Generator, program: Program, code: Code) -> tuple[Code, str] | None:
    """A tile more or less."""
    fields = {Norm: "tokens", Gemm: "tokens", Attention: "queries", Store: "rows"}
    n = _pick(rng, code, lambda i: type(i) in fields and not getattr(i, "use_queue", 0))
    if n is None:
        return None
    field = fields[type(code[n])]
    by = program.config.array.tokens * int(rng.choice([-1, 1]))
    return _changed(code, n, f"{field} {by:+d}", **{field: max(getattr(code[n], field) + by, 1)})


def _fetch(rng: np.random.Generator, _: Program, code: Code) -> tuple[Code, str] | None:
    """A FETCH, or a GEMM of fetched or kept weights, with a flag or queue changed."""
    n = _pick(rng, code, lambda i: isinstance(i, Fetch | Gemm))
    assert n is not None
    i = code[n]
    if isinstance(i, Fetch) or (i.use_queue and rng.random() < 0.5):  # type: ignore[attr-defined]
        return _changed(code, n, "queue + 1", queue=i.queue + 1)  # type: ignore[attr-defined]
    field = str(rng.choice(["keep", "demand"]))
    return _changed(code, n, f"{field} changed", **{field: 1 - getattr(i, field)})


KINDS: dict[str, Mistake] = {
    "wait dropped": _no_wait,
    "credit dropped": _no_signal,
    "credit and its wait dropped": _pair,
    "SYNC removed": _no_sync,
    "SYNC doubled": _two_syncs,
    "SYNC moved": _moved_sync,
    "other instruction moved": _moved_other,
    "count changed": _count,
    "other semaphore": _semaphore,
    "address shifted": _address,
    "region shifted": _region,
    "rows changed": _rows,
    "weights changed": _fetch,
}
"""Kinds of mistakes, by name."""


def mutants(
    program: Program, task: str, rng: np.random.Generator, kinds: Iterable[str] = KINDS
) -> Iterator[Mutant]:
    """One mutant of each kind that the program has room for."""
    code = program.instructions(task)
    for kind in kinds:
        made = KINDS[kind](rng, program, code)
        if made:
            changed = with_code(program, task, made[0])
            yield Mutant(kind=kind, what=made[1], task=task, program=changed)


# Judges ----------------------------------------------------------------------------------------
def judge(mutant: Mutant, image: Ints, want: Ints, seeds: Iterable[int]) -> Verdict:
    """Both judges on one frame of ``image``; ``want``: the result without the mistake.

    The first of the ``seeds`` that shows harm ends the search.
    """
    try:
        alarms = tuple(f.kind for _, f in verify(mutant.program).findings)
    except ValueError:  # not even a program
        alarms = ("file",)
    own = _run(mutant, image, None)
    harm = own if isinstance(own, str) else ""
    for seed in seeds if not harm else ():
        found = _run(mutant, image, seed)
        if isinstance(found, str):
            harm = f"seed {seed}: {found}"
        elif not np.array_equal(found, own):
            harm = f"seed {seed}: another result"
        if harm:
            break
    other = not isinstance(own, str) and not np.array_equal(own, want)
    return Verdict(alarms=alarms, harm=harm, other=other)


def _run(mutant: Mutant, image: Ints, seed: int | None) -> Ints | str:
    """The result in an order (None: the program's), or how it ended."""
    program, task = mutant.program, mutant.program.task(mutant.task)
    image_base = -(-len(program.memory) // _PAGE) * _PAGE
    output_base = image_base + -(-program.image.size // _PAGE) * _PAGE
    memory = np.full(output_base + program.output_bytes, 0xA5, np.uint8)
    memory[: len(program.memory)] = program.memory
    memory[image_base : image_base + program.image.size] = program.image.pack(image)
    bases: dict[str, Any] = {
        "program_base": task.base,
        "image_base": image_base,
        "output_base": output_base,
    }
    try:
        if seed is None:
            Interpreter(program.config).run(memory, **bases)
        else:
            run_interleaved(program.config, memory, seed=seed, **bases)
    except DeviceError as error:
        return f"{error.code.name}: {error}"
    except (ValueError, IndexError) as error:  # shapes that do not fit: rows of another matrix
        return f"{type(error).__name__}: {error}"
    output = task.output
    return output.unpack(memory[output_base + output.address :][: output.size])
