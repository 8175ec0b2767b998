"""The instruction set: bit layouts, and what each instruction does as executable-style pseudo-code.

An instruction is 256 bits, little endian, fields packed from bit 0 in the order in which the class
lists them. The notation in the docstrings: ``T, I, O`` are the array's tokens, inputs and outputs;
``A[w]`` a word of the activation memory (``I`` int8), ``X[w]`` of the residual memory (``O``
int16),
``KV[r]`` a key/value row (``I * O`` int8), ``W``/``P`` the weight and parameter rings. Engines run
side
by side; only semaphores order them (docs/spec.md). ``sim/interpreter.py`` executes the same text.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from amaranth.hdl import Shape, unsigned
from amaranth.lib.data import StructLayout

from .codes import (
    ACTIVATED,
    TO_ACTIVATIONS,
    TO_BYTES,
    TO_KEY_VALUE,
    TO_RESIDUAL,
    WITH_LINES,
    Destination,
    LoadKind,
    Opcode,
    activated,
)

__all__ = [
    "ACTIVATED",
    "ADDRESS_BITS",
    "INSTRUCTION_BYTES",
    "OPCODES",
    "SEMAPHORES",
    "SEMAPHORE_BITS",
    "TOKEN_BITS",
    "TO_ACTIVATIONS",
    "TO_BYTES",
    "TO_KEY_VALUE",
    "TO_RESIDUAL",
    "WITH_LINES",
    "Attention",
    "Destination",
    "Fetch",
    "Gemm",
    "Halt",
    "Instruction",
    "Load",
    "LoadKind",
    "Norm",
    "Opcode",
    "Store",
    "Sync",
    "activated",
    "decode",
]

INSTRUCTION_BYTES = 32
SEMAPHORES = 16
"""Semaphore 0 is "none": waiting on it succeeds, signalling it does nothing."""
SEMAPHORE_BITS = 13
TOKEN_BITS = 12
ADDRESS_BITS = 20
"""Word addresses of the on-chip memories."""


def bits(width: int, doc: str, *, signed: bool = False, default: int = 0) -> Any:
    """A dataclass field of an instruction: ``width`` bits."""
    return field(default=default, metadata={"width": width, "doc": doc, "signed": signed})


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """Fields that all instructions begin with.

    ``wait`` with ``wait_count == 0``: one credit is taken before each tile of T tokens is read.
    ``wait_count > 0``: that many credits are taken once, before the first. ``signal``: one credit
    is
    given when a tile has been written (LOAD, STORE, SYNC and a GATE GEMM: once, as described
    there).
    """

    OPCODE: ClassVar[Opcode]

    opcode: int = bits(4, "instruction")
    wait: int = bits(4, "semaphore to take from")
    wait_count: int = bits(12, "credits to take at once; 0: one a tile")
    signal: int = bits(4, "semaphore to give to")

    def __post_init__(self) -> None:
        object.__setattr__(self, "opcode", int(self.OPCODE))
        for f in fields(self):
            value, width = getattr(self, f.name), f.metadata["width"]
            low = -(1 << (width - 1)) if f.metadata["signed"] else 0
            high = low + (1 << width) - 1
            if not low <= int(value) <= high:
                raise ValueError(
                    f"{type(self).__name__}.{f.name} must be from {low} to {high}, not {value!r}"
                )

    @classmethod
    def widths(cls) -> dict[str, tuple[int, bool]]:
        """Field name to (width, signed), in order from bit 0."""
        return {f.name: (f.metadata["width"], f.metadata["signed"]) for f in fields(cls)}

    @classmethod
    def shape(cls, name: str) -> Shape:
        """Amaranth ``Shape`` of a field."""
        return Shape(*cls.widths()[name])

    @classmethod
    def layout(cls) -> StructLayout:
        """Amaranth ``StructLayout`` of the instruction, padded to 256 bits."""
        members = {n: Shape(*width) for n, width in cls.widths().items()}
        used = sum(w for w, _ in cls.widths().values())
        return StructLayout({**members, "reserved": unsigned(8 * INSTRUCTION_BYTES - used)})

    def encode(self) -> bytes:
        """The instruction's 32 bytes."""
        word = position = 0
        for name, (width, _) in self.widths().items():
            word |= (int(getattr(self, name)) & ((1 << width) - 1)) << position
            position += width
        return word.to_bytes(INSTRUCTION_BYTES, "little")


@dataclass(frozen=True, kw_only=True)
class Halt(Instruction):
    """Wait until every engine is idle, then finish the frame: done, interrupt."""

    OPCODE: ClassVar[Opcode] = Opcode.HALT


