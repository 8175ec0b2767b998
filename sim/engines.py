"""What each instruction does to the memories, for any of its rows: the text of ``hw/isa.py``.

Reading and writing are separate steps, so that a schedule may put other instructions between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moevit.hw.compute.norm_roots import DIM_BITS, longest_row
from moevit.hw.config import BEAT_BYTES, AcceleratorConfig
from moevit.hw.image import BlockHeader, unpack_channels
from moevit.hw.isa import (
    ACTIVATED,
    TO_KEY_VALUE,
    TO_RESIDUAL,
    TOKEN_BITS,
    WITH_LINES,
    Attention,
    Destination,
    Fetch,
    Gemm,
    Load,
    LoadKind,
    Norm,
    Store,
)
from moevit.hw.registers import Error
from moevit.quant.dial import AS_COMPILED, NEVER, Dial
from moevit.quant.formats import RESIDUAL, SCORE, VALUE, Multiplier, round_shift
from moevit.quant.operators.gate import Gate
from moevit.quant.operators.layernorm import LayerNorm
from moevit.quant.operators.linear import matmul, to_activation, to_key_value
from moevit.quant.operators.rescale import Rescale
from moevit.quant.operators.softmax import Softmax
from moevit.quant.typing import Ints

from .errors import DeviceError
from .memories import External, OnChip, Ring, TokenQueue, read_block_rows

__all__ = ["Bases", "Engines", "require"]

_PIXEL_OFFSET = 128
_UNWEIGHTED = 1 << SCORE.frac


def require(condition: bool, message: str) -> None:
    """Raise ``FIELD`` unless the condition holds."""
    if not condition:
        raise DeviceError(Error.FIELD, message)


def _lines(i: Gemm, rows: Ints, pitch: int) -> Ints:
    """Where rows lie whose lines are ``pitch`` rows apart; raises ``ADDRESS`` beyond 12 bits."""
    if not i.line:
        return rows
    y, c = np.divmod(rows, i.line)
    at: Ints = y * pitch + c
    if at.max(initial=0) >> TOKEN_BITS:
        raise DeviceError(Error.ADDRESS, f"GEMM of row {at.max()} of a map")
    return at


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases:
    """The device's base registers, and its dial."""

    program: int
    image: int
    output: int
    dial: Dial = AS_COMPILED


