"""A program as readable text: memory plan, expert schedule, every instruction with its shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moevit.hw.config import BEAT_BYTES
from moevit.hw.isa import (
    ACTIVATED,
    TO_KEY_VALUE,
    TO_RESIDUAL,
    Attention,
    Destination,
    Fetch,
    Gemm,
    Instruction,
    Load,
    LoadKind,
    Norm,
    Store,
    Sync,
)

from .passes.channels import channel_name
from .plan.schedule import ExpertSchedule
from .program import AllTasks, Program

__all__ = ["disassemble", "format_instruction", "format_schedule"]


def _credits(i: Instruction, *, each: str) -> str:
    """What an instruction takes and gives, in words."""
    parts = []
    if i.wait:
        amount = f"{i.wait_count}" if i.wait_count else each
        parts.append(f"take {amount} {channel_name(i.wait)}")
    if i.signal:
        amount = f"{i.count}" if isinstance(i, Sync) else each
        if isinstance(i, Store) or (isinstance(i, Gemm) and i.mode == Destination.GATE):
            amount = "1"
        parts.append(f"give {amount} {channel_name(i.signal)}")
    return ", ".join(parts)


def _load(i: Load) -> str:
    if i.kind == LoadKind.PIXELS:
        return (
            f"A[{i.target}+{i.stride}] <- image+{i.address:#x} {i.strips}x{i.patches} patches of "
            f"{i.patch_rows}x{i.patch_bytes} bytes, pitch {i.pitch}"
        )
    memory = {LoadKind.RESIDUAL: "X", LoadKind.ACTIVATION: "A", LoadKind.NORM: "N"}[
        LoadKind(i.kind)
    ]
    base = "output" if i.stored else "program"
    return f"{memory}[{i.target}] <- {base}+{i.address:#x} {i.beats * BEAT_BYTES} bytes"


def _gemm(i: Gemm) -> str:
    rows = f"queue {i.queue}" if i.use_queue else f"{i.tokens} rows"
    gathered = " gather" if i.gather else ""
    source = f"A[{i.source}+{i.stride}]{gathered}"
    if i.line or i.span:
        source += f" lines of {i.line or 'all'} in {i.source_line}"
    if i.span:
        source += f" spans of {i.span},"
    mode = i.mode
    name = Destination(mode).name if mode in tuple(Destination) else f"destination {mode}"
    tiles = f"{i.depth}x{i.otiles} tiles"
    flags = "".join(f" {name}" for name in ("demand", "keep") if getattr(i, name))
    where = f"+{i.target_stride}]"
    if mode == Destination.GATE:
        first = f" from {i.shift}" if i.shift else ""
        least = f", scores from {i.mult}" if i.mult else ""
        shared = " renormalised" if i.renormalise else ""
        enough = f", scores up to {i.target}" if i.target else ""
        target = f"queues of {i.experts}{first}, top {i.top_k}{shared}{least}{enough}"
    elif mode in TO_KEY_VALUE:
        target = (
            f"KV[{i.target}] heads of {i.head_otiles} tiles, pitch {i.tile_pitch}/{i.head_pitch}"
        )
    elif mode in TO_RESIDUAL:
        target = f"X[{i.target}{where}{' scatter' if i.scatter else ''}"
    else:
        target = f"A[{i.target}{where}"
    if i.line:
        target += f" in {i.target_line}"
    base = f" from tile {i.otile_base}" if i.otile_base else ""
    extra = f" *{i.mult}>>{i.shift}{i.zero_point:+d}" if mode in ACTIVATED else ""
    return f"{name} {target}{base} <- {source} {rows}, {tiles}{extra}{flags}"


def format_instruction(i: Instruction) -> str:
    """Mnemonic, shapes, addresses and semaphores of one instruction."""
    each = "1 a tile"
    if isinstance(i, Load):
        text, each = f"{LoadKind(i.kind).name} {_load(i)}", "1"
    elif isinstance(i, Norm):
        text = (
            f"A[{i.target}+{i.stride}] <- X[{i.source}] {i.tokens} rows of {i.dim} in {i.words} "
            f"words, parameters N[{i.params}], {'plain' if i.plain else f'eps {i.eps}'}"
        )
    elif isinstance(i, Gemm):
        text = _gemm(i)
    elif isinstance(i, Attention):
        text = (
            f"A[{i.target}+{i.target_stride}] <- A[{i.source}+{i.stride}] {i.queries} queries, "
            f"{i.keys} keys, {i.heads} heads of {i.chunks} words; K[{i.k_base}] V[{i.v_base}], "
            f"score *{i.score_mult}>>{i.score_shift}, out *{i.out_mult}>>{i.out_shift}"
        )
    elif isinstance(i, Store):
        memory = "X" if i.residual else "A"
        text = (
            f"output+{i.address:#x} <- {memory}[{i.source}+{i.stride}] {i.rows} rows of "
            f"{i.words} words, pitch {i.pitch}"
        )
    elif isinstance(i, Fetch):
        each = "1"
        text = (
            f"queue {i.queue} <- program+{i.address:#x} {i.param_rows} parameter rows, "
            f"{i.weight_rows} weight rows{' of 4 bits' if i.packed else ''}"
        )
    else:
        text = ""
    semaphores = _credits(i, each=each)
    name = type(i).__name__.upper()
    return f"{name:<9} {text}{' | ' if text and semaphores else ''}{semaphores}".rstrip()


def format_schedule(schedule: ExpertSchedule) -> str:
    """One line: streamed experts with tokens an image in calibration, then those on demand."""

    def listed(experts: Sequence[int]) -> str:
        return " ".join(f"{e}({schedule.usage[e]:.4g})" for e in experts) or "none"

    return (
        f"block {schedule.layer}: stream {listed(schedule.streamed)}; "
        f"on demand {listed(schedule.on_demand)}"
    )


def disassemble(program: Program, tasks: Sequence[str] | None = None) -> Iterator[str]:
    """Lines of the listing of ``tasks`` (default: all)."""
    config, image = program.config, program.image
    yield f"program for preset {config.name} ({config.hash:016x}), {len(program.memory)} bytes"
    size = f"{image.height} x {image.width} x {image.channels}"
    yield f"image {size} uint8, pitch {image.pitch} bytes"
    yield "memory plan (words or rows)"
    for region in program.regions:
        last = max(region.end - 1, region.base)
        yield f"  {region.memory:<2} {region.base:>6}..{last:<6} {region.name}"
    for name in program.tasks if tasks is None else tasks:
        entry, header = program.entry(name), program.header(name)
        stream = header.stream_beats * BEAT_BYTES * config.memory.ports
        outputs = entry.outputs if isinstance(entry, AllTasks) else {name: entry.output}
        blocks = program.blocks(name)
        narrow = sum(block.packed for block in blocks)
        yield ""
        yield (
            f"task {name} at {entry.base:#x}: {header.code_count} instructions, "
            f"stream of {stream} bytes in {len(blocks)} blocks ({narrow} of 4-bit weights), "
            f"{entry.useful_macs} useful MACs"
        )
        for task, out in outputs.items():
            yield (
                f"  result {task} at output+{out.address:#x}: {out.rows} x {out.columns} "
                f"int{8 * out.item_bytes}, pitch {out.pitch} bytes, scale {out.scale:.6g}"
            )
        for schedule in program.schedules(name):
            yield f"  {format_schedule(schedule)}"
        width = len(str(max(header.code_count - 1, 0)))
        for n, i in enumerate(program.instructions(name)):
            yield f"  {n:>{width}}  {format_instruction(i):<100}  ; {entry.notes[n]}"