@dataclass(frozen=True, kw_only=True)
class Load(Instruction):
    """Memory to chip (data engine). Gives one credit when everything is written; waits up front.

    PIXELS, an interleaved u8 image at ``image_base + address``, ``pitch`` bytes a pixel row::

        for s in range(strips):
            for y in range(patch_rows):
                for p in range(patches):
                    for b in range(patch_bytes):        # (column, channel) of one patch row
                        u8 = mem[image_base + address + (s*patch_rows + y)*pitch + p*patch_bytes +
                        b]
                        row = A[target + (s*patches + p)*stride ...] as bytes
                        row[y*patch_bytes + b] = u8 - 128

    RESIDUAL: ``beats`` beats at ``program_base + address`` to X from word ``target`` on.
    ACTIVATION: the same to A. NORM: ``beats`` beats at ``program_base + address`` to the norm
    parameters from row ``target`` on. With ``stored`` all three count from ``output_base`` instead:
    what a STORE whose credit was taken has put there.
    """

    OPCODE: ClassVar[Opcode] = Opcode.LOAD

    kind: int = bits(2, "LoadKind")
    address: int = bits(32, "byte offset, a multiple of 16")
    target: int = bits(ADDRESS_BITS, "first word or row written")
    beats: int = bits(16, "not PIXELS: beats of 16 bytes")
    stride: int = bits(12, "PIXELS: words a patch occupies")
    strips: int = bits(10, "PIXELS: rows of patches")
    patches: int = bits(10, "PIXELS: patches in a strip")
    patch_rows: int = bits(6, "PIXELS: pixel rows of a patch")
    patch_bytes: int = bits(10, "PIXELS: bytes of a patch's pixel row, whole pieces (config)")
    pitch: int = bits(16, "PIXELS: bytes from one pixel row to the next, a multiple of 16")
    stored: int = bits(1, "not PIXELS: address counts from the output base")


@dataclass(frozen=True, kw_only=True)
class Norm(Instruction):
    """LayerNorm of ``tokens`` rows, X to A (norm engine; quant/operators/layernorm.py)::

    for t in range(tokens):                          # wait and signal for each tile of T
        x = X[source + t*words : +words]             # words * O channels, padding is zero
        y = LayerNorm(params rows [params : +words], eps).compute(x, D=dim)
        A[target + t*stride ...] = y                 # words * O bytes

    With ``plain`` the gains and biases act on x itself (quant/operators/rescale.py).
    """

    OPCODE: ClassVar[Opcode] = Opcode.NORM

    source: int = bits(ADDRESS_BITS, "first residual word")
    words: int = bits(10, "residual words of a token")
    tokens: int = bits(TOKEN_BITS, "rows")
    target: int = bits(ADDRESS_BITS, "first activation word")
    stride: int = bits(12, "activation words from a token to the next")
    params: int = bits(12, "first row of the norm parameters")
    dim: int = bits(12, "channels without padding, at most 1023")
    eps: int = bits(32, "added to D Q - S**2")
    plain: int = bits(1, "do not normalise")


