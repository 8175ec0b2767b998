"""Lowering of a transformer block: attention and the dense feed-forward part."""

from __future__ import annotations

from dataclasses import dataclass

from moevit.hw import isa
from moevit.hw.isa import Destination, Sync
from moevit.quant.network import Attention, Block, Mlp, Moe
from moevit.quant.operators.linear import GeluOutput

from ..plan.norms import needed, used
from ..plan.tiling import Span, cut
from .context import Context
from .emit import Semaphore

__all__ = ["Rows", "attend", "gelu_fields", "lower_attention", "lower_dense", "lower_heads"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Norm outputs of tokens ``first`` and following: ``count`` rows from word ``base`` on."""

    base: int
    stride: int
    count: int
    first: int = 0


def gelu_fields(gelu: GeluOutput) -> dict[str, int]:
    """What a GEMM needs to pass its values through GELU."""
    return {
        "mode": Destination.GELU8,
        "mult": gelu.out.mult,
        "shift": gelu.out.shift,
        "zero_point": gelu.zero_point,
    }


def lower_attention(c: Context, index: int, block: Block) -> None:
    """Keys, values, queries, attention, projection; ``tokens`` holds the first norm's output.

    Heads whose keys and values fit the chip together are done together. Attention output replaces
    the norm's output, which has been read by then, or the queries, each by its own, where other
    heads still need it.
    """
    s, plan, a = c.shapes, c.plan, block.attention
    source = Rows(base=plan.tokens.base, stride=s.chunks, count=s.tokens)
    groups = cut(s.geometry.heads, plan.tiling.heads)
    target = plan.tokens if len(groups) == 1 else plan.work
    for heads in groups:
        rest = heads != groups[0]
        queries = plan.work.base + heads[0] * s.head_chunks
        lower_heads(
            c,
            index,
            a,
            heads,
            source,
            queries=queries,
            stride=s.attention_chunks,
            wait=0 if rest else Semaphore.TOKENS,
        )
        if heads == groups[-1]:
            used(c, 2 * index)
        attend(
            c,
            index,
            a,
            heads,
            queries=queries,
            target=target.base + heads[0] * s.head_chunks,
            stride=s.attention_chunks,
            signal=Semaphore.ATTENDED if heads == groups[-1] else Semaphore.NONE,
        )
    if index == 0:  # the norms from here on read parameters that were loaded meanwhile
        c.code.add(Sync(wait=Semaphore.PARAMETERS, wait_count=1), "norm parameters complete")
    needed(c, 2 * index + 1)
    if isinstance(block.mlp, Moe) and block.mlp.ahead is not None:
        c.code.add(Sync(wait=Semaphore.TOKENS, wait_count=s.tiles), "input for the gate complete")
    c.code.gemms(
        c.head_inputs(f"block {index} projection", a.proj),
        f"block {index} projection",
        source=target.base,
        stride=s.attention_chunks,
        tokens=s.tokens,
        mode=Destination.RESIDUAL,
        target=plan.residual.base,
        target_stride=s.words,
        wait=Semaphore.ATTENDED,
        signal=Semaphore.RESIDUAL,
    )


def lower_heads(
    c: Context,
    index: int,
    a: Attention,
    heads: tuple[int, int],
    source: Rows,
    *,
    queries: int,
    stride: int,
    wait: int,
    wait_count: int = 0,
) -> None:
    """Keys, values and queries of ``heads`` (first, count) from the rows of ``source``.

    Only the first of the GEMMs waits: the loader reads in order, so the others find all tiles
    complete. Only queries signal: the epilogue writes in order, so keys and values are complete
    before the first query tile. Keys and values come first because they leave the activation memory
    to the norm, which is still writing. ``queries`` is where the first row goes, rows ``stride``
    words apart.
    """
    code, s, plan, name = c.code, c.shapes, c.plan, f"block {index}"
    rows = {"source": source.base, "stride": source.stride, "tokens": source.count}
    once = {"wait": wait, "wait_count": wait_count}
    for what, linear, base, fields in (
        ("keys", a.k, plan.keys.base + source.first // s.config.array.outputs * s.head_chunks, {
            "mode": Destination.KEY, "tile_pitch": s.head_chunks, "head_pitch": s.key_pitch,
        }),
        ("values", a.v, plan.values.base + source.first // s.config.array.inputs, {
            "mode": Destination.VALUE, "tile_pitch": s.value_pitch, "head_pitch": s.value_rows,
        }),
    ):  # fmt: skip
        matrix = c.head_outputs(f"{name} {what}", linear)
        groups = c.head_groups(matrix, heads)
        for first, count in groups:  # whole heads, so that the target can move by heads
            code.gemm(
                matrix,
                f"{name} {what}",
                group=(first, count) if count < matrix.otiles else None,
                otile_base=0,
                target=base + (first // s.head_otiles - heads[0]) * fields["head_pitch"],
                head_otiles=s.head_otiles,
                **once,
                **rows,
                **fields,
            )
            once = {}
    matrix = c.head_outputs(f"{name} queries", a.q)
    groups = c.head_groups(matrix, heads)
    for group in groups:
        code.gemm(
            matrix,
            f"{name} queries",
            group=group if group[1] < matrix.otiles else None,
            otile_base=group[0] - heads[0] * s.head_otiles,
            mode=Destination.ACT8,
            target=queries,
            target_stride=stride,
            signal=Semaphore.QUERIES if group == groups[-1] else Semaphore.NONE,
            **rows,
        )


def attend(
    c: Context,
    index: int,
    a: Attention,
    heads: tuple[int, int],
    *,
    queries: int,
    target: int,
    stride: int,
    signal: int,
    wait_count: int = 0,
) -> None:
    """ATTENTION of ``heads`` for all tokens; queries and outputs lie ``stride`` words apart.

    ``wait_count``: all tiles of queries, where keys and values are made piece by piece: only the
    last query tile says that they are complete.
    """
    s, plan = c.shapes, c.plan
    which = "" if heads[1] == s.geometry.heads else f" of heads {heads[0]}..{sum(heads) - 1}"
    c.code.add(
        isa.Attention(
            source=queries,
            stride=stride,
            chunks=s.head_chunks,
            heads=heads[1],
            queries=s.tokens,
            keys=s.tokens,
            k_base=plan.keys.base,
            k_pitch=s.key_pitch,
            v_base=plan.values.base,
            v_pitch=s.value_rows,
            v_otiles=s.head_otiles,
            v_tile_pitch=s.value_pitch,
            target=target,
            target_stride=stride,
            score_mult=a.softmax.score.mult,
            score_shift=a.softmax.score.shift,
            out_mult=a.softmax.out.mult,
            out_shift=a.softmax.out.shift,
            wait=Semaphore.QUERIES,
            wait_count=wait_count,
            signal=signal,
        ),
        f"block {index} attention{which}",
    )


def lower_dense(c: Context, index: int, mlp: Mlp, span: Span, *, signal: int) -> None:
    """Two GEMMs through the hidden activations in ``work``; the second signals residual tiles."""
    s, name = c.shapes, f"block {index}"
    pitch = s.hidden_chunks(mlp.fc1.shape[0])
    c.code.gemms(
        c.matrix(f"{name} fc1", mlp.fc1),
        f"{name} fc1",
        source=span.tokens,
        stride=span.stride,
        tokens=span.count,
        target=span.work,
        target_stride=pitch,
        wait=Semaphore.TOKENS,
        signal=Semaphore.HIDDEN,
        **gelu_fields(mlp.gelu),
    )
    c.code.gemms(
        c.matrix(f"{name} fc2", mlp.fc2),
        f"{name} fc2",
        source=span.work,
        stride=pitch,
        tokens=span.count,
        mode=Destination.RESIDUAL,
        target=span.residual,
        target_stride=s.words,
        wait=Semaphore.HIDDEN,
        signal=signal,
    )
