"""A board behind a serial line (:mod:`.packets`), as a transport: the ULX3S and its USB bridge.

Needs pyserial. Every request is answered and checked by a CRC on both sides, and sent again where
no answer came or one was damaged. Before a large buffer is sent, the board is asked for the
checksums of what it has: after an interruption, and for a program that is still there, only what
differs is sent.
"""

from __future__ import annotations

import time
import zlib
from typing import Any

import numpy as np

from .errors import RoomError, TransportError
from .packets import (
    ANSWER,
    ANSWER_MAGIC,
    BEAT,
    GAP_S,
    MOST_BEATS,
    REQUEST,
    REQUEST_MAGIC,
    VERSION,
    Operation,
    Status,
    sealed,
    sound,
)
from .transport import PAGE, Buffer, Lock, Transport

__all__ = ["Serial"]

_TRIES = 8
_PACKET = BEAT * MOST_BEATS
_COMPARED = (64 * 1024, 8 * 1024)
"""Bytes whose checksum is asked for before they are sent; of what differs, those of parts."""


class Serial(Transport):
    """The accelerator behind ``port``: a device such as ``/dev/ttyUSB0``, or a URL of pyserial's.

    Parameters
    ----------
    port, bauds:
        The line. The board tells its own rate, which is only right if ``bauds`` is.
    time_out:
        Seconds without an answer after which a request is sent again.

    Raises ``BusyError`` for the second process, ``TransportError`` where no board answers.
    """

    interrupt = False

    def __init__(self, port: str, *, bauds: int = 3_000_000, time_out: float = 0.5) -> None:
        try:
            import serial
        except ImportError:
            raise TransportError("pyserial: not installed; expected it for a serial line") from None
        self.name = f"the board at {port}"
        self._failure = serial.SerialException
        self._lock = Lock(Lock.path(port.replace("/", "-").replace(":", "-")), self.name)
        self.resent = 0
        """Requests that were sent again."""
        self._sequence = 0
        try:
            self._line = serial.serial_for_url(port, baudrate=bauds, timeout=time_out)
        except (OSError, ValueError) as error:
            self._lock.release()
            raise TransportError(f"{port}: {error}") from None
        try:
            about = self._ask(Operation.HELLO, gives=16)
            version, self.hz, self.bauds, room = np.frombuffer(about, "<u4").tolist()
            if version != VERSION:
                raise TransportError(
                    f"{self.name}: speaks version {version} of the link, expected {VERSION}"
                )
        except BaseException:
            self.close()
            raise
        self._room = room
        self._taken: dict[int, int] = {}  # address to end

    # Requests ----------------------------------------------------------------------------------
    def _ask(
        self, what: Operation, address: int = 0, count: int = 1, data: bytes = b"", gives: int = 0
    ) -> bytes:
        """One request, until it is answered; what the board gives."""
        self._sequence = self._sequence % 255 + 1
        head = REQUEST.pack(REQUEST_MAGIC, what, self._sequence, count - 1, address)
        packet = sealed(head + data)
        trouble = "no answer"
        for attempt in range(_TRIES):
            if attempt:
                self.resent += 1
                time.sleep(2 * GAP_S)  # the board gives a broken request up
                self._line.reset_input_buffer()
            try:
                self._line.write(packet)
                answer = self._line.read(ANSWER.size + 4)
                if len(answer) == ANSWER.size + 4 and answer[1] == Status.DONE and gives:
                    answer += self._line.read(gives)
            except (OSError, self._failure) as error:
                raise TransportError(f"{self.name} has gone: {error}") from None
            if len(answer) < ANSWER.size + 4:
                continue
            magic, status, sequence, _ = ANSWER.unpack(answer[: ANSWER.size])
            whole = len(answer) == ANSWER.size + 4 + (gives if status == Status.DONE else 0)
            if not whole or not sound(answer) or magic != ANSWER_MAGIC:
                trouble = "damaged answers"
                continue
            if sequence != self._sequence or status == Status.DAMAGED:
                trouble = "damaged requests"
                continue
            if status == Status.REFUSED:
                raise TransportError(f"{self.name}: register {address:#x}: the access is refused")
            if status != Status.DONE:
                raise TransportError(f"{self.name}: does not know request {what.name}")
            return bytes(answer[ANSWER.size : -4])
        raise TransportError(
            f"{self.name}: {trouble} to {what.name} in {_TRIES} tries; is the bitstream loaded, "
            "and the line's rate the board's?"
        )

    def read(self, offset: int) -> int:
        return int.from_bytes(self._ask(Operation.READ_REGISTER, offset, gives=4), "little")

    def write(self, offset: int, value: int) -> None:
        self._ask(Operation.WRITE_REGISTER, offset, data=value.to_bytes(4, "little"))

    def checksum(self, address: int, count: int) -> int:
        """The CRC-32 of ``count`` bytes of the board's memory, a multiple of 16."""
        beats = (count // BEAT).to_bytes(4, "little")
        found = self._ask(Operation.CHECKSUM, address, data=beats, gives=4)
        return int.from_bytes(found, "little")

    def send(self, address: int, data: bytes) -> int:
        """Puts ``data`` into memory, what is not there already; returns the bytes sent."""
        return self._send(address, data, _COMPARED)

    def _send(self, address: int, data: bytes, compared: tuple[int, ...]) -> int:
        sent, size = 0, compared[0] if compared else _PACKET
        for low in range(0, len(data), size):
            at, part = address + low, data[low : low + size]
            if not compared:
                self._ask(Operation.WRITE, at, len(part) // BEAT, part)
                sent += len(part)
            elif len(part) <= _PACKET or self.checksum(at, len(part)) != zlib.crc32(part):
                sent += self._send(at, part, compared[1:])
        return sent

    def fetch(self, address: int, count: int) -> bytes:
        """``count`` bytes of memory; both multiples of 16."""
        parts = []
        for at in range(0, count, _PACKET):
            size = min(_PACKET, count - at)
            parts.append(self._ask(Operation.READ, address + at, size // BEAT, gives=size))
        return b"".join(parts)

    # A transport -------------------------------------------------------------------------------
    def allocate(self, count: int, what: str) -> Buffer:
        size = -(-count // PAGE) * PAGE
        begin = 0
        for address, end in sorted(self._taken.items()):
            if address - begin >= size:
                break
            begin = end
        if begin + size > self._room:
            raise RoomError(
                f"no room for the {what}: {count} bytes are wanted, the memory has {self._room}"
            )
        self._taken[begin] = begin + size
        return _Copy(self, begin, size, count)

    def wait(self, seconds: float) -> bool:
        time.sleep(min(seconds, 0.001))  # a look at STATUS takes as long
        return False

    def now(self) -> float:
        return time.monotonic()

    def reset(self) -> None:
        self._ask(Operation.RESET)

    def close(self) -> None:
        self._line.close()
        self._lock.release()


class _Copy(Buffer):
    """The host's copy of bytes in the board's memory; whole beats are moved."""

    def __init__(self, board: Serial, address: int, size: int, count: int) -> None:
        self._whole: Any = np.zeros(size, np.uint8)
        self.array = self._whole[:count]
        self.address = address
        self._board = board

    def _beats(self, start: int, count: int | None) -> tuple[int, int]:
        end = len(self._whole) if count is None else min(start + count, len(self._whole))
        return start // BEAT * BEAT, -(-end // BEAT) * BEAT

    def to_device(self, start: int = 0, count: int | None = None) -> None:
        first, end = self._beats(start, count)
        self._board.send(self.address + first, self._whole[first:end].tobytes())

    def to_host(self, start: int = 0, count: int | None = None) -> None:
        first, end = self._beats(start, count)
        if end > first:
            data = self._board.fetch(self.address + first, end - first)
            self._whole[first:end] = np.frombuffer(data, np.uint8)

    def close(self) -> None:
        self._board._taken.pop(self.address, None)
