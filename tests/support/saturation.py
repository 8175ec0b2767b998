"""Products of an ONNX file as processors without VNNI compute them.

A runtime may fuse ``DequantizeLinear`` and a product into a kernel on bytes. Where an operand is
signed, x86 kernels take the first operand unsigned and the second signed (an offset of 128 is put
right afterwards) and add pairs of products in 16 bits that saturate (``vpmaddubsw``). Two unsigned
operands are widened to 16 bits first (``vpmaddwd``), which is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["Product", "accumulated", "compared", "products", "recorded", "signed"]

_PRODUCTS = {"MatMul", "Gemm", "Conv", "Einsum"}
_LAYOUT = {"Concat", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
_FEW = 40  # rows of an operand that are multiplied


@dataclass(frozen=True, kw_only=True)
class Product:
    """A node and what makes its operands: ``DequantizeLinear`` nodes, or None for floats."""

    node: Any
    operands: tuple[Any, Any]


def products(proto: Any) -> Iterator[Product]:
    """Every product of two tensors in the graph."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        if node.op_type in _PRODUCTS:
            found = [makers.get(name) for name in node.input[:2]]
            ends = [n if n is not None and n.op_type == "DequantizeLinear" else None for n in found]
            yield Product(node=node, operands=(ends[0], ends[1]))


def recorded(proto: Any, images: Any) -> dict[str, Any]:
    """Codes that every ``DequantizeLinear`` reads when the graph runs on ``images``, not fused."""
    import onnxruntime

    held = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    wanted = {n.input[0] for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    inner = sorted(wanted - set(held) - {"images"})
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = onnxruntime.InferenceSession(watched.SerializeToString(), options).run
    return {**held, **dict(zip(inner, run(inner, {"images": images}), strict=True))}


def accumulated(a: Any, b: Any) -> tuple[Any, Any]:
    """Sums of products of codes ``(..., M, K)`` and ``(..., K, N)``: exact ones, a kernel's."""
    wide_a, wide_b = a.astype(np.int64), b.astype(np.int64)
    exact = wide_a @ wide_b
    if a.dtype == b.dtype == np.uint8:
        return exact, exact
    up = 0 if a.dtype == np.uint8 else 128
    down = 128 if b.dtype == np.uint8 else 0
    first, second = wide_a + up, wide_b - down
    odd = a.shape[-1] % 2
    left = np.pad(first, [(0, 0)] * (first.ndim - 1) + [(0, odd)])
    right = np.pad(second, [(0, 0)] * (second.ndim - 2) + [(0, odd), (0, 0)])
    terms = left[..., :, :, None] * right[..., None, :, :]  # (..., M, K, N)
    pairs = np.clip(terms[..., 0::2, :] + terms[..., 1::2, :], -(1 << 15), (1 << 15) - 1)
    got = pairs.sum(axis=-2) - up * second.sum(axis=-2, keepdims=True)
    return exact, got + down * wide_a.sum(axis=-1, keepdims=True)


def compared(product: Product, codes: dict[str, Any]) -> tuple[Any, Any]:
    """:func:`accumulated` of a product's operands, of which some rows."""
    a, b = (codes[operand.input[0]] for operand in product.operands)
    if b.ndim == 2:
        a = a.reshape(-1, a.shape[-1])
    else:
        a, b = a[:1, :2], b[:1, :2]
    return accumulated(a[..., :: max(1, a.shape[-2] // _FEW), :], b)


def signed(proto: Any) -> Any:
    """The same graph with the second operand of each product of bytes signed, as is usual."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    held = {t.name: t for t in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for product in list(products(changed)):
        data = product.operands[1]
        if data is None or data.input[2:] == []:
            continue
        nodes, source = [data], data.input[0]
        while source not in held:
            maker = makers[source]
            source = maker.input[0]
            if maker.op_type == "QuantizeLinear":
                nodes.append(maker)
                break
            assert maker.op_type in _LAYOUT
        else:
            if held[source].data_type == onnx.TensorProto.UINT8:
                held[source].CopyFrom(_lowered(held[source], source))
        for node in nodes:
            point = held[node.input[2]]
            if point.data_type == onnx.TensorProto.UINT8:
                name = point.name + ".signed"
                if name not in held:
                    graph.initializer.append(_lowered(point, name))
                    held[name] = graph.initializer[-1]
                node.input[2] = name
    return changed


def _lowered(tensor: Any, name: str) -> Any:
    codes = numpy_helper.to_array(tensor).astype(np.int16) - 128
    return numpy_helper.from_array(codes.astype(np.int8), name)