@dataclass(frozen=True, kw_only=True)
class Gemm(Instruction):
    """Tokens times a weight matrix (compute engine)::

        n = length[queue] if use_queue else tokens
        for tile in range(ceil(n / T)):                  # wait for each tile
            for r in range(tile*T, min(n, tile*T + T)):
                token, score = Q[queue][r] if use_queue else (r, 1)
                y, c = divmod(r, line) if line else (0, r)
                at = token if use_queue and gather else y*source_line + c
                for w in range(depth):
                    s, u = divmod(w, span) if span else (0, w)
                    x[r][w] = A[source + at*stride + s*source_line*stride + u]
            for ot in range(otiles):
                acc = x @ W[rows ot*depth : +depth].T    # T x O, depth * I products each
                v = sat16(round((acc + P[ot].bias) * P[ot].mult / 2**P[ot].shift))
                row = token if use_queue and scatter else y*target_line + c;  ct = otile_base + ot
                write v to the destination (below)
            signal                                       # when the tile's last value is written
        if not keep: release otiles*depth rows of W and otiles rows of P

    An empty queue is skipped: its rows are released and nothing is waited for or signalled.
    ``demand`` takes W and P from the demand ring; an empty queue then releases nothing, because its
    FETCH was skipped as well. ``keep`` leaves W and P for the next GEMM.

    ``line``, ``source_line``, ``target_line`` and ``span`` make rows of windows of a map: with S
    words a pixel and W pixels a line, a window of 3 x 3 has ``stride`` S, ``span`` 3 S, ``depth``
    9 S and ``source_line`` W. They are 0 with a queue and for EXPERT, KEY, VALUE and GATE. ``at``
    and ``row`` have 12 bits; a row beyond is an error of addressing. Destinations:

    ACT8 and functions: bytes ``ct*O..`` of the row at ``A[target + row*target_stride]``.
    ACT16: bytes ``2*ct*O..`` of that row. RESIDUAL, EXPERT: ``X[target + row*target_stride + ct]``.
    KEY: ``h, j = divmod(ct, head_otiles)``; row ``target + h*head_pitch + (row//O)*tile_pitch +
    j//(I/O)``, byte ``(row%O)*I + (j%(I/O))*O``. VALUE: row ``target + h*head_pitch + j*tile_pitch
    +
    row//I``, byte ``(row%I)*O``. A weight row from W, and a key row, is ``[o][i]``; a value row
    ``[i][o]``.
    GATE: ``experts`` logits a token (otiles = ceil(experts/O)) to the gate unit, which clears all
    queues, fills them in token order, and then gives one credit to ``signal``. Logit e is that of
    expert ``shift + e``; scores are quant/operators/gate.py's, and one below ``mult`` is not
    queued, nor one behind scores of the token that add up to ``target`` (0: none is). The registers
    TOP_K, MIN_SCORE and TOP_P, as a START took them, stand beside ``top_k``, ``mult`` and
    ``target``, and of each pair the stricter holds. For KEY and VALUE ``otile_base`` is 0. Weights,
    keys and values are within +-127, the array's bound (hw/compute/dot.py): weights by the
    compiler, keys and values because -128 becomes -127.
    """

    OPCODE: ClassVar[Opcode] = Opcode.GEMM

    source: int = bits(ADDRESS_BITS, "first activation word")
    stride: int = bits(12, "activation words from a row to the next")
    depth: int = bits(10, "activation words of a row = weight rows of an output tile")
    tokens: int = bits(TOKEN_BITS, "rows, where no queue is used")
    use_queue: int = bits(1, "rows come from an expert's queue")
    queue: int = bits(6, "expert")
    gather: int = bits(1, "read the row of the token, not of the slot")
    scatter: int = bits(1, "write the row of the token, not of the slot")
    demand: int = bits(1, "weights come from the demand ring")
    keep: int = bits(1, "do not release the weights")
    otiles: int = bits(10, "output tiles of O channels")
    otile_base: int = bits(10, "first output tile in the destination")
    mode: int = bits(4, "Destination")
    target: int = bits(
        ADDRESS_BITS, "first word or row of the destination; GATE: sum of scores, 16 bits"
    )
    target_stride: int = bits(12, "words from a row to the next")
    mult: int = bits(16, "functions: output multiplier; GATE: least score, 15 bits")
    shift: int = bits(6, "functions: output shift; GATE: first expert")
    zero_point: int = bits(8, "ACT8, functions: added before saturation", signed=True)
    head_otiles: int = bits(6, "KEY, VALUE: output tiles of a head")
    tile_pitch: int = bits(10, "KEY, VALUE: rows of a tile of a head")
    head_pitch: int = bits(12, "KEY, VALUE: rows of a head")
    experts: int = bits(6, "GATE: number of experts")
    top_k: int = bits(4, "GATE: experts chosen per token")
    renormalise: int = bits(1, "GATE: scores are shares of the chosen experts, not of all")
    line: int = bits(10, "rows in a line; 0: all rows lie in one")
    source_line: int = bits(10, "rows from a line to the next in the source")
    target_line: int = bits(10, "rows from a line to the next in the destination")
    span: int = bits(10, "words that lie together, the next ones a line further; 0: all")


