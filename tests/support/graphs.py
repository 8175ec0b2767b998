"""Graphs as the compiler's passes see them, and small ones made by hand."""

from moevit.compiler.graph import Graph, Memory, Op, Tensor, Weights
from moevit.compiler.passes.order import order
from moevit.compiler.plan.layout import Shapes, pack_linear
from moevit.hw.config import AcceleratorConfig, preset
from moevit.hw.isa import Destination, Gemm, Load, LoadKind, Norm, Store
from moevit.quant.network import Network
from moevit.quant.random_network import random_network

__all__ = ["Hand", "graphs"]


def graphs(network: Network, config: AcceleratorConfig, monkeypatch, **options) -> list[Graph]:
    """The ordered graph of every frame; ``before``: its operations as lowering wrote them."""
    from moevit.compiler import driver

    found: list[Graph] = []

    def record(graph: Graph) -> None:
        before = list(graph.ops)
        order(graph)
        found.append(graph)
        graph.before = before  # type: ignore[attr-defined]

    monkeypatch.setattr(driver, "order", record)
    driver.compile_network(network, config, **options)
    return found


class Hand:
    """A graph made by hand on a chip of 2 tokens a tile: X has words 0.., A has words 0.. ."""

    def __init__(self) -> None:
        config = preset("micro")
        network = random_network(0)
        self.shapes = Shapes(config=config, geometry=network.geometry)
        self.matrix = pack_linear(network.patch_embed, config)
        self.graph = Graph(config=config)
        self.graph.regions = dict.fromkeys(("A", "X", "M", "N"), 0)
        self.graph.sizes = dict.fromkeys(Memory, 1000)

    def tensor(self, memory: Memory, start: int, rows: int, pitch: int = 2) -> Tensor:
        """Rows of words."""
        name = f"{memory}{start}"
        return Tensor(
            name=name, memory=memory, region=memory, pitch=pitch, rows=range(rows), offset=start
        )

    def _add(self, kind, reads, writes, rows: int, **fields) -> Op:
        op = Op(
            kind=kind,
            note=f"{kind.__name__} {len(self.graph.ops)}",
            reads=tuple(t.at(t.rows) for t in reads),
            writes=tuple(t.at(t.rows) for t in writes),
            rows=rows,
            fields=fields,
        )
        return self.graph.add(op)

    def gemm(self, source: Tensor, target: Tensor) -> Op:
        """Rows of A to rows of A or X."""
        mode = Destination.ACT8 if target.memory == Memory.ACTIVATIONS else Destination.RESIDUAL
        op = self._add(Gemm, [source], [target], len(source.rows), mode=int(mode))
        op.weights = Weights(matrix=self.matrix, otiles=range(self.matrix.otiles))
        return op

    def norm(self, source: Tensor, target: Tensor, parameters: Tensor) -> Op:
        """Rows of X to rows of A."""
        op = self._add(Norm, [source], [target], len(source.rows))
        op.reads += (parameters.at(parameters.rows, whole=True),)
        return op

    def load(self, target: Tensor, source: Tensor | None = None) -> Op:
        """Anything to the chip."""
        op = self._add(Load, [source] if source else [], [target], 1)
        op.fields["kind"] = LoadKind.ACTIVATION
        return op

    def store(self, source: Tensor, target: Tensor) -> Op:
        """Rows to memory."""
        return self._add(Store, [source], [target], len(source.rows))
