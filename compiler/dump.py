"""A frame after each pass, as text for people (`moevit compile --dump DIR`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .disasm import format_instruction
from .graph import Graph, Tensor
from .passes.channels import Credits, SyncOp, Take, channel_name
from .passes.emit import Code

__all__ = ["Dump", "after_credits", "after_emit", "after_place", "operations", "to_folder"]

Dump = Callable[[str, str, Iterator[str]], None]
"""Takes a frame's name, a pass, and the lines of what it left."""


def to_folder(folder: Path) -> Dump:
    """Writes ``FRAME.N-PASS.txt`` in a folder, which is made."""
    seen: dict[str, int] = {}

    def write(frame: str, name: str, lines: Iterator[str]) -> None:
        seen[frame] = number = seen.get(frame, 0) + 1
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}\n" for line in lines)
        (folder / f"{frame}.{number}-{name}.txt").write_text(text, encoding="utf-8")

    return write


def operations(graph: Graph) -> Iterator[str]:
    """Every operation, a line."""
    width = len(str(len(graph.ops)))
    for n, op in enumerate(graph.ops):
        yield f"{n:>{width}}  {op}"


def after_place(graph: Graph) -> Iterator[str]:
    """Tensors with their words, and the operations between which they are in use."""
    uses: dict[tuple[str, str, int, int], list[int]] = {}
    for n, op in enumerate(graph.ops):
        for operand in (*op.reads, *op.writes):
            uses.setdefault(_place(graph, operand.tensor), []).append(n)
    yield "memory  words            operations     tensor"
    for (memory, name, start, end), numbers in sorted(uses.items()):
        words, between = f"{start}..{end}", f"{numbers[0]}..{numbers[-1]}"
        yield f"{memory:<7} {words:<16} {between:<14} {name}"


def _place(graph: Graph, tensor: Tensor) -> tuple[str, str, int, int]:
    start = graph.regions[tensor.region] + tensor.offset
    return tensor.memory, tensor.name, start, start + len(tensor.rows) * tensor.pitch - 1


def after_credits(graph: Graph, credits: Sequence[Credits]) -> Iterator[str]:
    """Operations with what they take and give, and SYNCs between them."""
    width = len(str(len(graph.ops)))
    for n, (op, mine) in enumerate(zip(graph.ops, credits, strict=True)):
        yield from (f"{'':>{width}}  SYNC {_sync(sync)}" for sync in mine.before)
        words = [
            _take(mine.wait),
            f"give {channel_name(mine.signal.number)}" if mine.signal else "",
        ]
        yield f"{n:>{width}}  {op.note:<60} {', '.join(w for w in words if w)}".rstrip()
        yield from (f"{'':>{width}}  SYNC {_sync(sync)}" for sync in mine.behind)


def _take(take: Take | None) -> str:
    if take is None:
        return ""
    return f"take {'1 a tile' if take.tiles else take.count} {channel_name(take.channel.number)}"


def _sync(sync: SyncOp) -> str:
    words = [_take(sync.take), f"give 1 {channel_name(sync.signal.number)}" if sync.signal else ""]
    return ", ".join(word for word in words if word)


def after_emit(code: Code) -> Iterator[str]:
    """Instructions, and the blocks of the weight stream."""
    for n, item in enumerate(code.items):
        yield f"{n:>5}  {format_instruction(item.instruction):<100}  ; {item.note}"
    for n, block in enumerate(code.blocks):
        header = block.header
        yield f"block {n}: {header.param_rows} parameter rows, {header.weight_rows} weight rows"
