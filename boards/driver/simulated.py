"""A simulated board as a transport: the client of :mod:`moevit.boards.simulated`.

The server holds the verilated accelerator and its memory, and nothing of them is reached but
through the accelerator's AXI ports and the memory behind them. It goes on when a client dies, as a
board does. Time is the simulation's: cycles over the clock. The host's view of a buffer is a copy,
like a cache that never writes back by itself, so that a driver that forgets to flush fails here.

A request is ``OPERATION, a, b`` (``<IQQ``) and b bytes where the operation takes some; an answer is
``status, value`` (``<IQ``) and value bytes where it gives some, the text of an error among them.
"""

from __future__ import annotations

import json
import socket
import struct
from enum import IntEnum

import numpy as np

from .errors import RoomError, TransportError
from .transport import Buffer, Lock, Transport

__all__ = ["ANSWER", "REQUEST", "Operation", "Reply", "Simulated", "receive"]

REQUEST = struct.Struct("<IQQ")
ANSWER = struct.Struct("<IQ")


class Operation(IntEnum):
    """What a client may ask for."""

    ABOUT = 0
    """gives JSON: clock_mhz"""
    READ_REGISTER = 1
    """a: offset"""
    WRITE_REGISTER = 2
    """a: offset, b: value"""
    READ = 3
    """a: address, b: count; gives bytes"""
    WRITE = 4
    """a: address, b: count; takes bytes"""
    ALLOCATE = 5
    """a: count; the value is an address"""
    FREE = 6
    """a: address"""
    WAIT = 7
    """a: cycles; the value is 1 if the interrupt came"""
    CYCLE = 8
    """the value is the number of cycles so far"""
    RESET = 9


class Reply(IntEnum):
    """How it went."""

    DONE = 0
    BUS_ERROR = 1
    NO_ROOM = 2


_TAKES = frozenset({Operation.WRITE})
_GIVES = frozenset({Operation.ABOUT, Operation.READ})


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes; ``ConnectionError`` if the other side leaves before."""
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise ConnectionError("the other side has left")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


class Simulated(Transport):
    """The board that a server simulates behind the Unix socket ``path``.

    ``interrupt``: False to have the driver poll. Raises ``BusyError`` for the second process, and
    ``TransportError`` if there is no server.
    """

    clock = "simulated clock"

    def __init__(self, path: str, *, interrupt: bool = True) -> None:
        self.name = f"the simulated board {path}"
        self.interrupt = interrupt
        self._lock = Lock(f"{path}.lock", self.name)
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connection.connect(path)
            about = json.loads(self._ask(Operation.ABOUT)[1])
        except OSError as error:
            self.close()
            raise TransportError(f"{path}: {error.strerror or error}; is it running?") from None
        self._hz = about["clock_mhz"] * 1e6

    def _ask(self, what: Operation, a: int = 0, b: int = 0, data: bytes = b"") -> tuple[int, bytes]:
        try:
            self._connection.sendall(REQUEST.pack(what, a, b) + data)
            status, value = ANSWER.unpack(receive(self._connection, ANSWER.size))
            gives = status != Reply.DONE or what in _GIVES
            text = receive(self._connection, value) if gives else b""
        except OSError as error:
            raise TransportError(f"{self.name} has gone: {error}") from None
        if status != Reply.DONE:
            kind = RoomError if status == Reply.NO_ROOM else TransportError
            raise kind(f"{self.name}: {text.decode()}")
        return value, text

    def read(self, offset: int) -> int:
        return self._ask(Operation.READ_REGISTER, offset)[0]

    def write(self, offset: int, value: int) -> None:
        self._ask(Operation.WRITE_REGISTER, offset, value)

    def allocate(self, count: int, what: str) -> Buffer:
        try:
            address = self._ask(Operation.ALLOCATE, count)[0]
        except RoomError as error:
            raise RoomError(f"no room for the {what}: {error}") from None
        return _Copy(self, address, count)

    def wait(self, seconds: float) -> bool:
        came = self._ask(Operation.WAIT, max(1, round(seconds * self._hz)))[0]
        return bool(came) and self.interrupt

    def now(self) -> float:
        return self._ask(Operation.CYCLE)[0] / self._hz

    def reset(self) -> None:
        self._ask(Operation.RESET)

    def close(self) -> None:
        self._connection.close()
        self._lock.release()


class _Copy(Buffer):
    """The host's copy of bytes in the simulated memory."""

    def __init__(self, board: Simulated, address: int, count: int) -> None:
        self.array = np.zeros(count, np.uint8)
        self.address = address
        self._board = board

    def to_device(self, start: int = 0, count: int | None = None) -> None:
        data = self.array[start:][:count].tobytes()
        self._board._ask(Operation.WRITE, self.address + start, len(data), data)

    def to_host(self, start: int = 0, count: int | None = None) -> None:
        view = self.array[start:][:count]
        data = self._board._ask(Operation.READ, self.address + start, len(view))[1]
        view[:] = np.frombuffer(data, np.uint8)

    def close(self) -> None:
        self._board._ask(Operation.FREE, self.address)
