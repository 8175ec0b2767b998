"""A quantised network as an ONNX graph in QDQ form: standard operators around its own integers.

Every tensor that the accelerator keeps as integers goes through ``QuantizeLinear`` and
``DequantizeLinear`` with the network's scale and zero point; weights are initialisers of 8 bits
(int4 for experts of 4 bits), biases int32 in units of the accumulator, with the inputs' zero point
times the weights added. Eight bits are unsigned throughout, for the sake of processors without VNNI
(:mod:`.qdq_graph`), and both operands of a product come straight from ``DequantizeLinear``, lest a
runtime quantises a float one by itself. Between integers the graph computes in floats, so it is
close to the golden model, not equal: it has no tables for activation functions, exponentials and
reciprocals, no 15-bit scores, and halves are rounded to even. Where a rounding moves a token to
another expert, that token differs by more.

Scales are real ones except behind a LayerNorm and in keys, queries and values: there the network
has folded a scale for each channel into the neighbouring weights, and a step of the tensor is 1
(for queries and keys the root of their product's scale).

The mixture runs every expert on every token, as :mod:`.onnx` explains. Input ``images``
``(batch, H, W, C)`` uint8, batch dynamic; outputs as those of the float export.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import e, log2
from pathlib import Path
from typing import Any

import numpy as np

from moevit.quant.formats import LOGIT, SCORE
from moevit.quant.golden import PIXEL_OFFSET, Golden
from moevit.quant.network import Attention, Mlp, Moe, Network
from moevit.quant.operators.activations import Activation, activation
from moevit.quant.operators.layernorm import X_HAT_FRAC, LayerNorm
from moevit.quant.operators.linear import Linear
from moevit.quant.operators.rescale import Rescale
from moevit.quant.operators.upsampling import UpsamplingHead

from ..checkpoint import write_atomically
from .qdq_graph import MIDDLE, Graph
from .qdq_upsampling import upsampled

__all__ = ["QDQ_OPSET", "export_qdq", "qdq_difference"]

QDQ_OPSET = 21
"""Version of ONNX's standard operators; 21 is the first with int16 and int4 in QuantizeLinear."""

Report = dict[str, Any]

_LN2_STEP = 1 / (log2(e) * (1 << LOGIT.frac))
"""Natural logarithm's worth of one step of a logit or a score."""


