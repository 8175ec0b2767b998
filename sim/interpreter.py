"""The instruction set's interpreter: golden at the level of programs.

It decodes a program's bytes as the device does and executes them with the operators' integer
references and its own address logic. Instructions run in program order, each as a whole; credits of
semaphores are counted, and an instruction that would wait for credits that nothing before it gives
is an error. That a program does not depend on this order is what ``sim/interleave.py`` shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from moevit.hw.checks import code_bytes, decode_code
from moevit.hw.config import AcceleratorConfig
from moevit.hw.image import HEADER_BYTES, PROGRAM_MAGIC, PROGRAM_VERSION, ProgramHeader
from moevit.hw.isa import (
    SEMAPHORES,
    Attention,
    Destination,
    Fetch,
    Gemm,
    Halt,
    Instruction,
    Load,
    Norm,
    Store,
    Sync,
    decode,
)
from moevit.hw.registers import Error
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.typing import Ints

from .engines import Bases, Engines, require
from .errors import DeviceError
from .memories import External, OnChip

__all__ = ["Frame", "Interpreter", "Outcome", "open_frame"]


@dataclass(kw_only=True)
class Outcome:
    """What a frame leaves besides its output.

    ``queues``: each expert's queue length, for each router GEMM in order. ``misses``: FETCHes that
    were carried out. ``empty_queues``: expert GEMMs skipped. ``credits``: what each semaphore has
    left, ``rows_left``: unused weight and parameter rows of the stream and the demand ring (all 0
    after a sound program).
    """

    queues: list[tuple[int, ...]] = field(default_factory=list)
    misses: int = 0
    empty_queues: int = 0
    credits: tuple[int, ...] = ()
    rows_left: tuple[int, ...] = ()

    @property
    def tokens_sent(self) -> tuple[int, ...]:
        """Tokens sent to each expert in the frame, all layers."""
        return tuple(sum(column) for column in zip(*self.queues, strict=True))


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A started frame: instructions fetched and decoded, the weight stream read."""

    code: list[tuple[bytes, bool]]
    chip: OnChip
    engines: Engines

    def instruction(self, n: int) -> Instruction:
        """Instruction ``n``, decoded; raises ``CODE`` and ``OPCODE``."""
        word, sound = self.code[n]
        if not sound:
            raise DeviceError(Error.CODE, f"instruction {n} is damaged", damage=n)
        try:
            return decode(word)
        except ValueError as error:
            raise DeviceError(Error.OPCODE, f"instruction {n}: {error}") from None


def open_frame(config: AcceleratorConfig, memory: Ints, bases: Bases, *, poison: int = 0) -> Frame:
    """Check the header, read the code and the weight stream into fresh memories."""
    external = External(memory)
    raw = external.read(bases.program, HEADER_BYTES).tobytes()
    try:
        header = ProgramHeader.decode(raw)
    except ValueError as error:
        raise DeviceError(
            Error.HEADER,
            f"{error} (a program begins with {PROGRAM_MAGIC:#010x}, version {PROGRAM_VERSION})",
        ) from None
    if header.config_hash != config.hash:
        raise DeviceError(
            Error.HASH, f"the program is for {header.config_hash:016x}, not {config.hash:016x}"
        )
    size = code_bytes(header.code_count)
    code = external.read(bases.program + header.code_offset, size).tobytes()
    chip = OnChip(config, poison)
    chip.stream(external, bases.program + header.stream_offset, header.stream_beats)
    return Frame(
        code=decode_code(code, header.code_count),
        chip=chip,
        engines=Engines(config, chip, external, bases),
    )