class Engines:
    """Executes instructions on ``chip`` and ``memory``; rows are numpy index arrays."""

    def __init__(
        self, config: AcceleratorConfig, chip: OnChip, memory: External, bases: Bases
    ) -> None:
        self.config, self.chip, self.memory, self.bases = config, chip, memory, bases
        self.logits: list[Ints] = []

    # Data engine -------------------------------------------------------------------------------
    def load(self, i: Load) -> None:
        """A whole LOAD."""
        self.load_write(i, self.load_read(i))

    def load_read(self, i: Load) -> Ints:
        """The bytes that a LOAD asks for; of pixels ``(rows, bytes of a row)``."""
        if i.kind == LoadKind.PIXELS:
            return self._pixels(i)
        require(i.beats > 0, "LOAD of no beats")
        require(i.address % BEAT_BYTES == 0, f"LOAD from {i.address:#x}")
        base = self.bases.output if i.stored else self.bases.program
        return self.memory.read(base + i.address, i.beats * BEAT_BYTES)

    def load_write(self, i: Load, data: Ints) -> None:
        """Their way to the chip."""
        chip = self.chip
        if i.kind == LoadKind.PIXELS:
            self._patches(i, data)
        elif i.kind in (LoadKind.RESIDUAL, LoadKind.ACTIVATION):
            memory: Ints = chip.residual if i.kind == LoadKind.RESIDUAL else chip.activations
            whole = len(data) % memory[0].nbytes == 0
            require(whole, f"LOAD of {i.beats} beats, no whole words")
            rows = data.view(memory.dtype).reshape(-1, memory.shape[1])
            memory[chip.span(memory, i.target, len(rows))] = rows
        else:  # the last row may be incomplete
            start = np.int64(i.target * self.config.param_row_bytes)
            chip.scatter_bytes(chip.norm_params, start, data)

    def _pixels(self, i: Load) -> Ints:
        require(min(i.strips, i.patches, i.patch_rows, i.patch_bytes) > 0, "LOAD of no pixels")
        piece = self.config.piece_bytes
        require(i.patch_bytes % piece == 0, f"LOAD of patch rows of {i.patch_bytes} bytes")
        require((i.address | i.pitch) % BEAT_BYTES == 0, "LOAD of pixels that are not aligned")
        height = i.strips * i.patch_rows
        base = self.bases.image + i.address
        width = i.patches * i.patch_bytes
        span = self.memory.read(base, (height - 1) * i.pitch + width)
        rows: Ints = span[np.arange(height)[:, None] * i.pitch + np.arange(width)]
        return rows

    def _patches(self, i: Load, rows: Ints) -> None:
        chip, inputs = self.chip, self.config.array.inputs
        pixels = rows.reshape(i.strips, i.patch_rows, i.patches, i.patch_bytes).astype(np.int16)
        patch = np.arange(i.strips)[:, None, None] * i.patches + np.arange(i.patches)
        y = np.arange(i.patch_rows)[:, None]
        starts = (i.target + patch * i.stride) * inputs + y * i.patch_bytes
        chip.scatter_bytes(chip.activations, starts, (pixels - _PIXEL_OFFSET).astype(np.int8))

    def store(self, i: Store, rows: Ints) -> None:
        """Rows of a STORE."""
        self.store_write(i, rows, self.store_read(i, rows))

    def store_read(self, i: Store, rows: Ints) -> Ints:
        """Bytes ``(rows, bytes of a row)`` that a STORE reads."""
        chip = self.chip
        source = chip.residual if i.residual else chip.activations
        require(i.words > 0, "STORE of no words")
        words = chip.span(source, i.source + rows * i.stride, i.words)
        data: Ints = np.ascontiguousarray(source[words]).view(np.uint8).reshape(len(rows), -1)
        require(data.shape[1] % BEAT_BYTES == 0, f"STORE of rows of {data.shape[1]} bytes")
        require((i.address | i.pitch) % BEAT_BYTES == 0, "STORE to rows that are not aligned")
        return data

    def store_write(self, i: Store, rows: Ints, data: Ints) -> None:
        """Their way to memory."""
        for r, row in zip(rows.tolist(), data, strict=True):
            self.memory.write(self.bases.output + i.address + r * i.pitch, row)

    # Norm engine -------------------------------------------------------------------------------
    def norm(self, i: Norm, rows: Ints) -> None:
        """Rows of a NORM."""
        self.norm_write(i, rows, self.norm_read(i, rows))

    def norm_read(self, i: Norm, rows: Ints) -> Ints:
        """Residuals ``(rows, words * O)``."""
        chip, width = self.chip, i.words * self.config.array.outputs
        require(0 < i.words <= longest_row(self.config), f"NORM of {width} channels")
        require(
            0 < i.dim <= min(width, (1 << DIM_BITS) - 1), f"NORM of {i.dim} of {width} channels"
        )
        words = chip.span(chip.residual, i.source + rows * i.words, i.words)
        x: Ints = chip.residual[words].reshape(len(rows), width)
        return x

    def norm_write(self, i: Norm, rows: Ints, x: Ints) -> None:
        """Parameters are read, activations written."""
        chip = self.chip
        params = chip.norm_params[chip.span(chip.norm_params, i.params, i.words)]
        bias, gain, shift = (p[: i.dim] for p in unpack_channels(params))
        gain = gain.astype(np.int16)
        norm: LayerNorm | Rescale = LayerNorm(gain=gain, bias=bias, shift=shift, eps=i.eps)
        if i.plain:
            norm = Rescale(gain=gain, bias=bias, shift=shift)
        y = np.zeros(x.shape, np.int8)  # padding has no gain
        y[:, : i.dim] = norm.compute(x[:, : i.dim])
        starts = (i.target + rows * i.stride) * self.config.array.inputs
        chip.scatter_bytes(chip.activations, starts, y)

    # Compute engine ----------------------------------------------------------------------------
    def ring(self, i: Gemm) -> Ring:
        """Where a GEMM's weights come from."""
        return self.chip.demand if i.demand else self.chip.ring

    def length(self, i: Gemm) -> int:
        """Rows of a GEMM."""
        return len(self.chip.queues[i.queue].tokens) if i.use_queue else i.tokens

    def check_gemm(self, i: Gemm) -> None:
        """Fields that the hardware checks before it starts."""
        limits = self.config.limits
        require(i.mode in tuple(Destination), f"GEMM of destination {i.mode}")
        require(i.otiles > 0 and i.depth > 0, "GEMM of no weights")
        require(i.depth * self.config.array.inputs <= limits.depth, f"GEMM of depth {i.depth}")
        if i.use_queue:
            require(i.queue < limits.experts, f"GEMM of queue {i.queue}")
        else:
            require(0 < i.tokens <= limits.tokens, f"GEMM of {i.tokens} tokens")
        if i.line or i.source_line or i.target_line or i.span:
            plain = not i.use_queue and i.mode in WITH_LINES
            require(plain, f"{Destination(i.mode).name} GEMM of lines or spans")
        if i.mode == Destination.GATE:
            end = i.shift + i.experts
            require(0 < i.experts and end <= limits.experts, f"GEMM of experts {i.shift}..{end}")
            require(i.mult <= SCORE.max, f"GEMM of scores from {i.mult}")
            require(i.target <= NEVER, f"GEMM of scores up to {i.target}")
            require(0 < i.top_k <= min(i.experts, limits.top_k), f"GEMM of top {i.top_k}")
            require(i.tokens <= limits.routed, f"router GEMM of {i.tokens} tokens")
            needed = -(-i.experts // self.config.array.outputs)
            require(i.otiles == needed, f"GEMM of {i.otiles} tiles of logits, not {needed}")

    def gemm_read(self, i: Gemm, rows: Ints) -> Ints:
        """Operands ``(rows, depth * I)``."""
        chip = self.chip
        at = _lines(i, rows, i.source_line)
        if i.use_queue and i.gather:
            at = chip.queues[i.queue].tokens[rows]
        spans, within = np.divmod(np.arange(i.depth), i.span or i.depth)
        words = i.source + at[:, None] * i.stride + spans * (i.source_line * i.stride) + within
        return chip.activations[chip.span(chip.activations, words, 1)].reshape(len(rows), -1)

    def gemm_targets(self, i: Gemm, rows: Ints) -> tuple[Ints, Ints]:
        """Destination row and score of each row."""
        if not i.use_queue:
            return _lines(i, rows, i.target_line), np.full(len(rows), _UNWEIGHTED)
        queue = self.chip.queues[i.queue]
        return queue.tokens[rows] if i.scatter else rows, queue.scores[rows]

    def gemm_write(
        self, i: Gemm, targets: tuple[Ints, Ints], x: Ints, matrix: tuple[Ints, Ints, Ints, Ints]
    ) -> None:
        """Multiply operands, requantise, write the destination; router logits are collected."""
        weights, bias, mult, shift = matrix
        values = VALUE.saturate(round_shift((matmul(x, weights) + bias) * mult, shift))
        array, chip = self.config.array, self.chip
        row, scores = targets
        if i.mode == Destination.GATE:
            self.logits = [] if row[0] == 0 else self.logits
            self.logits.append(values[:, : i.experts])
            return
        tiles = values.reshape(len(row), i.otiles, array.outputs)  # (rows, otiles, O)
        ct = i.otile_base + np.arange(i.otiles)
        if i.mode in TO_RESIDUAL:
            if i.mode == Destination.EXPERT:
                tiles = round_shift(tiles * scores[:, None, None], SCORE.frac)
            start = i.target + row * i.target_stride + i.otile_base
            words = chip.span(chip.residual, start, i.otiles)
            chip.residual[words] = RESIDUAL.saturate(chip.residual[words] + tiles)
        elif i.mode in TO_KEY_VALUE:
            self._keep_kv(i, row, ct, to_key_value(tiles))
        else:
            word = (i.target + row * i.target_stride)[:, None] * array.inputs
            if i.mode == Destination.ACT16:
                data = tiles.astype("<i2").view(np.int8)
                starts = word + 2 * ct * array.outputs
            else:
                starts = word + ct * array.outputs
                if i.mode in ACTIVATED:
                    out = Multiplier(mult=i.mult, shift=i.shift)
                    tiles = out.compute(ACTIVATED[Destination(i.mode)].compute(tiles))
                data = to_activation(tiles, i.zero_point)
            chip.scatter_bytes(chip.activations, starts, data.astype(np.int8))

    def _keep_kv(self, i: Gemm, row: Ints, ct: Ints, data: Ints) -> None:
        inputs, outputs = self.config.array.inputs, self.config.array.outputs
        require(i.head_otiles > 0, "GEMM of heads without output tiles")
        h, j = np.divmod(ct, i.head_otiles)
        at = row[:, None]
        if i.mode == Destination.KEY:
            wide = inputs // outputs  # output tiles in a row
            kv = i.target + h * i.head_pitch + at // outputs * i.tile_pitch + j // wide
            byte = at % outputs * inputs + j % wide * outputs
        else:
            kv = i.target + h * i.head_pitch + j * i.tile_pitch + at // inputs
            byte = at % inputs * outputs
        self.chip.scatter_bytes(
            self.chip.kv, kv * self.config.row_bytes + byte, data.astype(np.int8)
        )

    def route(self, i: Gemm) -> None:
        """The gate unit: queues from the logits of a whole router GEMM."""
        gate = Gate(
            experts=i.experts,
            k=i.top_k,
            renormalise=bool(i.renormalise),
            least=i.mult,
            enough=i.target,
        )
        index, score = gate.dialled(self.bases.dial).compute(np.concatenate(self.logits))
        none = np.zeros(0, np.int64)
        self.chip.queues = [TokenQueue(none, none) for _ in self.chip.queues]
        for e in range(i.experts):
            tokens, rank = np.nonzero(index == e)
            self.chip.queues[i.shift + e] = TokenQueue(tokens, score[tokens, rank])

    def check_attention(self, i: Attention) -> None:
        """Fields that the hardware checks before it starts."""
        require(min(i.heads, i.chunks, i.v_otiles) > 0, "ATTENTION of no heads")
        top = self.config.limits.tokens
        require(0 < i.queries <= top and 0 < i.keys <= top, f"ATTENTION of {i.keys} keys")
        inputs = self.config.array.inputs
        require(i.chunks * inputs <= self.config.limits.depth, f"ATTENTION of depth {i.chunks}")
        pitch = -(-i.keys // inputs)
        require(i.v_tile_pitch == pitch, f"ATTENTION of {i.v_tile_pitch} value rows, not {pitch}")

    def attention_read(self, i: Attention, rows: Ints, heads: Ints) -> Ints:
        """Queries ``(heads, rows, chunks * I)`` of some ``heads``."""
        chip = self.chip
        starts = i.source + rows * i.stride + heads[:, None] * i.chunks
        words = chip.span(chip.activations, starts, i.chunks)
        return chip.activations[words].reshape(len(heads), len(rows), -1)

    def attention_values(self, i: Attention, q: Ints, heads: Ints) -> Ints:
        """Scores, softmax and weighted values ``(heads, rows, channels)`` int8 of queries ``q``."""
        chip, inputs, outputs = self.chip, self.config.array.inputs, self.config.array.outputs
        key_tiles = -(-i.keys // outputs)
        v_chunks = -(-i.keys // inputs)
        softmax = Softmax(
            score=Multiplier(mult=i.score_mult, shift=i.score_shift),
            out=Multiplier(mult=i.out_mult, shift=i.out_shift),
        )
        values = []
        for n, h in enumerate(heads.tolist()):
            k = chip.kv[chip.span(chip.kv, i.k_base + h * i.k_pitch, key_tiles * i.chunks)]
            k = k.reshape(key_tiles, i.chunks, outputs, inputs).swapaxes(1, 2)
            k = k.reshape(key_tiles * outputs, -1)[: i.keys]
            tiles = i.v_base + h * i.v_pitch + np.arange(i.v_otiles) * i.v_tile_pitch
            v = chip.kv[chip.span(chip.kv, tiles, v_chunks)]  # (v_otiles, chunks, I * O)
            v = v.reshape(i.v_otiles, v_chunks * inputs, outputs)[:, : i.keys]
            weights = softmax.weights(softmax.scores(matmul(q[n], k)))
            acc = matmul(weights, v.swapaxes(1, 2).reshape(i.v_otiles * outputs, -1))
            values.append(to_activation(softmax.outputs(acc, weights.sum(axis=-1))))
        return np.stack(values).astype(np.int8)

    def attention_write(self, i: Attention, rows: Ints, values: Ints, heads: Ints) -> None:
        """Attention outputs of ``rows`` and ``heads``."""
        head = i.v_otiles * self.config.array.outputs
        start = (i.target + rows * i.target_stride) * self.config.array.inputs
        starts = start + heads[:, None] * head  # (heads, rows)
        self.chip.scatter_bytes(self.chip.activations, starts, values)

    # Weight engine -----------------------------------------------------------------------------
    def fetch(self, i: Fetch) -> bool:
        """FETCH; false if the queue is empty."""
        config = self.config
        require(i.queue < config.limits.experts, f"FETCH of queue {i.queue}")
        require(i.address % BEAT_BYTES == 0, f"FETCH from {i.address:#x}")
        require(
            i.param_rows <= config.memory.demand_param_rows
            and i.weight_rows <= config.memory.demand_rows,
            "FETCH of more rows than the demand ring has",
        )
        if not len(self.chip.queues[i.queue].tokens):
            return False
        block = BlockHeader(
            param_rows=i.param_rows, weight_rows=i.weight_rows, packed=bool(i.packed)
        )
        beats = block.beats(config)
        base = self.bases.program + i.address
        addresses = base + np.arange(config.memory.ports) * beats * BEAT_BYTES
        rows = read_block_rows(self.memory, config, addresses, block)
        self.chip.demand.put(*rows)
        return True