class _Builder(Graph):
    """A network's layers as nodes; every method returns the name of a value."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.net = network
        self.kept: dict[str, str] = {}  # weights by path: all tasks share them

    # Layers ------------------------------------------------------------------------------------
    def weights(
        self,
        path: str,
        layers: Sequence[Linear],
        out_scale: float,
        in_scale: Any,
        zero_points: Any = 0,
    ) -> tuple[str, str]:
        """Real weights ``(K, E * O)`` and biases ``(E * O,)`` of layers side by side.

        A step of the input of layer ``n`` is ``in_scale[n]``, one of each output ``out_scale``. The
        network's biases count on codes whose 0 is ``zero_points[n]``; these count on real inputs.
        """
        if path in self.kept:
            return self.kept[path], self.kept[path + ".bias"]
        bits = layers[0].weight_bits
        step = [
            layer.mult.astype(np.float64) * 2.0 ** -layer.shift.astype(np.float64) * out_scale
            for layer in layers
        ]  # of the accumulator
        inputs = np.broadcast_to(np.asarray(in_scale, np.float64), (len(layers),))
        real = np.concatenate([s / i for s, i in zip(step, inputs, strict=True)])
        codes = np.concatenate([layer.weight.T for layer in layers], axis=1)
        parts = [
            self.initialiser(f"{path}.weight", codes, bits),
            self.initialiser(f"{path}.weight_scale", real.astype(np.float32)),
        ]
        if bits == 8:
            parts.append(self.constant(np.full(codes.shape[1], MIDDLE), np.uint8))
        weight = self.add("DequantizeLinear", *parts, axis=1)
        points = np.broadcast_to(np.asarray(zero_points, np.int64), (len(layers),))
        biases = [  # the accumulator's bound holds for these too: a code may be the zero point
            (layer.bias + zero * layer.weight.sum(axis=1, dtype=np.int64)).astype(np.int32)
            for layer, zero in zip(layers, points, strict=True)
        ]
        bias = self.add(
            "DequantizeLinear",
            self.initialiser(f"{path}.bias", np.concatenate(biases)),
            self.initialiser(f"{path}.bias_scale", np.concatenate(step).astype(np.float32)),
            axis=0,
        )
        self.kept[path], self.kept[path + ".bias"] = weight, bias
        return weight, bias

    def linear(
        self,
        path: str,
        x: str,
        layer: Linear,
        out_scale: float,
        in_scale: float = 1.0,
        zero_point: int = 0,
    ) -> str:
        """``x`` ``(..., K)`` real, whose integers have ``zero_point``, to real outputs."""
        weight, bias = self.weights(path, [layer], out_scale, in_scale, zero_point)
        out: str = self.add("Add", self.add("MatMul", x, weight), bias)
        return out

    def norm(self, path: str, x: str, norm: LayerNorm, shape: tuple[int, ...] = ()) -> str:
        """LayerNorm of the real residual stream to codes, a step of which is 1.

        ``shape`` is given to the result in front of its Q, which onnxruntime would move wrongly.
        """
        y = self.affine(path, x, norm)
        return self.byte(self.reshape(y, *shape) if shape else y, 1.0)

    def affine(self, path: str, x: str, norm: LayerNorm, scale: float = 0.0) -> str:
        """LayerNorm in front of its codes; a step of ``x`` is ``scale``, or the residual's."""
        unit = 2.0 ** -norm.shift.astype(np.float64)
        dim = self.net.geometry.dim
        gain = (norm.gain * unit * (1 << X_HAT_FRAC)).astype(np.float32)
        x_hat = self.add(
            "LayerNormalization",
            x,
            self.constant(np.ones(dim)),
            axis=-1,
            epsilon=norm.eps * ((scale or self.net.residual_scale) / dim) ** 2,
        )
        x_hat = self.qdq(x_hat, 1 / (1 << X_HAT_FRAC), 0, np.int16)
        y = self.add("Mul", x_hat, self.once(f"{path}.gain", gain))
        bias = self.once(f"{path}.bias", (norm.bias * unit).astype(np.float32))
        return str(self.add("Add", y, bias))

    def rescaled(self, path: str, x: str, rescale: Rescale) -> str:
        """Codes of the real residual stream, a scale and a centre a channel."""
        unit = 2.0 ** -rescale.shift.astype(np.float64)
        gain = (rescale.gain * unit / self.net.residual_scale).astype(np.float32)
        y = self.add("Mul", x, self.once(f"{path}.gain", gain))
        bias = self.once(f"{path}.bias", (rescale.bias * unit).astype(np.float32))
        return self.byte(self.add("Add", y, bias), 1.0)

    def residual(self, x: str) -> str:
        return self.qdq(x, self.net.residual_scale, 0, np.int16)

    def hidden(
        self, value: str, function: Activation, scale: Any, zero: Any, axis: int | None = None
    ) -> str:
        """Pre-activation through 16 bits, the function, 8 bits."""
        x = self.qdq(value, function.step, 0, np.int16)
        if function.gain != 1:
            x = self.scaled(x, function.gain)
        x = function.onnx(self.add, x)
        if function.gain != 1:
            x = self.scaled(x, 1 / function.gain)
        return self.byte(self.qdq(x, function.step, 0, np.int16), scale, zero, axis)

    # Network -----------------------------------------------------------------------------------
    def embed(self) -> str:
        g = self.net.geometry
        rows, columns = g.grid
        x = self.reshape("images", -1, rows, g.patch, columns, g.patch, g.channels)
        x = self.transpose(x, 0, 1, 3, 2, 4, 5)
        x = self.reshape(x, -1, g.patches, g.patch**2 * g.channels)
        x = self.add(
            "DequantizeLinear", x, self.constant(1.0), self.constant(PIXEL_OFFSET, np.uint8)
        )
        scale = self.net.residual_scale
        x = self.linear("patch_embed", x, self.net.patch_embed, scale)
        table = self.add(
            "DequantizeLinear",
            self.initialiser("embedding", self.net.embedding.astype(np.int16)),
            self.constant(scale),
        )
        for _ in range(g.front):  # a row of zeros an image, in front
            first = self.scaled(
                self.add("Slice", x, *(self.constant(v, np.int64) for v in ([0], [1], [1]))), 0.0
            )
            x = self.add("Concat", first, x, axis=1)
        x = self.residual(self.add("Add", x, table))
        entry = self.net.entry
        if entry is None:
            return x
        return self.residual(
            self.linear("entry.linear", self.norm("entry.norm", x, entry.norm), entry.linear, scale)
        )

    def attention(self, path: str, y: str, a: Attention) -> str:
        g, tokens = self.net.geometry, self.net.geometry.tokens
        product = a.softmax.score.scale * _LN2_STEP  # real score of one step of q . k
        unit = float(np.sqrt(product))
        split = []
        for name, layer, step in (("q", a.q, unit), ("k", a.k, unit), ("v", a.v, 1.0)):
            t = self.linear(f"{path}.{name}", y, layer, step)
            t = self.reshape(t, -1, tokens, g.heads, g.head_dim)
            t = self.transpose(t, *((0, 2, 3, 1) if name == "k" else (0, 2, 1, 3)))
            split.append(self.byte(t, step))
        q, k, v = split
        scores = self.qdq(self.add("MatMul", q, k), _LN2_STEP, 0, np.int16)
        last = self.constant([-1], np.int64)
        peak = self.add("ReduceMax", scores, last, keepdims=1)
        p = self.qdq(self.add("Exp", self.add("Sub", scores, peak)), 1 / 127, 0, np.uint8)
        total = self.add("ReduceSum", p, last, keepdims=1)
        out = self.add("Div", self.add("MatMul", p, v), total)
        out = self.reshape(self.transpose(out, 0, 2, 1, 3), -1, tokens, g.dim)
        step = 1 / a.softmax.out.scale
        out = self.byte(out, step)
        return self.linear(f"{path}.proj", out, a.proj, self.net.residual_scale, step)

    def mlp(self, path: str, y: str, mlp: Mlp) -> str:
        function, step, zero = activation(mlp.hidden.function), *_hidden(mlp)
        pre = self.linear(f"{path}.fc1", y, mlp.fc1, function.step)
        hidden = self.hidden(pre, function, step, zero)
        return self.linear(f"{path}.fc2", hidden, mlp.fc2, self.net.residual_scale, step, zero)

    def scores(self, path: str, y: str, before: str, moe: Moe, task: str) -> str:
        """Scores ``(B, N, E)`` of all experts, 0 for those that were not chosen.

        ``before``: the residual stream in front of the block.
        """
        if moe.ahead is not None:
            y = self.rescaled(f"{path}.ahead", before, moe.ahead)
        logits = self.linear(f"{path}.routers.{task}", y, moe.routers[task], _LN2_STEP)
        logits = self.qdq(logits, _LN2_STEP, 0, np.int16)
        k = self.constant([moe.gate.k], np.int64)
        best, indices = self.add("TopK", logits, k, axis=-1, outputs=2)
        if moe.gate.renormalise:
            chosen = self.add("Softmax", best, axis=-1)
        else:
            everyone = self.add("Softmax", logits, axis=-1)
            chosen = self.add("GatherElements", everyone, indices, axis=-1)
        if moe.gate.enough:
            along = self.constant(-1, np.int64)
            before = self.add("CumSum", chosen, along, exclusive=1)
            limit = self.constant((moe.gate.enough - 0.5) / (1 << SCORE.frac))
            few = self.add("Less", before, limit)
            chosen = self.add("Where", few, chosen, self.constant(0.0))
        if moe.gate.least:
            # A score is rounded to 15 bits before it is compared.
            least = self.constant((moe.gate.least - 0.5) / (1 << SCORE.frac))
            kept = self.add("GreaterOrEqual", chosen, least)
            chosen = self.add("Where", kept, chosen, self.constant(0.0))
        nothing = self.scaled(logits, 0.0)
        scores: str = self.add("ScatterElements", nothing, indices, chosen, axis=-1)
        window = moe.window(task)
        if len(window) < len(moe.experts):
            ends = [0, 0, window.start, 0, 0, len(moe.experts) - window.stop]
            scores = self.add("Pad", scores, self.constant(ends, np.int64))
        return scores

    def moe(self, path: str, y: str, before: str, moe: Moe, task: str) -> str:
        """All experts on all tokens, weighted by the scores of the chosen ones."""
        g, experts = self.net.geometry, len(moe.experts)
        scores = self.scores(path, y, before, moe, task)
        function = activation(moe.experts[0].hidden.function)
        weight, bias = self.weights(f"{path}.fc1", [x.fc1 for x in moe.experts], function.step, 1.0)
        pre = self.add("Add", self.add("MatMul", y, weight), bias)  # (B, N, E * hidden)
        width = moe.experts[0].fc1.weight.shape[0]
        steps, zeros = zip(*(_hidden(x) for x in moe.experts), strict=True)
        steps_of, zeros_of = np.repeat(steps, width), np.repeat(zeros, width)
        hidden = self.hidden(pre, function, steps_of, zeros_of, axis=2)
        hidden = self.reshape(hidden, -1, g.tokens, experts, width)
        hidden = self.transpose(hidden, 2, 0, 1, 3)  # (E, B, N, hidden)
        hidden = self.add("Mul", hidden, self.columns(scores))
        weight, bias = self.weights(
            f"{path}.fc2", [x.fc2 for x in moe.experts], self.net.residual_scale, steps, zeros
        )
        stacked = f"{path}.fc2.stacked"
        if stacked not in self.kept:
            split = self.reshape(weight, width, experts, g.dim)
            self.kept[stacked] = self.reshape(
                self.transpose(split, 1, 0, 2), experts, 1, width, g.dim
            )
            self.kept[stacked + ".bias"] = self.reshape(bias, experts, g.dim)
        out = self.add("MatMul", hidden, self.kept[stacked])  # (E, B, N, D)
        out = self.add("ReduceSum", out, self.constant([0], np.int64), keepdims=0)
        return str(self.add("Add", out, self.add("MatMul", scores, self.kept[stacked + ".bias"])))

    def columns(self, scores: str) -> str:
        """Scores ``(B, N, E)`` as ``(E, B, N, 1)``."""
        out: str = self.add(
            "Unsqueeze", self.transpose(scores, 2, 0, 1), self.constant([3], np.int64)
        )
        return out

    def block(self, index: int, x: str, task: str) -> str:
        block, path, before = self.net.blocks[index], f"blocks.{index}", x
        y = self.norm(f"{path}.norm1", x, block.norm1)
        x = self.residual(self.add("Add", x, self.attention(path, y, block.attention)))
        y = self.norm(f"{path}.norm2", x, block.norm2)
        if isinstance(block.mlp, Moe):
            change = self.moe(path, y, before, block.mlp, task)
        else:
            change = self.mlp(path, y, block.mlp)
        return self.residual(self.add("Add", x, change))

    def output(self, x: str, task: str) -> tuple[str, list[int]]:
        """A task's result and its shape behind the batch."""
        g, net = self.net.geometry, self.net
        head, norm = net.heads.get(task), net.final_norm(task)
        if head is not None:  # in front of the norm, which then has fewer tokens
            ends = ([0], [head.tokens]) if head.class_token else ([g.front], [g.tokens])
            x = self.add("Slice", x, *(self.constant(v, np.int64) for v in (*ends, [1])))
        path = "norm" if norm is net.norm else f"heads.{task}.norm"
        if isinstance(head, UpsamplingHead):
            if isinstance(norm, LayerNorm):
                x = self.affine(path, x, norm)
            size = [head.upscale * side for side in g.grid]
            return upsampled(self, f"heads.{task}", x, head), [head.channels, *size]
        if isinstance(norm, Rescale):
            x = self.rescaled(path, x, norm)
        elif norm is not None:
            several = head is not None and head.tokens > 1
            flat = (-1, 1, head.tokens * g.dim) if head is not None and several else ()
            x = self.norm(path, x, norm, flat)
        if head is None:
            if net.norm_scale:
                x = self.scaled(x, net.norm_scale)
            return x, [g.tokens, g.dim]
        scale = head.linear.scale
        if head.mean is not None:
            x = self.add("ReduceMean", x, self.constant([1], np.int64), keepdims=1)
            x = self.byte(self.scaled(x, head.mean.scale), 1.0)
        if head.pooled is not None:  # a residual of its own, a step of which is 1
            behind = f"heads.{task}.pooled"
            x = self.qdq(self.linear(behind, x, head.pooled.linear, 1.0), 1.0, 0, np.int16)
            x = self.byte(self.affine(f"{behind}.norm", x, head.pooled.norm, 1.0), 1.0)
        x = self.qdq(self.linear(f"heads.{task}", x, head.linear, scale), scale, 0, np.int16)
        if head.single:
            return self.reshape(x, -1, head.channels), [head.channels]
        (rows, columns), s = g.grid, head.upscale
        x = self.reshape(x, -1, rows, columns, head.channels, s, s)
        x = self.transpose(x, 0, 3, 1, 4, 2, 5)
        shape = [head.channels, rows * s, columns * s]
        return self.reshape(x, -1, *shape), shape

    def model(self, tasks: Sequence[str]) -> Any:
        """The whole graph; what precedes the first mixture is computed once."""
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        blocks = self.net.blocks
        first = next((i for i, b in enumerate(blocks) if isinstance(b.mlp, Moe)), len(blocks))
        shared = self.embed()
        for i in range(first):
            shared = self.block(i, shared, "")
        outputs = []
        for task in tasks:
            x = shared
            for i in range(first, len(blocks)):
                x = self.block(i, x, task)
            name, shape = self.output(x, task)
            self.nodes.append(helper.make_node("Identity", [name], [task], name=f"out_{task}"))
            outputs.append(helper.make_tensor_value_info(task, kinds.FLOAT, ["batch", *shape]))
        g = self.net.geometry
        images = helper.make_tensor_value_info(
            "images", kinds.UINT8, ["batch", g.image_height, g.image_width, g.channels]
        )
        graph = helper.make_graph(
            self.nodes, "moevit_qdq", [images], outputs, initializer=list(self.tensors.values())
        )
        proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", QDQ_OPSET)],
            producer_name="moevit",
            ir_version=10,
        )
        entry = proto.metadata_props.add()
        about = self.net.meta.get("model", {"image": [g.image_height, g.image_width]})
        entry.key, entry.value = "moevit", json.dumps(about)
        return proto


