"""The accelerator's memories as numpy arrays, with the checks that its address logic makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moevit.hw.checks import crc32
from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.image import BlockHeader, unpack_channels, unpack_weights
from moevit.hw.registers import DAMAGE_BITS, Error
from moevit.quant.typing import Ints

from .errors import DeviceError

__all__ = ["External", "OnChip", "Ring", "damage", "read_block_rows"]


def damage(block: int, port: int) -> int:
    """What DAMAGE reads for a port's block: its number, or its address in DAMAGE_UNIT bytes."""
    return block % (1 << DAMAGE_BITS) | port << DAMAGE_BITS


class External:
    """Memory behind the AXI ports: reads and writes outside it answer with an error."""

    def __init__(self, data: Ints) -> None:
        if data.dtype != np.uint8 or data.ndim != 1:
            raise ValueError(f"Memory must be 1-d uint8, not {data.ndim}-d {data.dtype}")
        self.data = data

    def read(self, address: int, size: int) -> Ints:
        """``size`` bytes (a view)."""
        if not 0 <= address <= address + size <= len(self.data):
            raise DeviceError(Error.READ, f"{size} bytes at {address:#x} lie outside the memory")
        return self.data[address : address + size]

    def write(self, address: int, content: Ints) -> None:
        """Bytes to ``address``."""
        if not 0 <= address <= address + len(content) <= len(self.data):
            raise DeviceError(
                Error.WRITE, f"{len(content)} bytes at {address:#x} lie outside the memory"
            )
        self.data[address : address + len(content)] = content


class Ring:
    """Weight and parameter rows in the order of arrival, with the reader's position.

    Rows are kept for the whole frame: a ring cannot overflow, since its writer waits for room.
    """

    def __init__(self, name: str, config: AcceleratorConfig, rows: int, params: int) -> None:
        self.name, self.rows, self.param_rows = name, rows, params
        self.weights = np.zeros((0, config.row_bytes), np.uint8)
        self.params = np.zeros((0, config.param_row_bytes), np.uint8)
        self.weight_at = self.param_at = 0
        self._shape = (config.array.outputs, config.array.inputs)

    def put(self, params: Ints, weights: Ints) -> None:
        """Rows arrive."""
        self.params = np.concatenate([self.params, params])
        self.weights = np.concatenate([self.weights, weights])

    def matrix(self, otiles: int, depth: int) -> tuple[Ints, Ints, Ints, Ints]:
        """Next rows: weights ``(otiles * O, depth * I)`` int8, bias, mult, shift of each channel.

        Raises ``HANG`` if the ring can never hold them, or they never come.
        """
        if otiles * depth > self.rows or otiles > self.param_rows:
            raise DeviceError(
                Error.HANG,
                f"{otiles * depth} weight rows and {otiles} parameter rows exceed the {self.name} "
                f"ring of {self.rows} and {self.param_rows}",
            )
        if not self.holds(otiles, depth):
            raise DeviceError(Error.HANG, f"the {self.name} ring has no more rows")
        weights = self.weights[self.weight_at : self.weight_at + otiles * depth]
        params = self.params[self.param_at : self.param_at + otiles]
        o, i = self._shape
        tiles = weights.view(np.int8).reshape(otiles, depth, o, i).swapaxes(1, 2)
        return (tiles.reshape(otiles * o, depth * i), *unpack_channels(params))

    def holds(self, otiles: int, depth: int) -> bool:
        """Whether these next rows have arrived."""
        weights, params = self.left
        return otiles * depth <= weights and otiles <= params

    def release(self, otiles: int, depth: int) -> None:
        """The reader is done with these rows."""
        self.weight_at += otiles * depth
        self.param_at += otiles

    @property
    def left(self) -> tuple[int, int]:
        """Weight and parameter rows that nobody has used."""
        return len(self.weights) - self.weight_at, len(self.params) - self.param_at


