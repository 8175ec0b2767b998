"""Lowering of a frame's beginning: pixels and the position embedding to tokens, and their norms."""

from __future__ import annotations

from moevit.hw.config import BEAT_BYTES
from moevit.hw.isa import Destination, Load, LoadKind

from ..graph import Op, Operand, Tensor
from ..plan.layout import pack_residual
from .context import Context
from .renormal import lower_entry

__all__ = ["lower_embedding"]


def lower_embedding(c: Context) -> None:
    """Patch embedding onto the position embedding, and the norms behind it.

    Strips of patches go in groups, so that the first is embedded while others are loaded. The
    norm's parameters come behind the first group's pixels. A norm takes whole tiles of the tokens
    that are complete: tokens in front of the patches shift tiles of tokens against those of
    patches. A norm in front of the blocks comes behind all groups of a batch, whose products share
    their weights, and the first block's behind that.
    """
    s, tensors = c.shapes, c.tensors
    norm, columns, front = c.network.blocks[0].norm1, s.geometry.grid[1], s.geometry.front
    matrix, entry = c.patch_matrix(), c.network.entry
    start = number = 0
    for batch in tensors.strip_batches():
        groups = [_Group(c, number + n, strips) for n, strips in enumerate(batch)]
        number += len(batch)

        def normalise(n: int, groups: list[_Group] = groups) -> None:
            nonlocal start
            group = groups[n]
            if entry is not None and n + 1 < len(groups):
                return
            end = group.tokens.stop
            if not tensors.streamed and n + 1 < len(groups):
                end -= end % s.config.array.tokens
            if end > start:
                rows = range(start, end)
                if entry is not None:
                    lower_entry(c, entry, group.residual, group.normed, rows)
                c.norm(norm, c.parameters(0), group.residual, group.normed, rows, "block 0 norm1")
                c.keep(group.normed, tensors.stored_norms(), [rows])
                c.keep(group.residual, tensors.stored_residual(), [rows])
                start = end

        def load(n: int, groups: list[_Group] = groups) -> None:
            groups[n].load()
            c.parameters(0, ahead=1)

        c.batch(matrix, [group.product() for group in groups], load, normalise)
    if start != front + s.geometry.grid[0] * columns:
        raise AssertionError("tokens are left over")


class _Group:
    """Strips of patches, and the tokens in front of them with the first."""

    def __init__(self, c: Context, number: int, strips: range) -> None:
        columns, front = c.shapes.geometry.grid[1], c.shapes.geometry.front
        self.c, self.strips = c, strips
        self.patches = range(strips.start * columns, strips.stop * columns)
        first = front + self.patches.start if strips.start else 0
        self.tokens = range(first, front + self.patches.stop)
        self.pixels: Tensor = c.tensors.pixels(number, self.patches)
        self.residual, self.normed = c.tensors.embedded(number, self.tokens)

    def load(self) -> None:
        """The position embedding and the pixels."""
        c, s = self.c, self.c.shapes
        tokens = self.tokens
        name = f"embedding {tokens.start}:{tokens.stop}"
        data = lambda: pack_residual(c.network, s)[tokens.start : tokens.stop]  # noqa: E731
        beats = c.graph.table(name, data) // BEAT_BYTES
        c.graph.add(
            Op(
                kind=Load,
                note=f"position embedding of tokens {tokens.start}..{tokens.stop - 1}",
                writes=(self.residual.at(tokens),),
                fields={"kind": LoadKind.RESIDUAL, "beats": beats},
                table=name,
            )
        )
        c.graph.add(
            Op(
                kind=Load,
                note=f"pixels of strips {self.strips.start}..{self.strips.stop - 1}",
                writes=(self.pixels.at(self.patches),),
                fields={
                    "kind": LoadKind.PIXELS,
                    "address": self.strips.start * s.geometry.patch * s.image_pitch,
                    "strips": len(self.strips),
                    "patches": s.geometry.grid[1],
                    "patch_rows": s.geometry.patch,
                    "patch_bytes": s.patch_bytes,
                    "pitch": s.image_pitch,
                },
            )
        )

    def product(self) -> tuple[Operand, Operand, str, dict[str, int]]:
        """What the patch embedding reads and adds to."""
        front = self.c.shapes.geometry.front
        rows = range(front + self.patches.start, front + self.patches.stop)
        strips = f"{self.strips.start}..{self.strips.stop - 1}"
        return (
            self.pixels.at(self.patches),
            self.residual.at(rows),
            f"patch embedding of strips {strips}",
            {"mode": Destination.RESIDUAL},
        )
