"""Lowering of a block behind its attention: projection, norm, and a dense part or a mixture."""

from __future__ import annotations

from moevit.hw.isa import Destination
from moevit.quant.network import Mlp, Moe

from ..graph import Tensor
from ..plan.buffers import gates_ahead
from ..plan.tensors import Tensors, outside
from .attention import lower_projection
from .context import Context, hidden_fields
from .mixture import lower_mixture
from .output import Output

__all__ = ["Split", "lower_feed_forward", "split_back", "split_front"]


class Split:
    """What all tasks share in front of the first router's experts, and where it lies.

    Norm outputs and the gate's input are None where the chip keeps them; the residual stream always
    has a copy in memory.
    """

    def __init__(self, tensors: Tensors) -> None:
        s, shared = tensors.shapes, tensors.shared
        if shared is None:
            raise AssertionError("one task shares nothing")
        row = s.norm_words * s.config.array.inputs

        def stored(region: str, pitch: int) -> Tensor:
            return outside(region, region, pitch, tensors.everyone)

        self.residual = stored("shared residual", 2 * s.words * s.config.array.outputs)
        self.normed = None if shared.kept is not None else stored("shared router input", row)
        kept = shared.gate is not None or shared.kept is not None
        self.gate = None if kept else stored("shared gate input", row)


def lower_feed_forward(c: Context, index: int, output: Output) -> None:
    """Block ``index`` behind its attention, and the next block's first norm or the output."""
    block, tensors = c.network.blocks[index], c.tensors
    for number, chunk in enumerate(tensors.chunks(block.mlp)):
        normed, gate = tensors.normed(chunk), tensors.gate_input(chunk)
        _lower_front(c, index, chunk, normed, gate, first=number == 0)
        _lower_back(c, index, chunk, normed, gate, c.residual(chunk), output)


def split_front(c: Context, index: int, split: Split) -> None:
    """Block ``index`` up to its second norm; what all tasks share stays, or goes to memory."""
    tensors, mlp = c.tensors, c.network.blocks[index].mlp
    for number, chunk in enumerate(tensors.chunks(mlp)):
        normed, gate = tensors.router_input(chunk), tensors.first_gate_input(chunk)
        _lower_front(c, index, chunk, normed, gate, first=number == 0)
        pieces = tensors.pieces(mlp, chunk)
        c.keep(normed, split.normed, pieces)
        if index in gates_ahead(c.network):
            c.keep(gate, split.gate, pieces)
        c.keep(c.residual(chunk), split.residual, pieces)


def split_back(c: Context, index: int, split: Split, output: Output) -> None:
    """The rest of block ``index`` for one task, from a copy of what all of them share."""
    tensors, mlp = c.tensors, c.network.blocks[index].mlp
    ahead = index in gates_ahead(c.network)
    for chunk in tensors.chunks(mlp):
        residual = c.residual(chunk)
        normed, gate = tensors.router_input(chunk), tensors.first_gate_input(chunk)
        for rows in tensors.pieces(mlp, chunk):
            if ahead:
                c.bring(split.gate, gate, rows, "gate input")
            c.bring(split.normed, normed, rows, "router input")
            if c.number or tensors.streamed:
                c.bring(split.residual, residual, rows, f"residual for {c.task}")
        _lower_back(c, index, chunk, normed, gate, residual, output)


def _lower_front(
    c: Context, index: int, chunk: range, normed: Tensor, gate: Tensor, *, first: bool
) -> None:
    """Projection and second norm of a chunk of tokens; the input of a gate that looks ahead.

    Residuals do not wait for attention: those of the first chunk come meanwhile, all together.
    """
    block, tensors, ahead = c.network.blocks[index], c.tensors, gates_ahead(c.network).get(index)
    pieces, residual = tensors.pieces(block.mlp, chunk), c.residual(chunk)
    early = first or ahead is not None
    if early:
        for rows in pieces:
            c.bring(tensors.stored_residual(), residual, rows, "residual")
    if ahead is not None:
        note = f"block {index} input for the gate"
        c.norm(ahead, c.scale(index), residual, gate, chunk, note)
    lower_projection(c, index, chunk, pieces, residual_here=early)
    norm2 = c.parameters(2 * index + 1)
    c.norm(block.norm2, norm2, residual, normed, chunk, f"block {index} norm2")


def _lower_back(
    c: Context,
    index: int,
    chunk: range,
    normed: Tensor,
    gate: Tensor,
    residual: Tensor,
    output: Output,
) -> None:
    """Dense part or mixture of a chunk; then the next block's norm, or the output."""
    blocks, tensors = c.network.blocks, c.tensors
    mlp = blocks[index].mlp
    for span in tensors.spans(mlp, chunk):
        if isinstance(mlp, Moe):
            lower_mixture(c, index, mlp, span, normed, gate, residual)
        else:
            _lower_dense(c, index, mlp, span, normed, residual)
    if index + 1 == len(blocks):
        output.lower(chunk, residual)
        return
    target, note = tensors.normed(chunk), f"block {index + 1} norm1"
    norm1 = c.parameters(2 * index + 2)
    c.norm(blocks[index + 1].norm1, norm1, residual, target, chunk, note)
    pieces, stored = tensors.pieces(mlp, chunk), tensors.stored_norms()
    for rows in pieces if stored is not None else []:
        c.keep(target, stored, [rows])
        c.keep(residual, tensors.stored_residual(), [rows])


def _lower_dense(
    c: Context, index: int, mlp: Mlp, span: range, normed: Tensor, residual: Tensor
) -> None:
    """Two products through the hidden activations."""
    s, name = c.shapes, f"block {index}"
    pitch = s.hidden_chunks(mlp.fc1.shape[0])
    hidden = c.tensors.hidden(mlp, span, pitch)
    c.gemms(
        c.matrix(f"{name} fc1", mlp.fc1),
        normed.at(span, range(s.chunks)),
        hidden.at(hidden.rows),
        f"{name} fc1",
        **hidden_fields(mlp.hidden),
    )
    c.gemms(
        c.matrix(f"{name} fc2", mlp.fc2),
        hidden.at(hidden.rows),
        residual.at(span),
        f"{name} fc2",
        mode=Destination.RESIDUAL,
    )