def read_block_rows(
    memory: External, config: AcceleratorConfig, addresses: Ints, block: BlockHeader
) -> tuple[Ints, Ints]:
    """Parameter rows, then weight rows, of which port p reads its share from ``addresses[p]``.

    Packed weights are unpacked: rows are as the rings hold them.
    """
    ports = config.memory.ports
    out = []
    offset = 0
    for rows, size in (
        (block.param_rows, config.param_row_bytes),
        (block.weight_rows, config.row_bytes >> block.packed),
    ):
        share = rows * size // ports
        parts = [memory.read(int(a) + offset, share).reshape(rows, -1) for a in addresses]
        out.append(np.concatenate(parts, axis=1))
        offset += share
    return out[0], unpack_weights(out[1]) if block.packed else out[1]


@dataclass(frozen=True, slots=True)
class TokenQueue:
    """An expert's tokens and their scores."""

    tokens: Ints
    scores: Ints


class OnChip:
    """Activation, residual, key/value and norm memories, rings and queues.

    Everything starts as noise from ``poison``, so that a word read before it was written shows.
    """

    def __init__(self, config: AcceleratorConfig, poison: int) -> None:
        rng = np.random.default_rng(poison)
        a, m = config.array, config.memory

        def noise(*shape: int) -> Ints:
            return rng.integers(0, 256, shape, np.uint8)

        self.config = config
        self.activations = noise(m.activation_words, a.inputs).view(np.int8)
        self.residual = noise(m.residual_words, 2 * a.outputs).view("<i2")
        self.kv = noise(m.kv_rows, config.row_bytes).view(np.int8)
        self.norm_params = noise(m.norm_rows, config.param_row_bytes)
        self.ring = Ring("weight", config, m.ring_rows, m.param_rows)
        self.demand = Ring("demand", config, m.demand_rows, m.demand_param_rows)
        none = np.zeros(0, np.int64)
        self.queues = [TokenQueue(none, none) for _ in range(config.limits.experts)]

    @staticmethod
    def span(memory: Ints, starts: Any, count: int) -> Ints:
        """Words ``starts[..., None] + 0..count-1``; raises ``ADDRESS`` outside the memory."""
        words = np.asarray(starts, np.int64)[..., None] + np.arange(count)
        if words.size and (words.min() < 0 or words.max() >= len(memory)):
            raise DeviceError(
                Error.ADDRESS, f"words {words.min()}..{words.max()} of a memory of {len(memory)}"
            )
        return words

    def scatter_bytes(self, memory: Ints, starts: Any, values: Ints) -> None:
        """Write ``values (..., n)`` to the bytes from ``starts (...)`` of an int8 memory."""
        flat = memory.reshape(-1)
        flat[self.span(flat, starts, values.shape[-1])] = values

    def stream(self, memory: External, address: int, beats: int) -> None:
        """Read the whole weight stream.

        Raises ``STREAM`` for a bad header or a block cut short, ``WEIGHTS`` for a damaged block.
        """
        config = self.config
        ports = np.arange(config.memory.ports) * beats * BEAT_BYTES + address
        params, weights, at = [], [], 0
        while at < beats:
            here = ports + at * BEAT_BYTES
            heads = [memory.read(int(a), BEAT_BYTES).tobytes() for a in here]
            try:
                headers = [BlockHeader.decode(head) for head in heads]
            except ValueError as error:
                raise DeviceError(Error.STREAM, f"beat {at} of the stream: {error}") from None
            block = headers[0]
            if any(replace(header, check=block.check) != block for header in headers):
                raise DeviceError(Error.STREAM, f"the ports differ at beat {at} of the stream")
            size = block.beats(config)
            if at + 1 + size > beats:
                raise DeviceError(Error.STREAM, f"the block at beat {at} exceeds the stream")
            for port, header in enumerate(headers):
                share = memory.read(int(here[port]) + BEAT_BYTES, size * BEAT_BYTES)
                if crc32(share.tobytes()) != header.check:
                    raise DeviceError(
                        Error.WEIGHTS,
                        f"block {header.number} of the stream of port {port} is damaged",
                        damage=damage(header.number, port),
                    )
            p, w = read_block_rows(memory, config, here + BEAT_BYTES, block)
            params.append(p)
            weights.append(w)
            at += 1 + size
        if params:
            self.ring.put(np.concatenate(params), np.concatenate(weights))
