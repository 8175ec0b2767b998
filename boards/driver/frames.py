"""Frames of an accelerator: in flight, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from moevit.hw.registers import Counter
from moevit.quant.dial import Dial

from .transport import Buffer

if TYPE_CHECKING:
    from .device import Accelerator

__all__ = ["Frame", "Identity", "Result", "Slot"]

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Identity:
    """What the bitstream says of itself."""

    isa_version: int
    config_hash: int


@dataclass(frozen=True)
class Result:
    """A frame: integers ``(rows, columns)`` by task, and what it cost.

    ``cycles``: from START, or the end of the frame before if that was later, to done; None where
    the frame behind it ended before the driver looked. ``counters`` and ``expert_tokens``: None
    unless asked for.
    ``seconds``: from the call with the image to the integers, transfers included.
    """

    outputs: dict[str, Array]
    cycles: int | None
    seconds: float
    counters: dict[Counter, int] | None = None
    expert_tokens: tuple[int, ...] | None = None

    @property
    def output(self) -> Array:
        """The integers of a frame of one task."""
        (output,) = self.outputs.values()
        return output


@dataclass
class Slot:
    """Buffers of one frame."""

    image: Buffer
    output: Buffer


@dataclass
class Frame:
    """A frame in flight, of a task, with its dial."""

    task: str
    dial: Dial
    _owner: Accelerator = field(repr=False)
    _slot: Slot | None = field(repr=False)
    _begun: float = field(repr=False)
    _everything: bool = field(repr=False)
    _result: Result | None = field(default=None, repr=False)
    _error: BaseException | None = field(default=None, repr=False)

    @property
    def finished(self) -> bool:
        """Whether :meth:`result` returns or raises at once."""
        return self._result is not None or self._error is not None

    def result(self) -> Result:
        """Waits for the frame. Raises ``FrameError`` or ``TimeOutError`` where it was given up."""
        self._owner._settle(self)
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result
