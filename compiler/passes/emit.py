"""Fifth pass: operations and their credits to instructions, and the weight stream's blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.isa import (
    Attention,
    Destination,
    Fetch,
    Gemm,
    Halt,
    Instruction,
    Load,
    LoadKind,
    Norm,
    Store,
    Sync,
)

from ..graph import Graph, Op
from ..plan.layout import Block, Bytes
from .channels import Channel, Credits, SyncOp, Take

__all__ = ["Code", "Item", "emit"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """An instruction, what it is for, and the pool entry that its ``address`` will point into."""

    instruction: Instruction
    note: str
    pool: str | None = None


@dataclass(frozen=True, kw_only=True)
class Code:
    """A frame's instructions, its stream, and what of the pool it needs."""

    config: AcceleratorConfig
    items: list[Item] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    pool: dict[str, Bytes] = field(default_factory=dict)


def emit(graph: Graph, credits: Sequence[Credits]) -> Code:
    """The finished program of an ordered graph."""
    code = Code(config=graph.config, pool=graph.pool)
    for op, mine in zip(graph.ops, credits, strict=True):
        code.items.extend(_syncs(mine.before))
        code.items.append(
            Item(instruction=_instruction(graph, op, mine), note=op.note, pool=op.table)
        )
        code.items.extend(_syncs(mine.behind))
        if op.weights is not None and op.weights.fresh:
            code.blocks.append(op.weights.block())
    code.items.append(Item(instruction=Halt(), note="end of the frame"))
    return code


def _syncs(syncs: list[SyncOp]) -> Iterator[Item]:
    for sync in syncs:
        fields = {**_wait(sync.take), **_signal(sync.signal)}
        if "wait" not in fields and sync.signal is None:
            continue
        words = []
        if sync.take is not None and "wait" in fields:
            words.append(f"{sync.take.channel.producer.name.lower()} ready")
        if sync.signal is not None:
            fields["count"] = 1
            words.append(f"{sync.signal.consumer.name.lower()} may go on")
        yield Item(instruction=Sync(**fields), note=", ".join(words))


def _wait(take: Take | None) -> dict[str, int]:
    if take is None or not (take.count or take.tiles):
        return {}
    return {"wait": take.channel.number, "wait_count": 0 if take.tiles else take.count}


def _signal(channel: Channel | None) -> dict[str, int]:
    return {} if channel is None else {"signal": channel.number}


def _instruction(graph: Graph, op: Op, credits: Credits) -> Instruction:
    fields = {**op.fields, **_wait(credits.wait), **_signal(credits.signal)}
    if op.queue is not None:
        fields["queue"] = op.queue
    return op.kind(**{**_BUILDERS[op.kind](graph, op), **fields})


def _load(graph: Graph, op: Op) -> dict[str, int]:
    target = op.writes[0]
    found = {"target": graph.address(target)}
    if op.fields["kind"] == LoadKind.PIXELS:
        found["stride"] = target.tensor.pitch
    elif op.reads:
        found["address"] = graph.address(op.reads[0]) * BEAT_BYTES
    return found


def _store(graph: Graph, op: Op) -> dict[str, int]:
    source, target = op.reads[0], op.writes[0]
    return {
        "source": graph.address(source),
        "stride": source.tensor.pitch,
        "words": len(source.words),
        "rows": op.rows,
        "address": graph.address(target) * BEAT_BYTES,
        "pitch": target.tensor.pitch * target.rows.step * BEAT_BYTES,
    }


def _norm(graph: Graph, op: Op) -> dict[str, int]:
    (source, parameters), target = op.reads, op.writes[0]
    return {
        "source": graph.address(source),
        "tokens": op.rows,
        "params": graph.address(parameters),
        "target": graph.address(target),
        "stride": target.tensor.pitch,
    }


def _gemm(graph: Graph, op: Op) -> dict[str, int]:
    if op.weights is None:
        raise AssertionError(f"{op.note}: a product without weights")
    source, target, mode = op.reads[0], op.writes[0], op.fields["mode"]
    found = {
        "source": graph.address(source),
        "stride": source.tensor.pitch,
        "depth": op.weights.matrix.depth,
        "otiles": len(op.weights.otiles),
        "tokens": 0 if op.queue is not None else op.rows,
    }
    if mode != Destination.GATE:
        found["target"] = graph.address(target)
    if mode not in (Destination.GATE, Destination.KEY, Destination.VALUE):
        found["target_stride"] = target.tensor.pitch
    return found


def _attention(graph: Graph, op: Op) -> dict[str, int]:
    (queries, keys, values), target = op.reads, op.writes[0]
    return {
        "source": graph.address(queries),
        "stride": queries.tensor.pitch,
        "queries": op.rows,
        "k_base": graph.address(keys),
        "k_pitch": keys.tensor.pitch,
        "v_base": graph.address(values),
        "v_pitch": values.tensor.pitch,
        "target": graph.address(target),
        "target_stride": target.tensor.pitch,
    }


def _fetch(graph: Graph, op: Op) -> dict[str, int]:
    return {}


_BUILDERS: dict[type[Instruction], Callable[[Graph, Op], dict[str, int]]] = {
    Load: _load,
    Store: _store,
    Norm: _norm,
    Gemm: _gemm,
    Attention: _attention,
    Fetch: _fetch,
}