class Interpreter:
    """Executes programs for one configuration.

    >>> Interpreter(config).run(memory, program_base=0, image_base=1 << 20, output_base=1 << 21)
    ... # doctest: +SKIP
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config

    def run(
        self,
        memory: Ints,
        *,
        program_base: int,
        image_base: int,
        output_base: int,
        dial: Dial = AS_COMPILED,
        poison: int = 0,
        watch: Callable[[int, Instruction, OnChip], None] | None = None,
    ) -> Outcome:
        """One frame on ``memory`` (uint8), which receives the output.

        ``dial`` is what the frame's registers would hold. ``poison`` seeds the noise that
        the memories start with; ``watch`` is called after each instruction. Raises
        :class:`DeviceError` with the code that the device would report; what would hang the
        device is ``HANG``.
        """
        bases = Bases(program=program_base, image=image_base, output=output_base, dial=dial)
        frame = open_frame(self.config, memory, bases, poison=poison)
        run = _Run(self.config, frame)
        for n in range(len(frame.code)):
            instruction = frame.instruction(n)
            if isinstance(instruction, Halt):
                if n + 1 < len(frame.code):
                    raise DeviceError(Error.OPCODE, f"instruction {n}: HALT before the end")
                return run.outcome()
            try:
                run.execute(instruction)
            except DeviceError as error:
                kind = type(instruction).__name__.upper()
                raise DeviceError(
                    error.code, f"instruction {n} ({kind}): {error}", damage=error.damage
                ) from None
            if watch is not None:
                watch(n, instruction, frame.chip)
        raise DeviceError(Error.TRUNCATED, f"no HALT in {len(frame.code)} instructions")


class _Run:
    """One frame in program order."""

    def __init__(self, config: AcceleratorConfig, frame: Frame) -> None:
        self.config, self.chip, self.engines = config, frame.chip, frame.engines
        self.credits = [0] * SEMAPHORES
        self.done = Outcome()

    def outcome(self) -> Outcome:
        """The finished frame's outcome."""
        self.done.credits = tuple(self.credits)
        self.done.rows_left = (*self.chip.ring.left, *self.chip.demand.left)
        return self.done

    def execute(self, i: Instruction) -> None:
        """Take credits, do everything, give credits."""
        if isinstance(i, Gemm):
            self._gemm(i)
            return
        tiles = 1
        if isinstance(i, Norm | Store | Attention):
            rows = {Norm: "tokens", Store: "rows", Attention: "queries"}[type(i)]
            count = getattr(i, rows)
            require(count > 0, f"{rows} is 0")
            tiles = self._tiles(count)
        if isinstance(i, Attention):
            self.engines.check_attention(i)
        self._take(i, 0 if isinstance(i, Sync) else tiles)
        if isinstance(i, Load):
            self.engines.load(i)
        elif isinstance(i, Store):
            self.engines.store(i, np.arange(i.rows))
            tiles = 1
        elif isinstance(i, Norm):
            self.engines.norm(i, np.arange(i.tokens))
        elif isinstance(i, Attention):
            every, heads = np.arange(i.queries), np.arange(i.heads)
            q = self.engines.attention_read(i, every, heads)
            values = self.engines.attention_values(i, q, heads)
            self.engines.attention_write(i, every, values, heads)
        elif isinstance(i, Fetch):
            self.done.misses += self.engines.fetch(i)
        self._give(i, i.count if isinstance(i, Sync) else tiles)

    def _gemm(self, i: Gemm) -> None:
        engines = self.engines
        engines.check_gemm(i)
        count, ring = engines.length(i), engines.ring(i)
        if count == 0:
            self.done.empty_queues += 1
            if not i.demand and not i.keep:
                ring.matrix(i.otiles, i.depth)
                ring.release(i.otiles, i.depth)
            return
        tiles = self._tiles(count)
        self._take(i, tiles)
        rows = np.arange(count)
        x, targets = engines.gemm_read(i, rows), engines.gemm_targets(i, rows)
        engines.gemm_write(i, targets, x, ring.matrix(i.otiles, i.depth))
        if not i.keep:
            ring.release(i.otiles, i.depth)
        gate = i.mode == Destination.GATE
        if gate:
            engines.route(i)
            self.done.queues.append(tuple(len(q.tokens) for q in self.chip.queues))
        self._give(i, 1 if gate else tiles)

    def _tiles(self, rows: int) -> int:
        return -(-rows // self.config.array.tokens)

    def _take(self, i: Instruction, tiles: int) -> None:
        if not i.wait:
            return
        needed = i.wait_count or tiles
        if self.credits[i.wait] < needed:
            raise DeviceError(
                Error.HANG,
                f"waits for {needed} credits of semaphore {i.wait}, {self.credits[i.wait]} given",
            )
        self.credits[i.wait] -= needed

    def _give(self, i: Instruction, count: int) -> None:
        if i.signal:
            self.credits[i.signal] += count
