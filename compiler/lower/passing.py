"""Lowering of a frame whose tokens pass through the chip (the plan is :mod:`..plan.spill`'s)."""

from __future__ import annotations

from moevit.hw.config import BEAT_BYTES
from moevit.hw.isa import Destination, Gemm, Halt, Load, LoadKind, Norm, Store, Sync
from moevit.quant.network import Attention, Block, Mlp
from moevit.quant.operators.layernorm import LayerNorm
from moevit.quant.operators.upsampling import UpsamplingHead

from ..plan.buffers import gates_ahead
from ..plan.layout import Matrix, ceil_div, round_up
from ..plan.norms import load_norms, load_scales, needed, used
from ..plan.placement import Region
from ..plan.spill import Spill
from ..plan.tiling import Span, cut
from .block import Rows, attend, lower_dense, lower_heads
from .context import Context
from .decode import lower_maps
from .emit import Semaphore, split
from .frame import OutputRows, head_matrix, load_patches, output_rows
from .moe import lower_moe
from .renormal import lower_entry

__all__ = ["lower_passing"]

PIECES = 6
"""Pieces of the tokens of a feed-forward part: their LOADs and STOREs, two each, fit the queues."""


def lower_passing(c: Context) -> OutputRows:
    """Write the whole frame of a task into ``c.code``."""
    if c.plan.spill is None or c.plan.inputs is None:
        raise ValueError("A frame whose tokens pass through the chip needs a plan for that")
    return _Frame(c, c.plan.spill, c.plan.inputs).lower()


