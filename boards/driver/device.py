"""The accelerator of a board: identity, programs, frames, errors, counters.

>>> with Accelerator(transport) as accelerator:  # doctest: +SKIP
...     accelerator.load(Program.load("programs/nano.moevit"))
...     result = accelerator.run(image, "depth")

Three frames may be in flight: one runs, the next waits in the hardware, which begins it without
asking, and the image of a third is put into memory. Frames end in the order in which they were
submitted, and may be of different tasks.

The hardware says how many frames ended (FRAMES) and how the last of them did (ERROR). A frame that
fails takes the one that waits with it, which is started again; and since a START with CHAINED is
ignored by hardware that is idle, none begins behind a failure that was not seen yet.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

from moevit.hw.registers import (
    COUNTER_BASE,
    DEVICE_ID,
    DIAL,
    EXPERT_BASE,
    Control,
    Counter,
    Error,
    Register,
    Status,
    damaged,
)
from moevit.quant.dial import AS_COMPILED, Dial

from .errors import (
    DriverError,
    FrameError,
    IdentityError,
    TimeOutError,
    TransportError,
)
from .frames import Frame, Identity, Result, Slot
from .program import Program
from .transport import ADDRESSES, Buffer, Transport, check_reach

__all__ = ["Accelerator", "Frame", "Identity", "Result"]

STARTED = 2
"""Frames that the hardware is given: one that runs and one that waits."""

IN_FLIGHT = STARTED + 1
"""Frames that have buffers: those and one whose image is being written."""

_POISON = 0xA5  # where no output was written
_SLICES = 8  # of a time-out; after each the driver asks STATUS even if no interrupt came
_POLL_SECONDS = 20e-6  # between two looks at STATUS, without an interrupt
_GRACE_SECONDS = 1e-3  # in which an interrupt that STATUS was faster than must come
_ABORT_SECONDS = 0.05  # for ABORT
_QUIET_CYCLES = 3000  # in which memory answers what is in flight; beyond, the hardware gives up


class Accelerator:
    """One accelerator behind a transport, which it closes.

    Parameters
    ----------
    transport:
        How to reach it. A frame that somebody else left running is given up.
    time_out:
        Seconds for a frame, from its START.
    reach:
        End of the physical addresses that its memory ports reach.

    Raises
    ------
    IdentityError
        If something else answers at its address.
    TransportError
        If it does not answer, or cannot be made idle.
    """

    def __init__(
        self, transport: Transport, *, time_out: float = 2.0, reach: int = ADDRESSES
    ) -> None:
        if not time_out > 0:
            raise ValueError(f"time_out must be positive, not {time_out!r}")
        self.transport = transport
        self.time_out = time_out
        self.reach = min(reach, ADDRESSES)
        self.interrupts_lost = 0
        self.interrupts_early = 0
        self.resets = 0
        self._program: Program | None = None
        self._memory: Buffer | None = None
        self._slots: list[Slot] = []
        self._free: list[Slot] = []
        self._running: deque[Frame] = deque()
        self._ready: deque[Frame] = deque()
        self._ended = 0  # FRAMES, as far as seen
        try:
            self.identity = self._identify()
            self._make_idle()
        except BaseException:
            transport.close()
            raise

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives frames in flight up, and the board back."""
        try:
            if self._running:
                with contextlib.suppress(DriverError):
                    self.cancel()
            self._drop_buffers()
        finally:
            self.transport.close()

    # Identity ----------------------------------------------------------------------------------
    def _identify(self) -> Identity:
        found = self.transport.read(Register.ID)
        if found != DEVICE_ID:
            raise IdentityError(
                f"wrong bitstream: register ID of {self.transport.name} reads {found:#010x}, "
                f"expected {DEVICE_ID:#010x}"
            )
        low, high = (self.transport.read(r) for r in (Register.HASH_LOW, Register.HASH_HIGH))
        return Identity(
            isa_version=self.transport.read(Register.VERSION), config_hash=high << 32 | low
        )

    @property
    def program(self) -> Program:
        """The loaded program; ``ValueError`` if there is none."""
        if self._program is None:
            raise ValueError("The device has no program; load one first")
        return self._program

    # Programs ----------------------------------------------------------------------------------
    def load(self, program: Program) -> None:
        """Puts a program into memory; frames in flight are given up.

        Raises ``IdentityError`` for one of another configuration, ``RoomError`` where memory is
        short. The program before is not loaded any more then.
        """
        if program.config_hash != self.identity.config_hash:
            raise IdentityError(
                f"the program is for configuration {program.config} "
                f"{program.config_hash:016x}, the bitstream on {self.transport.name} is "
                f"{self.identity.config_hash:016x}; load the bundle that the program came with"
            )
        self.cancel()
        self._drop_buffers()
        try:
            self._memory = self._allocate(len(program.memory), "program")
            for _ in range(IN_FLIGHT):
                image = self._allocate(program.image.size, "image")
                try:
                    output = self._allocate(program.output_bytes, "output")
                except BaseException:
                    image.close()
                    raise
                self._slots.append(Slot(image, output))
        except BaseException:
            self._drop_buffers()
            raise
        self._memory.array[: len(program.memory)] = program.memory
        self._memory.to_device()
        self._free = list(self._slots)
        self._program = program
        self._write(Register.IRQ_ENABLE, int(self.transport.interrupt))

    def _allocate(self, count: int, what: str) -> Buffer:
        buffer = self.transport.allocate(count, what)
        try:
            check_reach(buffer.address, count, what, self.reach)
        except BaseException:
            buffer.close()
            raise
        return buffer

    def _drop_buffers(self) -> None:
        self._program = None
        for slot in self._slots:
            slot.image.close()
            slot.output.close()
        if self._memory is not None:
            self._memory.close()
        self._memory, self._slots, self._free = None, [], []

    # Frames ------------------------------------------------------------------------------------
    def run(
        self, image: Any, task: str, *, dial: Dial = AS_COMPILED, counters: bool = True
    ) -> Result:
        """One image ``(height, width, channels)`` uint8 under one task, or under ``ALL``."""
        return self.submit(image, task, dial=dial, counters=counters).result()

    def submit(
        self, image: Any, task: str, *, dial: Dial = AS_COMPILED, counters: bool = False
    ) -> Frame:
        """Puts a frame in flight; waits for the oldest one if there are two already.

        ``dial``: fewer experts a token, for this frame alone (:meth:`Dial.of`). ``counters``: read
        all of them at its end, not only the cycles; 16 register reads and one
        for each expert. Raises ``ValueError`` for an image of another shape, an unknown task, a
        dial that asks for more than was compiled, or no program.
        """
        begun = self.transport.now()
        program = self.program
        entry = program.entry(task)
        dial.check(program.dial)
        pixels = program.image.pack(image)
        while not self._free:
            self._finish_oldest()
        slot = self._free.pop()
        frame = Frame(task, dial, self, slot, begun, counters)
        slot.image.array[: len(pixels)] = pixels
        slot.image.to_device()
        for about in entry.outputs.values():  # nothing may be left from before
            slot.output.array[about.address :][: about.size] = _POISON
            slot.output.to_device(about.address, about.size)
        self._ready.append(frame)
        self._start_ready()
        return frame

    def _start_ready(self) -> None:
        """Gives the hardware what it has room for: nothing behind a frame with ``counters``."""
        while self._ready and len(self._running) < STARTED:
            if self._running and self._running[-1]._everything:
                return
            chained = bool(self._running)
            frame = self._ready.popleft()
            slot, memory = frame._slot, self._memory
            assert slot is not None and memory is not None
            base = self.program.entry(frame.task).base
            self._write(Register.PROGRAM_BASE, memory.address + base)
            self._write(Register.IMAGE_BASE, slot.image.address)
            self._write(Register.OUTPUT_BASE, slot.output.address)
            for register, field in DIAL.items():
                self._write(register, getattr(frame.dial, field))
            self._write(Register.CONTROL, 1 << Control.START | chained << Control.CHAINED)
            self._running.append(frame)

    def _start_again(self) -> None:
        """What the hardware has dropped, or never taken, and what is ready."""
        self._ready.extendleft(reversed(self._running))
        self._running.clear()
        self._start_ready()

    def _settle(self, frame: Frame) -> None:
        while not frame.finished:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        """At least the oldest frame to its end, which is its result or its error."""
        frame = self._running[0]
        try:
            count, code, cycles = self._wait(frame)
        except BaseException as error:
            self._running.remove(frame)
            self._fail(frame, error)
            if not isinstance(error, DriverError):  # Ctrl-C
                self._make_idle()
                self._start_again()
                raise
            self._start_again()
            return
        ended = [self._running.popleft() for _ in range(count)]
        last = ended.pop() if code else None
        where = damaged(code, self._read(Register.DAMAGE)) if code else ""
        counters = self._counters(ended[-1]) if ended and not code else None
        self._write(Register.CONTROL, 1 << Control.CLEAR_IRQ)
        if code == Error.HANG:  # answers of this frame may still be under way
            self._reset()
        if code or not (self._busy() or self._news()):
            self._start_again()
        self._start_ready()  # before outputs are fetched: the next frame runs meanwhile
        for n, frame in enumerate(ended, 1):
            known = cycles if n == count else None
            self._fetch(frame, known, counters if n == count else None)
        if last is not None:
            meaning = Error(code).meaning if code in list(Error) else "for a reason unknown here"
            text = f"task {last.task}: {meaning} (error {code}){where and ': '}{where}"
            self._fail(last, FrameError(code, text))

    def _fetch(self, frame: Frame, cycles: int | None, counters: Any) -> None:
        slot = frame._slot
        assert slot is not None
        outputs = {}
        for task, about in self.program.entry(frame.task).outputs.items():
            slot.output.to_host(about.address, about.size)
            outputs[task] = about.unpack(slot.output.array[about.address :][: about.size])
        seconds = self.transport.now() - frame._begun
        values, tokens = counters or (None, None)
        frame._result = Result(outputs, cycles, seconds, values, tokens)
        self._release(frame)

    def _fail(self, frame: Frame, error: BaseException) -> None:
        frame._error = error
        self._release(frame)

    def _release(self, frame: Frame) -> None:
        if frame._slot is not None:
            self._free.append(frame._slot)
            frame._slot = None

    def _wait(self, frame: Frame) -> tuple[int, int, int]:
        """Until the oldest frame has ended; see :meth:`_look`."""
        transport = self.transport
        deadline = transport.now() + self.time_out
        step = self.time_out / _SLICES if transport.interrupt else _POLL_SECONDS
        came = waited = False
        while not self._news():
            self.interrupts_early += came
            if not (self._busy() or self._news()):
                raise TransportError(
                    f"task {frame.task}: the accelerator is idle and has no result; "
                    "was it configured again meanwhile?"
                )
            left = deadline - transport.now()
            if left <= 0:
                self._make_idle()
                raise TimeOutError(
                    f"task {frame.task} did not end within {self.time_out:g} s and was cancelled"
                )
            came, waited = transport.wait(min(left, step)), True
        if transport.interrupt and waited and not came and not transport.wait(_GRACE_SECONDS):
            self.interrupts_lost += 1
        return self._look()

    def _busy(self) -> int:
        return self._read(Register.STATUS) >> Status.BUSY & 1

    def _news(self) -> bool:
        """Whether frames ended since the last look."""
        return self._read(Register.FRAMES) != self._ended

    def _look(self) -> tuple[int, int, int]:
        """Frames that ended since the last look; error and cycles of the last one, all of one
        moment. ERROR holds until the next START of idle hardware, which is ours."""
        while True:
            frames = self._read(Register.FRAMES)
            error = self._read(Register.ERROR)
            cycles = self._read(COUNTER_BASE + 4 * Counter.CYCLES)
            if self._read(Register.FRAMES) == frames:
                count = (frames - self._ended) % 2**32
                self._ended = frames
                return count, error, cycles

    def _counters(self, frame: Frame) -> tuple[dict[Counter, int], tuple[int, ...]] | None:
        """All of the last frame, where they are wanted: no other one runs behind it then."""
        if not frame._everything:
            return None
        values = {c: self._read(COUNTER_BASE + 4 * c) for c in Counter}
        return values, tuple(self._read(EXPERT_BASE + 4 * e) for e in range(self.program.experts))

    # Giving up ---------------------------------------------------------------------------------
    def cancel(self) -> None:
        """Gives all frames in flight up; each one's ``result`` raises ``FrameError`` ABORTED."""
        frames = [*self._running, *self._ready]
        self._running.clear()
        self._ready.clear()
        for frame in frames:
            frame._error = FrameError(Error.ABORTED, f"task {frame.task}: {Error.ABORTED.meaning}")
            self._release(frame)
        self._make_idle()

    def reset(self) -> None:
        """Configures the board again; frames in flight are given up, the program stays loaded."""
        self.cancel()
        self._reset()

    def _make_idle(self) -> None:
        """ABORT what runs; reset what does not answer that, or whose memory does not answer.

        The hardware waits for the answers in flight, but not for ever. What comes after that would
        be taken for the next frame's, so a board on which ABORT took that long is reset.
        """
        if self._read(Register.STATUS) >> Status.BUSY & 1:
            before = self._read(COUNTER_BASE + 4 * Counter.CYCLES)
            self._write(Register.CONTROL, 1 << Control.ABORT)
            deadline = self.transport.now() + _ABORT_SECONDS
            while self._read(Register.STATUS) >> Status.BUSY & 1:
                left = deadline - self.transport.now()
                if left <= 0:
                    self._reset()
                    return
                self.transport.wait(min(left, _POLL_SECONDS))
            passed = self._read(COUNTER_BASE + 4 * Counter.CYCLES) - before
            if passed & 0xFFFF_FFFF > _QUIET_CYCLES:
                self._reset()
                return
        self._ended = self._read(Register.FRAMES)
        self._write(Register.CONTROL, 1 << Control.CLEAR_IRQ)

    def _reset(self) -> None:
        self.transport.reset()
        self.resets += 1
        if self._identify() != self.identity:
            raise IdentityError(f"{self.transport.name}: another bitstream after the reset")
        if self._read(Register.STATUS) >> Status.BUSY & 1:
            raise TransportError(f"{self.transport.name}: still busy after a reset")
        self._ended = self._read(Register.FRAMES)
        self._write(Register.IRQ_ENABLE, int(self.transport.interrupt))

    def _read(self, offset: int) -> int:
        return self.transport.read(offset)

    def _write(self, offset: int, value: int) -> None:
        self.transport.write(offset, value)