@dataclass(frozen=True, kw_only=True)
class Attention(Instruction):
    """Softmax attention of all heads (compute engine and softmax unit;
    quant/operators/softmax.py)::

        for tile in range(ceil(queries / T)):            # wait for each tile
            for h in range(heads):
                q = A[source + r*stride + h*chunks : +chunks] for the T rows r of the tile
                for kt in range(ceil(keys / O)):         # T x O scores
                    s = q @ KV[k_base + h*k_pitch + kt*chunks : +chunks].T
                p, total = softmax weights of the valid keys; 0 for padding
                for j in range(v_otiles):                # T x O outputs
                    acc = p @ KV[v_base + h*v_pitch + j*v_tile_pitch : +v_tile_pitch]
                    A[target + r*target_stride] bytes (h*v_otiles + j)*O.. = sat8(v)
            signal                                       # after the tile's last head

    with ``s = sat16(round(acc * score_mult / 2**score_shift))`` and ``v = sat16(round(acc * m /
    2**e))``,
    ``(m, e)`` from the row's total, ``out_mult`` and ``out_shift``. ``v_tile_pitch = ceil(keys /
    I)``.
    """

    OPCODE: ClassVar[Opcode] = Opcode.ATTENTION

    source: int = bits(ADDRESS_BITS, "first activation word of the queries")
    stride: int = bits(12, "activation words from a query to the next")
    chunks: int = bits(6, "activation words of one head")
    heads: int = bits(5, "heads")
    queries: int = bits(TOKEN_BITS, "query rows")
    keys: int = bits(TOKEN_BITS, "keys")
    k_base: int = bits(16, "first key row")
    k_pitch: int = bits(12, "key rows of a head")
    v_base: int = bits(16, "first value row")
    v_pitch: int = bits(12, "value rows of a head")
    v_otiles: int = bits(6, "output tiles of a head")
    v_tile_pitch: int = bits(8, "value rows of an output tile")
    target: int = bits(ADDRESS_BITS, "first activation word written")
    target_stride: int = bits(12, "activation words from a row to the next")
    score_mult: int = bits(16, "accumulator to score")
    score_shift: int = bits(6, "accumulator to score")
    out_mult: int = bits(16, "sum to output")
    out_shift: int = bits(6, "sum to output")


@dataclass(frozen=True, kw_only=True)
class Store(Instruction):
    """Chip to memory (data engine)::

        for r in range(rows):                            # wait for each tile of T rows
            mem[output_base + address + r*pitch : ] = A[source + r*stride : +words]  (or X)

    ``residual`` takes words of X. A row's bytes are a multiple of 16. Gives one credit when the
    memory has acknowledged all of them, so that a LOAD can read them.
    """

    OPCODE: ClassVar[Opcode] = Opcode.STORE

    residual: int = bits(1, "read X instead of A")
    source: int = bits(ADDRESS_BITS, "first word")
    stride: int = bits(12, "words from a row to the next")
    words: int = bits(12, "words of a row")
    rows: int = bits(TOKEN_BITS, "rows")
    address: int = bits(32, "byte offset from the output base, a multiple of 16")
    pitch: int = bits(16, "bytes from a row to the next, a multiple of 16")


@dataclass(frozen=True, kw_only=True)
class Fetch(Instruction):
    """On-demand weights of one expert (weight engine): skipped if its queue is empty.

    Port p reads ``param_rows`` and then ``weight_rows`` (its share of each row) from
    ``program_base +
    address + p * beats * 16``, where ``beats`` is a port's total; they go to the demand ring.
    ``packed`` rows have half the bytes: two weights a byte, the first in the low half; the ring
    gets them as int8. Waits up front (for the gate). Gives one credit when it has been skipped, or
    asked for: from then on the queue's length is no longer looked at.
    """

    OPCODE: ClassVar[Opcode] = Opcode.FETCH

    queue: int = bits(6, "expert")
    address: int = bits(32, "byte offset, a multiple of 16")
    param_rows: int = bits(12, "parameter rows")
    weight_rows: int = bits(16, "weight rows")
    packed: int = bits(1, "weights have 4 bits in memory")


@dataclass(frozen=True, kw_only=True)
class Sync(Instruction):
    """In order in the compute engine: take ``wait_count`` credits of ``wait`` before anything
    later is
    read, and, when everything earlier has been written, give ``count`` credits to ``signal``."""

    OPCODE: ClassVar[Opcode] = Opcode.SYNC

    count: int = bits(12, "credits to give")


OPCODES: dict[int, type[Instruction]] = {
    int(c.OPCODE): c for c in (Halt, Load, Norm, Gemm, Attention, Store, Fetch, Sync)
}

for _kind in OPCODES.values():
    if sum(w for w, _ in _kind.widths().values()) > 8 * INSTRUCTION_BYTES:
        raise ValueError(f"{_kind.__name__} does not fit {INSTRUCTION_BYTES} bytes")
    if any(f.default is MISSING for f in fields(_kind)):
        raise TypeError(f"{_kind.__name__} has a field without a default")


def decode(data: bytes) -> Instruction:
    """The instruction in 32 bytes; raises ``ValueError`` for an unknown opcode or a wrong
    length."""
    if len(data) != INSTRUCTION_BYTES:
        raise ValueError(f"An instruction has {INSTRUCTION_BYTES} bytes, not {len(data)}")
    word = int.from_bytes(data, "little")
    kind = OPCODES.get(word & 15)
    if kind is None:
        raise ValueError(f"Illegal instruction: opcode {word & 15}")
    values, position = {}, 0
    for name, (width, is_signed) in kind.widths().items():
        value = word >> position & ((1 << width) - 1)
        position += width
        values[name] = value - (1 << width) if is_signed and value >> (width - 1) else value
    return kind(**values)
