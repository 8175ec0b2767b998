"""Lowering of a transformer block: attention and the dense feed-forward part."""

from __future__ import annotations

from moevit.hw.isa import Attention, Destination, Sync
from moevit.quant.linear import GeluOutput
from moevit.quant.network import Block, Mlp

from .context import Context
from .emit import Semaphore, split

__all__ = ["gelu_fields", "lower_attention", "lower_dense"]


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

    Only the first of the three GEMMs waits for the norm, tile by tile: the loader reads in order,
    so the others find all tiles complete. Only queries signal: the epilogue writes in order, so
    keys and values are complete before the first query tile. Keys and values come first because
    they leave the activation memory to the norm, which is still writing.
    """
    code, s, plan, a = c.code, c.shapes, c.plan, block.attention
    name = f"block {index}"
    rows = {"source": plan.tokens.base, "stride": s.chunks, "tokens": s.tokens}
    keys = {"mode": Destination.KEY, "tile_pitch": s.head_chunks}
    keys["head_pitch"] = s.key_tiles * s.head_chunks
    values = {"mode": Destination.VALUE, "tile_pitch": s.value_pitch}
    values["head_pitch"] = s.head_otiles * s.value_pitch
    wait = int(Semaphore.TOKENS)
    for what, linear, base, fields in (
        ("keys", a.k, plan.keys.base, keys),
        ("values", a.v, plan.values.base, values),
    ):
        matrix = c.head_outputs(f"{name} {what}", linear)
        groups = split(matrix, c.config, demand=False, unit=s.head_otiles)
        for first, count in groups:  # whole heads, so that the target can move by heads
            code.gemm(
                matrix,
                f"{name} {what}",
                group=(first, count) if len(groups) > 1 else None,
                otile_base=0,
                target=base + first // s.head_otiles * fields["head_pitch"],
                head_otiles=s.head_otiles,
                wait=wait,
                **rows,
                **fields,
            )
            wait = 0
    code.gemms(
        c.head_outputs(f"{name} queries", a.q),
        f"{name} queries",
        mode=Destination.ACT8,
        target=plan.work.base,
        target_stride=s.attention_chunks,
        signal=Semaphore.QUERIES,
        **rows,
    )
    code.add(
        Attention(
            source=plan.work.base,
            stride=s.attention_chunks,
            chunks=s.head_chunks,
            heads=s.geometry.heads,
            queries=s.tokens,
            keys=s.tokens,
            k_base=plan.keys.base,
            k_pitch=keys["head_pitch"],
            v_base=plan.values.base,
            v_pitch=values["head_pitch"],
            v_otiles=s.head_otiles,
            v_tile_pitch=s.value_pitch,
            target=plan.tokens.base,
            target_stride=s.attention_chunks,
            score_mult=a.softmax.score.mult,
            score_shift=a.softmax.score.shift,
            out_mult=a.softmax.out.mult,
            out_shift=a.softmax.out.shift,
            wait=Semaphore.QUERIES,
            signal=Semaphore.ATTENDED,
        ),
        f"{name} attention",
    )
    if index == 0:  # the norms from here on read parameters that were loaded meanwhile
        code.add(Sync(wait=Semaphore.PARAMETERS, wait_count=1), "norm parameters complete")
    code.gemms(
        c.head_inputs(f"{name} projection", a.proj),
        f"{name} projection",
        source=plan.tokens.base,
        stride=s.attention_chunks,
        tokens=s.tokens,
        mode=Destination.RESIDUAL,
        target=plan.residual.base,
        target_stride=s.words,
        wait=Semaphore.ATTENDED,
        signal=Semaphore.RESIDUAL,
    )


def lower_dense(c: Context, index: int, mlp: Mlp, *, signal: int) -> None:
    """Two GEMMs through the hidden activations in ``work``; the second signals residual tiles."""
    s, name = c.shapes, f"block {index}"
    pitch = s.hidden_chunks(mlp.fc1.shape[0])
    c.code.gemms(
        c.matrix(f"{name} fc1", mlp.fc1),
        f"{name} fc1",
        source=c.plan.tokens.base,
        stride=s.chunks,
        tokens=s.tokens,
        target=c.plan.work.base,
        target_stride=pitch,
        wait=Semaphore.TOKENS,
        signal=Semaphore.HIDDEN,
        **gelu_fields(mlp.gelu),
    )
    c.code.gemms(
        c.matrix(f"{name} fc2", mlp.fc2),
        f"{name} fc2",
        source=c.plan.work.base,
        stride=pitch,
        tokens=s.tokens,
        mode=Destination.RESIDUAL,
        target=c.plan.residual.base,
        target_stride=s.words,
        wait=Semaphore.HIDDEN,
        signal=signal,
    )
