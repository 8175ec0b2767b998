"""Padding and packing: a network's tensors as rows of the on-chip memories.

A weight row feeds the array for one cycle: ``O`` outputs by ``I`` inputs, ``[o][i]``. An output
tile is ``depth`` such rows; a matrix is its output tiles in order. Padding is zero weights, zero
biases and zero multipliers, so padded channels are zero wherever they go.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np

from moevit.hw.checks import crc32
from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.image import BLOCK_NUMBERS, BlockHeader, pack_channels, pack_weights
from moevit.quant.network import Geometry, Network
from moevit.quant.operators.layernorm import LayerNorm
from moevit.quant.operators.linear import Linear
from moevit.quant.operators.rescale import Rescale

__all__ = [
    "Block",
    "Matrix",
    "Shapes",
    "ceil_div",
    "head_index",
    "pack_linear",
    "pack_norm",
    "pack_residual",
    "patch_index",
    "round_up",
]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Ints = np.ndarray[Any, np.dtype[Any]]


def ceil_div(value: int, divisor: int) -> int:
    """``value / divisor`` rounded up."""
    return -(-value // divisor)


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple of ``multiple`` that is at least ``value``."""
    return ceil_div(value, multiple) * multiple


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """A network's sizes in the units of one configuration's memories.

    A token's residual and its activations are padded to a multiple of ``I`` channels, every
    attention head to a multiple of ``I`` channels of its own.
    """

    config: AcceleratorConfig
    geometry: Geometry

    @property
    def tokens(self) -> int:
        """Tokens, class token included."""
        return self.geometry.tokens

    @property
    def tiles(self) -> int:
        """Tiles of T tokens."""
        return ceil_div(self.tokens, self.config.array.tokens)

    @property
    def chunks(self) -> int:
        """Activation words of a token: its depth as the input of a GEMM."""
        return ceil_div(self.geometry.dim, self.config.array.inputs)

    @property
    def norm_words(self) -> int:
        """The same where rows are stored: whole beats."""
        return self.stored_words(self.chunks * self.config.array.inputs)

    @property
    def words(self) -> int:
        """Residual words of a token, which is also its output tiles."""
        return self.chunks * self.config.array.inputs // self.config.array.outputs

    @property
    def head_chunks(self) -> int:
        """Activation words of one attention head."""
        return ceil_div(self.geometry.head_dim, self.config.array.inputs)

    @property
    def head_otiles(self) -> int:
        """Output tiles of one attention head."""
        return self.head_chunks * self.config.array.inputs // self.config.array.outputs

    @property
    def attention_chunks(self) -> int:
        """Activation words of a token's queries, and of its attention output."""
        return self.geometry.heads * self.head_chunks

    @property
    def key_tiles(self) -> int:
        """Tiles of O keys."""
        return ceil_div(self.tokens, self.config.array.outputs)

    @property
    def mean_words(self) -> int:
        """Activation words that the mean of the patches takes: its query and itself."""
        return 2 * self.attention_chunks

    @property
    def value_pitch(self) -> int:
        """Value rows of an output tile: chunks of I keys."""
        return ceil_div(self.tokens, self.config.array.inputs)

    @property
    def key_pitch(self) -> int:
        """Key rows of a head."""
        return self.key_tiles * self.head_chunks

    @property
    def value_rows(self) -> int:
        """Value rows of a head."""
        return self.head_otiles * self.value_pitch

    def norm_rows(self, number: int) -> range:
        """Parameter rows of norm slot ``number``."""
        return range(number * self.words, (number + 1) * self.words)

    @property
    def patch_bytes(self) -> int:
        """Bytes of one pixel row of a patch in memory, padded to what is written at a time."""
        return round_up(self.geometry.patch * self.geometry.channels, self.config.piece_bytes)

    @property
    def patch_chunks(self) -> int:
        """Activation words of a patch's pixels."""
        return ceil_div(self.patch_bytes * self.geometry.patch, self.config.array.inputs)

    @property
    def image_pitch(self) -> int:
        """Bytes from one pixel row of the image in memory to the next."""
        return round_up(self.geometry.grid[1] * self.patch_bytes, BEAT_BYTES)

    def hidden_chunks(self, hidden: int) -> int:
        """Activation words of ``hidden`` int8 channels."""
        return ceil_div(hidden, self.config.array.inputs)

    def stored_words(self, size: int) -> int:
        """Activation words of a row of ``size`` bytes that a STORE takes (whole beats)."""
        inputs = self.config.array.inputs
        return round_up(size, inputs * BEAT_BYTES // gcd(inputs, BEAT_BYTES)) // inputs


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """What one GEMM takes from the rings.

    ``params``: ``(output tiles, bytes of a parameter row)``; ``weights``: ``(rows, row bytes)``.
    ``packed``: in memory two weights share a byte.
    """

    params: Bytes
    weights: Bytes
    packed: bool = False

    @property
    def header(self) -> BlockHeader:
        """What stands in front of the block in the stream."""
        return BlockHeader(
            param_rows=len(self.params), weight_rows=len(self.weights), packed=self.packed
        )

    def striped(self, config: AcceleratorConfig, *, number: int | None = None) -> Bytes:
        """Bytes of every port ``(ports, n)``: shares of the rows, in a stream behind a header.

        ``number``: of the block in its stream; None where there is no header.
        """
        ports = config.memory.ports
        parts = []
        for rows in (self.params, pack_weights(self.weights) if self.packed else self.weights):
            share = rows.reshape(len(rows), ports, -1)  # (rows, ports, bytes of a share)
            parts.append(share.swapaxes(0, 1).reshape(ports, -1))
        shares = np.concatenate(parts, axis=1)
        if number is None:
            return shares
        headers = [
            replace(self.header, number=number % BLOCK_NUMBERS, check=crc32(share.tobytes()))
            for share in shares
        ]
        first = np.frombuffer(b"".join(h.encode() for h in headers), np.uint8)
        return np.concatenate([first.reshape(ports, -1), shares], axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """A linear layer as rows: weights ``(otiles, depth, bytes)``, params ``(otiles, bytes)``.

    ``packed``: the weights have 4 bits.
    """

    weights: Bytes
    params: Bytes
    packed: bool = False

    @property
    def otiles(self) -> int:
        """Output tiles of O channels."""
        return len(self.weights)

    @property
    def depth(self) -> int:
        """Weight rows of an output tile."""
        return int(self.weights.shape[1])

    def block(self, base: int, count: int) -> Block:
        """Output tiles ``base .. base + count``."""
        rows = self.weights[base : base + count]
        return Block(
            params=self.params[base : base + count],
            weights=rows.reshape(-1, rows.shape[-1]),
            packed=self.packed,
        )


def head_index(shapes: Shapes) -> Ints:
    """``(dim,)``: where each channel of a query, key or value lies when heads are padded."""
    g = shapes.geometry
    head, channel = np.divmod(np.arange(g.dim), g.head_dim)
    return head * (shapes.head_chunks * shapes.config.array.inputs) + channel


def patch_index(shapes: Shapes) -> Ints:
    """``(patch * patch * channels,)``: where each byte of a patch lies, its pixel rows padded."""
    g = shapes.geometry
    row, place = np.divmod(np.arange(g.patch * g.patch * g.channels), g.patch * g.channels)
    return row * shapes.patch_bytes + place


def pack_linear(
    linear: Linear,
    config: AcceleratorConfig,
    *,
    outputs: Ints | None = None,
    inputs: Ints | None = None,
    otiles: int = 0,
) -> Matrix:
    """Rows of a linear layer.

    ``outputs`` and ``inputs`` place its channels (default: in order, from 0); ``otiles`` asks for
    padding to at least that many output tiles.
    """
    array = config.array
    count, width = linear.shape
    rows = np.arange(count) if outputs is None else outputs
    columns = np.arange(width) if inputs is None else inputs
    otiles = max(otiles, ceil_div(int(rows[-1]) + 1, array.outputs))
    depth = ceil_div(int(columns[-1]) + 1, array.inputs)
    weights = np.zeros((otiles * array.outputs, depth * array.inputs), np.int8)
    weights[np.ix_(rows, columns)] = linear.weight
    split = weights.reshape(otiles, array.outputs, depth, array.inputs)
    params = np.zeros((otiles * array.outputs, pack_channels([0], [0], [0]).shape[1]), np.uint8)
    params[rows] = pack_channels(linear.bias, linear.mult, linear.shift)
    return Matrix(
        weights=np.ascontiguousarray(split.swapaxes(1, 2))
        .reshape(otiles, depth, config.row_bytes)
        .view(np.uint8),
        params=params.reshape(otiles, config.param_row_bytes),
        packed=linear.weight_bits == 4,
    )


def pack_norm(norm: LayerNorm | Rescale, shapes: Shapes) -> Bytes:
    """Parameter rows of a NORM ``(words, row bytes)``; padded channels have no gain."""
    config = shapes.config
    size = shapes.words * config.array.outputs
    full = [np.zeros(size, np.int64) for _ in range(3)]
    for target, source in zip(full, (norm.bias, norm.gain, norm.shift), strict=True):
        target[: shapes.geometry.dim] = source
    return pack_channels(*full).reshape(shapes.words, config.param_row_bytes)


def pack_residual(network: Network, shapes: Shapes) -> Bytes:
    """The embedding as residual words ``(tokens, bytes of a token)``."""
    size = shapes.words * shapes.config.array.outputs
    rows = np.zeros((shapes.tokens, size), "<i2")
    rows[:, : shapes.geometry.dim] = network.embedding
    return rows.view(np.uint8)
