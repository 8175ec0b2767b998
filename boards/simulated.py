"""A board that is simulated: the verilated accelerator and its memory behind a Unix socket.

It outlives the drivers that use it, so that what a killed process leaves behind is left here too.
Drivers reach it by :class:`~.driver.simulated.Simulated`, from Python with or without moevit, and
from any machine's processes; the protocol is told there. The clock runs while a driver waits, and
some cycles at each register access.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any, Self

from moevit.hw.config import AcceleratorConfig
from moevit.sim.memory_timing import MemoryTiming
from moevit.sim.native import BusError, NativeSim
from moevit.sim.rtl import board_memory, build_simulator

from .driver.simulated import ANSWER, REQUEST, Operation, Reply, receive
from .driver.transport import PAGE

__all__ = ["SimulatedBoard"]

_BASE = 0x1000_0000
_EARLY_CYCLES = 100


class SimulatedBoard:
    """One accelerator with ``memory_bytes`` of contiguous memory, served while the block runs.

    Parameters
    ----------
    config:
        The build.
    path:
        The socket.
    timing:
        Of the memory; :func:`~moevit.sim.rtl.board_memory` by default.
    memory_bytes, base:
        The pool of which buffers are given, and where it begins.
    library:
        A simulator that was built already.

    Attributes
    ----------
    sim:
        The simulator, for bus errors and other timing.
    lose_interrupts:
        No interrupt comes while this is True.
    early_interrupts:
        The next so many waits end at once, as if one had come.
    registers:
        Values that registers read instead of their own: another bitstream.
    refused:
        Registers whose accesses are answered with an error.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        path: str | os.PathLike[str],
        *,
        timing: MemoryTiming | None = None,
        memory_bytes: int = 16 << 20,
        base: int = _BASE,
        library: Path | None = None,
    ) -> None:
        self.config = config
        self.path = Path(path)
        self.timing = timing or board_memory(config)
        self.lose_interrupts = False
        self.early_interrupts = 0
        self.registers: dict[int, int] = {}
        self.refused: set[int] = set()
        library = library or build_simulator(config)
        self.sim = NativeSim(library, base=base, memory_bytes=memory_bytes, timing=self.timing)
        self.sim.reset()
        self._pool = range(base, base + memory_bytes)
        self._taken: dict[int, tuple[int, int]] = {}  # address to end and client
        self._mutex = threading.Lock()
        self._clients: dict[int, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stopping = False

    def __enter__(self) -> Self:
        self._server.bind(str(self.path))
        self._server.listen()
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        with contextlib.suppress(OSError):  # wakes accept
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for client in list(self._clients.values()):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self.sim.close()
        self.path.unlink(missing_ok=True)

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while not self._stopping:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            number += 1
            self._clients[number] = client
            self._start(self._serve, client, number)

    def _serve(self, client: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), client:
            while True:
                what, a, b = REQUEST.unpack(receive(client, REQUEST.size))
                data = receive(client, b) if what == Operation.WRITE else b""
                with self._mutex:
                    status, value, answer = self._answer(Operation(what), a, b, data, number)
                client.sendall(ANSWER.pack(status, value) + answer)
        with self._mutex:  # memory goes with the process, as on a board
            self._taken = {at: t for at, t in self._taken.items() if t[1] != number}
        self._clients.pop(number, None)

    def _answer(
        self, what: Operation, a: int, b: int, data: bytes, client: int
    ) -> tuple[int, int, bytes]:
        try:
            if what in (Operation.READ, Operation.ABOUT):
                about = json.dumps({"clock_mhz": self.config.clock_mhz}).encode()
                text = about if what == Operation.ABOUT else self.sim.read(a, b)
                return Reply.DONE, len(text), text
            return Reply.DONE, self._do(what, a, b, data, client), b""
        except MemoryError as error:
            text, status = str(error).encode(), Reply.NO_ROOM
        except (BusError, ValueError) as error:
            text, status = str(error).encode(), Reply.BUS_ERROR
        return status, len(text), text

    def _do(self, what: Operation, a: int, b: int, data: bytes, client: int) -> int:
        sim = self.sim
        if what in (Operation.READ_REGISTER, Operation.WRITE_REGISTER) and a in self.refused:
            raise BusError(f"register {a:#x}: AXI response 2")
        if what == Operation.READ_REGISTER:
            value = sim.reg_read(a)
            return self.registers.get(a, value)
        if what == Operation.WRITE_REGISTER:
            sim.reg_write(a, b)
        elif what == Operation.WRITE:
            sim.write(a, data)
        elif what == Operation.ALLOCATE:
            return self._allocate(a, client)
        elif what == Operation.FREE:
            self._taken.pop(a, None)
        elif what == Operation.WAIT:
            return self._wait(a)
        elif what == Operation.RESET:
            sim.reset()
            sim.configure(self.timing)
        return sim.cycle

    def _wait(self, cycles: int) -> int:
        if self.early_interrupts:
            self.early_interrupts -= 1
            self.sim.run(min(cycles, _EARLY_CYCLES))
            return 1
        came = self.sim.run(cycles).interrupt
        return int(came and not self.lose_interrupts)

    def _allocate(self, count: int, client: int) -> int:
        at = self._pool.start
        for start, (end, _) in sorted(self._taken.items()):
            if start - at >= count:
                break
            at = end
        if self._pool.stop - at < count:
            raise MemoryError(
                f"{count:,} contiguous bytes are wanted, and {self._pool.stop - at:,} of "
                f"{len(self._pool):,} are free"
            )
        self._taken[at] = (-(-(at + count) // PAGE) * PAGE, client)
        return at
