"""What lowering writes into: a graph in the making, and what the network and its plan are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from moevit.hw.config import BEAT_BYTES
from moevit.hw.isa import Gemm, Load, LoadKind, Norm, Store, activated
from moevit.quant.network import Network
from moevit.quant.operators.activations import activation
from moevit.quant.operators.layernorm import LayerNorm
from moevit.quant.operators.linear import HiddenOutput, Linear
from moevit.quant.operators.rescale import Rescale

from ..graph import Graph, Memory, Op, Operand, Tensor, Weights
from ..plan.buffers import gates_ahead
from ..plan.layout import Ints, Matrix, Shapes, head_index, pack_linear, pack_norm, patch_index
from ..plan.rings import split
from ..plan.schedule import ExpertSchedule
from ..plan.tensors import Tensors

__all__ = ["Context", "hidden_fields"]


def hidden_fields(hidden: HiddenOutput) -> dict[str, int]:
    """What a GEMM needs to pass its values through an activation function."""
    return {
        "mode": activated(activation(hidden.function).integer),
        "mult": hidden.out.mult,
        "shift": hidden.out.shift,
        "zero_point": hidden.zero_point,
    }


@dataclass(kw_only=True)
class Context:
    """A frame on its way into ``graph``; programs of one network share ``packed``.

    ``task`` is the one that is being lowered, ``number`` its place among those of the program;
    ``schedules``: all tasks' by task and block. ``slots``: the name of the norm whose parameters a
    slot of the chip's holds.
    """

    network: Network
    shapes: Shapes
    tensors: Tensors
    graph: Graph
    schedules: dict[str, dict[int, ExpertSchedule]]
    task: str
    number: int = 0
    packed: dict[str, Matrix] = field(default_factory=dict)
    slots: dict[int, str] = field(default_factory=dict)

    def residual(self, chunk: range) -> Tensor:
        """The task's residual stream."""
        return self.tensors.residual(chunk, self.number)

    # Norms -------------------------------------------------------------------------------------
    @property
    def final_norm(self) -> LayerNorm | Rescale | None:
        """What makes int8 of the last tokens: the task's own, or the network's."""
        return self.network.final_norm(self.task)

    def _norms(self) -> dict[str, LayerNorm | Rescale]:
        """Every norm of the task in the order of execution."""
        blocks = enumerate(self.network.blocks)
        found: dict[str, LayerNorm | Rescale] = {
            f"{i}.{n}": norm for i, b in blocks for n, norm in ((1, b.norm1), (2, b.norm2))
        }
        if self.final_norm is not None:
            own = self.final_norm is not self.network.norm
            found[f"final {self.task}" if own else "final"] = self.final_norm
        head = self.network.linear_heads.get(self.task)
        if head is not None and head.pooled is not None:
            found[f"pooled {self.task}"] = head.pooled.norm
        return found

    def parameters(self, number: int, *, ahead: int | None = None) -> Operand:
        """Parameters of norm ``number`` on the chip.

        If they are not there, they are loaded, and those of the norms behind it where nothing is in
        their way; ``ahead``: of so many at most.
        """
        norms, slots = self._norms(), self.tensors.plan.tiling.norms
        names = list(norms)
        if self.slots.get(number % slots) != names[number]:
            end = number + 1
            room = min(len(names), number - number % slots + slots, number + (ahead or slots))
            while end < room and end % slots not in self.slots:
                end += 1
            for n in range(number, end):
                self.slots[n % slots] = names[n]
            chosen = names[number:end]
            rows = range(number % slots, number % slots + len(chosen))
            self._load_parameters(
                f"norm parameters {chosen[0]}..{chosen[-1]}",
                [norms[name] for name in chosen],
                self._slot("norm parameters", range(slots)).at(rows),
            )
        row = number % slots
        return self._slot("norm parameters", range(slots)).at(range(row, row + 1), whole=True)

    def scale(self, block: int) -> Operand:
        """Parameters of a gate's input; all of them are loaded at once."""
        gates = gates_ahead(self.network)
        return self._always("gate scales", 0, list(gates.values()), list(gates).index(block))

    def entry_parameters(self) -> Operand:
        """Parameters of the norm in front of the blocks."""
        entry, place = self.network.entry, len(gates_ahead(self.network))
        if entry is None:
            raise AssertionError("no norm in front of the blocks")
        return self._always("norm in front of the blocks", place, [entry.norm], 0)

    def _always(
        self, name: str, first: int, norms: Sequence[LayerNorm | Rescale], place: int
    ) -> Operand:
        """Parameters that stay: number ``place`` of ``norms``, loaded to rows ``first ..``."""
        tensor = self._slot("gate scales", range(first + len(norms)))
        if -1 - first not in self.slots:
            self.slots[-1 - first] = name
            self._load_parameters(name, norms, tensor.at(tensor.rows[first:]))
        row = first + place
        return tensor.at(range(row, row + 1), whole=True)

    def _slot(self, region: str, rows: range) -> Tensor:
        pitch = self.shapes.words
        return Tensor(name=region, memory=Memory.NORMS, region=region, pitch=pitch, rows=rows)

    def _load_parameters(
        self, name: str, norms: Sequence[LayerNorm | Rescale], target: Operand
    ) -> None:
        size = self.graph.table(
            name, lambda: np.concatenate([pack_norm(n, self.shapes) for n in norms])
        )
        fields = {"kind": LoadKind.NORM, "beats": size // BEAT_BYTES}
        self.graph.add(Op(kind=Load, note=name, writes=(target,), fields=fields, table=name))

    def norm(
        self,
        norm: LayerNorm | Rescale,
        parameters: Operand,
        source: Tensor,
        target: Tensor,
        rows: range,
        note: str,
    ) -> None:
        """Rows of the residual stream, normalised (or only rescaled), to rows of ``target``."""
        s = self.shapes
        plain = isinstance(norm, Rescale)
        self.graph.add(
            Op(
                kind=Norm,
                note=f"{note} of tokens {rows.start}..{rows.stop - 1}",
                reads=(source.at(rows), parameters),
                writes=(target.at(rows, range(s.chunks)),),
                rows=len(rows),
                fields={
                    "words": s.words,
                    "dim": s.geometry.dim,
                    "eps": norm.eps if isinstance(norm, LayerNorm) else 0,
                    "plain": int(plain),
                },
            )
        )

    # Between memory and chip -------------------------------------------------------------------
    def bring(self, stored: Tensor | None, chip: Tensor, rows: range, note: str) -> Tensor:
        """Rows on the chip: loaded if they lie in memory (else ``chip`` is where they are)."""
        if stored is not None:
            self.load(stored.at(rows), chip.at(rows), f"{note} of {rows.start}..{rows.stop - 1}")
        return chip

    def load(self, source: Operand, target: Operand, note: str) -> None:
        """LOAD of rows that lie one behind the other on both sides."""
        residual = target.tensor.memory == Memory.RESIDUAL
        kind = LoadKind.RESIDUAL if residual else LoadKind.ACTIVATION
        fields = {"kind": kind, "stored": 1, "beats": len(source.rows) * source.tensor.pitch}
        self.graph.add(Op(kind=Load, note=note, reads=(source,), writes=(target,), fields=fields))

    def store(self, source: Operand, target: Operand, note: str = "") -> None:
        """STORE of rows: as many bytes of each as the operands have."""
        rows = target.rows
        self.graph.add(
            Op(
                kind=Store,
                note=note or f"{target.tensor.name} {rows.start}..{rows.stop - 1}",
                reads=(source,),
                writes=(target,),
                rows=len(source.rows),
                fields={"residual": int(source.tensor.memory == Memory.RESIDUAL)},
            )
        )

    def keep(self, chip: Tensor, stored: Tensor | None, pieces: list[range]) -> None:
        """Rows go to memory, if they have a place there, and the chip may forget them."""
        if stored is None:
            return
        size = stored.pitch * BEAT_BYTES
        words = size // self.word_bytes(chip.memory)
        for rows in pieces:
            self.store(chip.at(rows, range(words)), stored.at(rows))

    def word_bytes(self, memory: Memory) -> int:
        """Bytes of a word."""
        array = self.shapes.config.array
        return 2 * array.outputs if memory == Memory.RESIDUAL else array.inputs

    # Products ----------------------------------------------------------------------------------
    def gemm(
        self,
        weights: Weights,
        source: Operand,
        target: Operand,
        note: str,
        /,
        *,
        rows: int = 0,
        **fields: int,
    ) -> Op:
        """One product with some output tiles of a matrix."""
        matrix, group = weights.matrix, weights.otiles
        part = "" if len(group) == matrix.otiles else f" [{group.start}:{group.stop}]"
        return self.graph.add(
            Op(
                kind=Gemm,
                note=note + part,
                reads=(source,),
                writes=(target,),
                rows=rows or len(source.rows),
                fields={"otile_base": group.start, **fields},
                weights=weights,
            )
        )

    def gemms(
        self, matrix: Matrix, source: Operand, target: Operand, note: str, **fields: int
    ) -> None:
        """Products with a whole matrix, in as many parts as the ring needs."""
        for group in split(matrix, self.shapes.config, demand=False):
            self.gemm(Weights(matrix=matrix, otiles=group), source, target, note, **fields)

    def batch(
        self,
        matrix: Matrix,
        items: list[tuple[Operand, Operand, str, dict[str, int]]],
        ready: Callable[[int], None] = lambda n: None,
        done: Callable[[int], None] = lambda n: None,
    ) -> None:
        """Products of several sources with a matrix that comes once.

        ``ready``, ``done``: called in front of an item's first product and behind its last.
        """
        groups = split(matrix, self.shapes.config, demand=False)
        for group in groups:
            for n, (source, target, note, fields) in enumerate(items):
                if group == groups[0]:
                    ready(n)
                last = n + 1 == len(items)
                weights = Weights(matrix=matrix, otiles=group, fresh=n == 0)
                self.gemm(weights, source, target, note, keep=int(not last), **fields)
                if group == groups[-1]:
                    done(n)

    # Matrices ----------------------------------------------------------------------------------
    def matrix(
        self,
        name: str,
        linear: Linear,
        *,
        outputs: Ints | None = None,
        inputs: Ints | None = None,
        otiles: int = 0,
    ) -> Matrix:
        """The packed rows of a layer, packed once per ``name``."""
        if name not in self.packed:
            self.packed[name] = pack_linear(
                linear, self.shapes.config, outputs=outputs, inputs=inputs, otiles=otiles
            )
        return self.packed[name]

    def patch_matrix(self) -> Matrix:
        """The patch embedding: its inputs in padded pixel rows."""
        inputs = patch_index(self.shapes)
        return self.matrix("patch embedding", self.network.patch_embed, inputs=inputs)

    def head_outputs(self, name: str, linear: Linear) -> Matrix:
        """A query, key or value layer: its outputs in padded heads."""
        s = self.shapes
        otiles = s.geometry.heads * s.head_otiles
        return self.matrix(name, linear, outputs=head_index(s), otiles=otiles)

    def head_parts(self, matrix: Matrix, heads: range) -> list[range]:
        """Output tiles of ``heads`` in parts of whole heads that fit the ring."""
        unit = self.shapes.head_otiles
        otiles = range(heads.start * unit, heads.stop * unit)
        return split(matrix, self.shapes.config, demand=False, unit=unit, otiles=otiles)