class _Frame:
    """The frame in the making; ``saved`` counts credits of STOREs that no LOAD has taken yet."""

    def __init__(self, c: Context, spill: Spill, inputs: Region) -> None:
        self.c, self.p, self.s, self.at = c, spill, c.shapes, spill.scratch
        self.inputs = inputs
        self.saved = 0
        self.tile = c.config.array.tokens
        self.gates = list(gates_ahead(c.network))

    def lower(self) -> OutputRows:
        net = self.c.network
        self.embed()
        for index, block in enumerate(net.blocks):
            mlp = block.mlp
            chunk = self.c.plan.tiling.dense if isinstance(mlp, Mlp) else self.c.plan.tiling.routed
            chunks = cut(self.s.tokens, chunk)
            piece = round_up(ceil_div(chunks[0][1], PIECES), self.tile)
            self.attention(index, block.attention, cut(chunks[0][1], piece))
            self.feed_forward(index, block, chunks, piece)
        self.c.code.add(Halt(), "end of the frame")
        return output_rows(self.c)

    # Embedding ---------------------------------------------------------------------------------
    def embed(self) -> None:
        """Strips of patches to the first residuals and norm outputs, buffer after buffer."""
        c, s, p = self.c, self.s, self.p
        columns, front = s.geometry.grid[1], s.geometry.front
        groups = cut(s.geometry.grid[0], p.strips)
        most = front + p.strips * columns  # rows of a buffer
        words = p.strips * columns * s.patch_chunks
        matrix = c.patch_matrix()
        for n, (strip, strips) in enumerate(groups):
            place = n % p.inputs
            pixels = place * words
            residual = c.plan.residual.base + place * most * s.words
            target = p.inputs * words + place * most * p.norm
            offset = front if strip == 0 else 0
            token = front + strip * columns - offset
            rows = offset + strips * columns
            wait = Semaphore.SPILLED if n >= p.inputs else 0
            self.saved -= n >= p.inputs
            load_patches(c, strip, strips, residual=residual, pixels=pixels, wait=wait)
            if n == 0:
                load_norms(c, 0, 1, signal=Semaphore.RESIDUAL)
                if c.network.entry is not None:
                    load_scales(c)
                load_norms(c, 1, c.plan.tiling.norms, signal=Semaphore.PARAMETERS)
                if c.network.entry is None:
                    load_scales(c)
            tiles = ceil_div(strips * columns, self.tile)
            self.gemms(
                matrix,
                f"patch embedding of strips {strip}..{strip + strips - 1}",
                source=pixels,
                stride=s.patch_chunks,
                tokens=strips * columns,
                target=residual + offset * s.words,
                wait=Semaphore.LOADED,
                wait_count=2,
                signal=Semaphore.RESIDUAL,
            )
            credits = tiles + (n == 0)
            if c.network.entry is not None:
                lower_entry(
                    c,
                    residual=residual,
                    target=target,
                    stride=p.norm,
                    rows=rows,
                    credits=credits + (n == 0),
                    name=f"tokens {token}..{token + rows - 1}",
                )
                credits = ceil_div(rows, self.tile)
            self.norm(
                c.network.blocks[0].norm1,
                0,
                "block 0 norm1",
                rows=rows,
                residual=residual,
                target=target,
                stride=p.norm,
                wait_count=credits,
                signal=Semaphore.OUTPUT,
            )
            self.store_norm(token, rows, target, p.norm)
            self.store_residual(token, rows, residual)
        c.code.add(Sync(wait=Semaphore.PARAMETERS, wait_count=1), "norm parameters complete")

    # Attention ---------------------------------------------------------------------------------
    def attention(self, index: int, a: Attention, pieces: list[tuple[int, int]]) -> None:
        """Groups of heads; the first residuals of the feed-forward part come meanwhile."""
        c, s, p = self.c, self.s, self.p
        groups = cut(s.geometry.heads, c.plan.tiling.heads)
        inputs = [(heads, rows) for heads in groups for rows in cut(s.tokens, p.rows)]
        base = self.inputs.base

        def load(k: int) -> None:
            first, count = inputs[k][1]
            wait = {} if k else {"wait": Semaphore.SPILLED, "wait_count": self.saved}
            if k >= p.buffers:
                wait = {"wait": Semaphore.FREED, "wait_count": 1}
            self.load(
                LoadKind.ACTIVATION,
                self.at.norm + first * self.at.norm_pitch,
                base + k % p.buffers * p.rows * p.norm,
                count * self.at.norm_pitch,
                f"block {index} norm1 of tokens {first}..{first + count - 1}",
                **wait,
            )

        for k in range(min(p.buffers, len(inputs))):
            load(k)
        self.saved = 0
        for k, (heads, (first, count)) in enumerate(inputs):
            group = groups.index(heads)
            queries = group % p.queries * s.tokens * p.group
            if first == 0 and group >= p.queries:
                c.code.add(
                    Sync(wait=Semaphore.ATTENDED, wait_count=1),
                    f"block {index} attention of heads {groups[group - p.queries][0]}.. stored",
                )
            source = Rows(
                base=base + k % p.buffers * p.rows * p.norm,
                stride=p.norm,
                count=count,
                first=first,
            )
            lower_heads(
                c,
                index,
                a,
                heads,
                source,
                queries=queries + first * p.group,
                stride=p.group,
                wait=Semaphore.LOADED,
                wait_count=1,
            )
            if k + p.buffers < len(inputs):
                c.code.add(Sync(signal=Semaphore.FREED, count=1), "inputs used")
                load(k + p.buffers)
            if k + 1 == len(inputs):
                for at in pieces:
                    self.load_residual(*at, at[0], signal=self.residual_reader(index))
            if first + count == s.tokens:
                attend(
                    c,
                    index,
                    a,
                    heads,
                    queries=queries,
                    target=queries,
                    stride=p.group,
                    signal=Semaphore.OUTPUT,
                    wait_count=0 if count == s.tokens else s.tiles,
                )
                self.store(
                    f"block {index} attention of heads {heads[0]}..{sum(heads) - 1}",
                    source=queries,
                    stride=p.group,
                    words=p.group,
                    rows=s.tokens,
                    address=self.at.attention + group * p.group * c.config.array.inputs,
                    pitch=self.at.attention_pitch,
                    signal=Semaphore.ATTENDED,
                )
        used(c, *range(max(2 * index - 1, 0), 2 * index + 1))  # LOADs that were taken follow them
        c.code.add(
            Sync(
                wait=Semaphore.ATTENDED,
                wait_count=min(p.queries, len(groups)),
                signal=Semaphore.FREED,
                count=1,
            ),
            f"block {index} attention stored",
        )

    # Feed-forward ------------------------------------------------------------------------------
    def feed_forward(
        self, index: int, block: Block, chunks: list[tuple[int, int]], piece: int
    ) -> None:
        """Projection, norm, feed-forward part and the next norm (or the frame's end)."""
        c, s, p = self.c, self.s, self.p
        needed(c, 2 * index + 1, 2 * index + 2)
        matrix = self.projection(index, block.attention)
        last = index + 1 == len(c.network.blocks)
        for n, (start, count) in enumerate(chunks):
            self.project(index, matrix, n, start, cut(count, piece))
            self.norm(
                block.norm2,
                2 * index + 1,
                f"block {index} norm2",
                rows=count,
                residual=c.plan.residual.base,
                target=c.plan.tokens.base,
                stride=p.row,
                signal=Semaphore.TOKENS,
            )
            more = n + 1 < len(chunks)
            span = Span(
                count=count,
                tokens=c.plan.tokens.base,
                stride=p.row,
                residual=c.plan.residual.base,
                work=c.plan.tokens.base + chunks[0][1] * p.row,
            )
            reader = self.reader(start) if last else Semaphore.RESIDUAL
            if isinstance(block.mlp, Mlp):
                lower_dense(c, index, block.mlp, span, signal=reader)
            else:
                credits = ceil_div(count, self.tile) if reader else 0
                lower_moe(c, index, block.mlp, span, signal=reader, credits=credits, more=more)
            if last:
                self.output(start, count, span.work, more=more)
                continue
            self.norm(
                c.network.blocks[index + 1].norm1,
                2 * index + 2,
                f"block {index + 1} norm1",
                rows=count,
                residual=c.plan.residual.base,
                target=c.plan.tokens.base,
                stride=p.row,
                signal=Semaphore.OUTPUT,
            )
            for first, rows in cut(count, piece):
                self.store_norm(start + first, rows, c.plan.tokens.base + first * p.row, p.row)
                self.store_residual(start + first, rows, c.plan.residual.base + first * s.words)

    def projection(self, index: int, a: Attention) -> Matrix:
        """Its inputs are the groups' rows, each padded to whole beats."""
        return self.c.grouped_inputs(
            f"block {index} projection", a.proj, self.c.plan.tiling.heads, self.p.group
        )

    def project(
        self, index: int, matrix: Matrix, n: int, start: int, pieces: list[tuple[int, int]]
    ) -> None:
        """Pieces of chunk ``n`` come in, each is projected; the weights are kept for the next."""
        c, s, p = self.c, self.s, self.p
        parts = split(matrix, c.config, demand=False)
        gate = index in self.gates
        if gate:
            self.gate_input(index, n, start, pieces)
        for part in parts:
            c.code.blocks.append(matrix.block(*part))
            for k, (first, rows) in enumerate(pieces):
                credits = 0
                if part == parts[0]:
                    credits = 1 if gate else 2
                    if n == 0 and not gate:  # its residuals came during attention
                        credits = 1 + (len(pieces) if k == 0 else 0)
                    elif not gate:
                        self.load_residual(start + first, rows, first, spilled=True)
                    self.load(
                        LoadKind.ACTIVATION,
                        self.at.attention + (start + first) * self.at.attention_pitch,
                        c.plan.tokens.base + first * p.row,
                        rows * self.at.attention_pitch,
                        f"block {index} attention of tokens {start + first}..",
                        wait=Semaphore.FREED if n == k == 0 else 0,
                        wait_count=int(n == k == 0),
                    )
                c.code.add(
                    Gemm(
                        source=c.plan.tokens.base + first * p.row,
                        stride=p.row,
                        depth=matrix.depth,
                        tokens=rows,
                        keep=int(k + 1 < len(pieces)),
                        otiles=part[1],
                        otile_base=part[0],
                        mode=Destination.RESIDUAL,
                        target=c.plan.residual.base + first * s.words,
                        target_stride=s.words,
                        wait=Semaphore.LOADED if credits else 0,
                        wait_count=credits,
                        signal=Semaphore.RESIDUAL if part == parts[-1] else 0,
                    ),
                    f"block {index} projection of tokens {start + first}..",
                )

    def residual_reader(self, index: int) -> Semaphore:
        """Who waits for the residuals of block ``index`` that come in: the NORM of its gate's
        input, where there is one, or the projection."""
        return Semaphore.SCALES if index in self.gates else Semaphore.LOADED

    def gate_input(self, index: int, n: int, start: int, pieces: list[tuple[int, int]]) -> None:
        """Plain NORM of chunk ``n``'s residuals, before the projection adds to them.

        Its place is free when everything before in the compute engine has been done: attention, and
        the router of the chunk before.
        """
        c, s, signal = self.c, self.s, self.residual_reader(index)
        if n:
            for first, rows in pieces:
                self.load_residual(start + first, rows, first, spilled=True, signal=signal)
        place, count = self.gates.index(index), sum(rows for _, rows in pieces)
        c.code.add(Sync(signal=signal, count=1), "place for the gate's input")
        c.code.add(
            Norm(
                source=c.plan.residual.base,
                words=s.words,
                tokens=count,
                target=c.plan.ahead.base,
                stride=s.chunks,
                params=c.plan.scales.base + place * s.words,
                dim=s.geometry.dim,
                plain=1,
                wait=signal,
                wait_count=len(pieces) + 1 + (place == n == 0),  # the first time its parameters too
                signal=Semaphore.TOKENS,
            ),
            f"block {index} input for the gate, tokens {start}..",
        )
        tiles = ceil_div(count, self.tile)
        c.code.add(Sync(wait=Semaphore.TOKENS, wait_count=tiles), "input for the gate complete")

    # The end -----------------------------------------------------------------------------------
    def reader(self, start: int) -> Semaphore:
        """Who takes the last residuals of the tokens from ``start`` on."""
        c = self.c
        if c.final_norm is None:
            return Semaphore.OUTPUT
        head = c.linear_head
        return Semaphore.NONE if head and head.class_token and start else Semaphore.RESIDUAL

    def output(self, start: int, count: int, work: int, *, more: bool) -> None:
        """Final norm, head and STORE of some tokens; ``more``: their place is needed again."""
        c, s, p = self.c, self.s, self.p
        out, base, row = output_rows(c), c.output, c.plan.tokens.base
        signal = Semaphore.SPILLED if more else Semaphore.NONE
        self.saved += more
        if c.final_norm is None:
            self.store(
                f"tokens {start}..{start + count - 1}",
                residual=1,
                source=c.plan.residual.base,
                stride=s.words,
                words=s.words,
                rows=count,
                address=base + start * out.pitch,
                pitch=out.pitch,
                signal=signal,
            )
            return
        head = c.linear_head
        if head and head.class_token and start:
            if more:
                c.code.add(Sync(signal=signal, count=1), "no output of these tokens")
            return
        tiles = ceil_div(count, self.tile)
        single = bool(head and head.class_token)
        assert isinstance(c.final_norm, LayerNorm), "a mean needs all tokens on the chip"
        self.norm(
            c.final_norm,
            2 * len(c.network.blocks),
            "final norm",
            rows=head.tokens if head and single else count,
            residual=c.plan.residual.base,
            target=row,
            stride=s.chunks if single else p.row,  # tokens that are read side by side
            wait_count=tiles if single else 0,
            signal=Semaphore.TOKENS if head else Semaphore.OUTPUT,
        )
        words = out.pitch // c.config.array.inputs
        if c.upsampling is not None:
            self.first_map(c.upsampling, start, count, signal=signal or Semaphore.ATTENDED)
            return
        if head is None:
            self.store(
                f"tokens {start}..{start + count - 1}",
                source=row,
                stride=p.row,
                words=words,
                rows=count,
                address=base + start * out.pitch,
                pitch=out.pitch,
                signal=signal,
            )
            return
        skip = 0 if single or start else s.geometry.front
        rows = 1 if single else count - skip
        first = 0 if single else start + skip - s.geometry.front
        if not rows:  # a class token alone
            c.code.add(
                Sync(wait=Semaphore.TOKENS, wait_count=tiles, signal=signal, count=int(more)),
                "no output of the class token",
            )
            return
        self.c.code.gemms(
            head_matrix(c, out),
            f"head {c.task}",
            source=row + skip * p.row,
            stride=p.row,
            tokens=rows,
            mode=Destination.ACT16,
            target=work,
            target_stride=words,
            wait=Semaphore.TOKENS,
            wait_count=ceil_div(head.tokens, self.tile) if single else tiles,
            signal=Semaphore.OUTPUT,
        )
        self.store(
            f"head {c.task} rows {first}..{first + rows - 1}",
            source=work,
            stride=words,
            words=words,
            rows=rows,
            address=base + first * out.pitch,
            pitch=out.pitch,
            signal=signal,
        )

    def first_map(self, head: UpsamplingHead, start: int, count: int, *, signal: int) -> None:
        """STORE of norm outputs that an upsampling head reads when it has the last of them."""
        c, at = self.c, self.at
        self.store(
            f"norm outputs of tokens {start}..{start + count - 1}",
            source=c.plan.tokens.base,
            stride=self.p.row,
            words=self.p.norm,
            rows=count,
            address=at.norm + start * at.norm_pitch,
            pitch=at.norm_pitch,
            signal=signal,
        )
        if start + count == self.s.tokens:
            c.code.add(
                Sync(wait=Semaphore.ATTENDED, wait_count=1, signal=Semaphore.FREED, count=1),
                "patches are a map",
            )
            lower_maps(c, head)

    # Instructions ------------------------------------------------------------------------------
    def gemms(self, matrix: Matrix, note: str, **fields: int) -> None:
        """A matrix onto the residual stream."""
        wait = {name: fields.pop(name) for name in ("wait", "wait_count")}
        signal = fields.pop("signal")
        groups = split(matrix, self.c.config, demand=False)
        for group in groups:
            self.c.code.gemm(
                matrix,
                note,
                group=group if len(groups) > 1 else None,
                mode=Destination.RESIDUAL,
                target_stride=self.s.words,
                signal=signal if group == groups[-1] else 0,
                **wait,
                **fields,
            )
            wait = {}

    def norm(
        self,
        norm: LayerNorm,
        number: int,
        note: str,
        *,
        rows: int,
        residual: int,
        target: int,
        stride: int,
        wait_count: int = 0,
        signal: int,
    ) -> None:
        """NORM of rows that lie anywhere."""
        s = self.s
        self.c.code.add(
            Norm(
                source=residual,
                words=s.words,
                tokens=rows,
                target=target,
                stride=stride,
                params=self.c.plan.norm_row(number, s.words),
                dim=s.geometry.dim,
                eps=norm.eps,
                wait=Semaphore.RESIDUAL,
                wait_count=wait_count,
                signal=signal,
            ),
            note,
        )

    def load(
        self,
        kind: LoadKind,
        address: int,
        target: int,
        size: int,
        note: str,
        signal: int = Semaphore.LOADED,
        **wait: int,
    ) -> None:
        """LOAD of what was stored."""
        self.c.code.add(
            Load(
                kind=kind,
                stored=1,
                address=address,
                target=target,
                beats=size // BEAT_BYTES,
                signal=signal,
                **wait,
            ),
            note,
        )

    def load_residual(
        self,
        start: int,
        rows: int,
        first: int,
        *,
        spilled: bool = False,
        signal: int = Semaphore.LOADED,
    ) -> None:
        """Residuals of tokens ``start ..`` to row ``first`` on the chip."""
        waits = spilled and self.saved > 0
        self.saved -= waits
        self.load(
            LoadKind.RESIDUAL,
            self.at.residual + start * self.at.residual_pitch,
            self.c.plan.residual.base + first * self.s.words,
            rows * self.at.residual_pitch,
            f"residuals of tokens {start}..{start + rows - 1}",
            signal,
            wait=Semaphore.SPILLED if waits else 0,
            wait_count=int(waits),
        )

    def store(self, note: str, **fields: int) -> None:
        """STORE of rows that somebody makes tile by tile."""
        self.c.code.add(Store(wait=Semaphore.OUTPUT, **fields), note)

    def store_norm(self, token: int, rows: int, source: int, stride: int) -> None:
        """Norm outputs of tokens ``token ..``."""
        self.store(
            f"norm outputs of tokens {token}..{token + rows - 1}",
            source=source,
            stride=stride,
            words=self.p.norm,
            rows=rows,
            address=self.at.norm + token * self.at.norm_pitch,
            pitch=self.at.norm_pitch,
        )

    def store_residual(self, token: int, rows: int, source: int) -> None:
        """Residuals of the same tokens: complete, since the norm has read them."""
        self.saved += 1
        self.c.code.add(
            Store(
                residual=1,
                source=source,
                stride=self.s.words,
                words=self.s.words,
                rows=rows,
                address=self.at.residual + token * self.at.residual_pitch,
                pitch=self.at.residual_pitch,
                signal=Semaphore.SPILLED,
            ),
            f"residuals of tokens {token}..{token + rows - 1}",
        )