def _hidden(mlp: Mlp) -> tuple[float, int]:
    """Real step and zero point of an MLP's hidden activations."""
    return mlp.hidden.scale, mlp.hidden.zero_point


def export_qdq(
    network: Network,
    path: Path | str,
    tasks: Sequence[str] | None = None,
    *,
    images: Any | None = None,
) -> Report:
    """Write ``tasks`` (default: all) of a quantised network as one QDQ ONNX file.

    The file is written if ONNX's checker accepts it and onnxruntime runs it. Returns ``opset``,
    ``tasks``, ``operators`` (how many of each), ``bytes`` and ``difference`` (of each task, see
    :func:`qdq_difference`; on ``images`` ``(N, H, W, C)`` uint8, by default four of noise).

    Raises ``ValueError`` for an unknown task.
    """
    names = list(network.tasks if tasks is None else tasks)
    for name in names or [""]:
        if name not in network.tasks:
            raise ValueError(f"Task must be one of {', '.join(network.tasks)}, not {name!r}")
    builder = _Builder(network)
    proto = builder.model(names)
    builder.onnx.checker.check_model(proto, full_check=True)
    data = proto.SerializeToString()
    if images is None:
        g = network.geometry
        shape = (4, g.image_height, g.image_width, g.channels)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    difference = qdq_difference(network, data, names, images)
    write_atomically(Path(path), data)
    operators: dict[str, int] = {}
    for node in proto.graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    return {
        "opset": QDQ_OPSET,
        "tasks": names,
        "operators": dict(sorted(operators.items())),
        "difference": difference,
        "bytes": len(data),
    }


def qdq_difference(
    network: Network, data: bytes, tasks: Sequence[str], images: Any
) -> dict[str, dict[str, float]]:
    """onnxruntime against the golden model, in the units of the outputs.

    For each task ``max`` and ``mean`` of the absolute difference, ``peak``, the golden model's
    largest absolute value, and ``sqnr_db``, ten times the logarithm of the variance of the golden
    outputs over the mean squared difference.
    """
    from .onnx import session

    golden = Golden(network)
    got = session(data).run(list(tasks), {"images": images})
    found = {}
    for task, results, real in zip(
        tasks, golden.run_batch(images, tasks).values(), got, strict=True
    ):
        raw = np.stack([result.output for result in results])
        head = network.heads.get(task)
        if head is not None:
            exact = golden.dequantise(raw, task).reshape(real.shape)
        else:
            exact = raw * network.token_scale
        gap = np.abs(real.astype(np.float64) - exact)
        noise, variance = float(np.mean(gap**2)), float(np.var(exact))
        found[task] = {
            "max": float(gap.max()),
            "mean": float(gap.mean()),
            "peak": float(np.abs(exact).max()),
            "sqnr_db": round(10 * float(np.log10(max(variance, 1e-30) / max(noise, 1e-30))), 2),
        }
    return found
