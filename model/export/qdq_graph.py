"""The pieces of a QDQ graph, whatever network it is of.

Eight-bit integers are written unsigned, a code ``c`` as ``c + 128`` with the zero point moved as
much, weights like activations. The value is the same; what differs is the kernel that a runtime
takes for a product. With a signed operand x86 processors without VNNI add pairs of products in 16
bits that saturate (``vpmaddubsw``: up to 2 x 255 x 128 against 32767); for two unsigned operands
there is no such instruction, and runtimes widen to 16 bits before they multiply.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

__all__ = ["MIDDLE", "Graph"]

MIDDLE = 128
"""What is added to a code of eight bits in the file."""


class Graph:
    """Nodes and initialisers, and the operators that make them; each returns a value's name."""

    def __init__(self) -> None:
        import onnx

        self.onnx = onnx
        self.nodes: list[Any] = []
        self.tensors: dict[str, Any] = {}
        self.count = 0

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; several names for several ``outputs``."""
        self.count += 1
        names = [f"{op.lower()}_{self.count}" + (f"_{n}" if n else "") for n in range(outputs)]
        self.nodes.append(
            self.onnx.helper.make_node(op, list(inputs), names, name=names[0], **attributes)
        )
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        """A small constant, shared with equal ones."""
        array = np.asarray(value, kind)
        shape = "x".join(map(str, array.shape))
        name = f"c_{array.dtype}_{shape}_{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
        if name not in self.tensors:
            self.tensors[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def initialiser(self, name: str, array: Any, bits: int = 0) -> str:
        """A tensor of the network; ``bits`` 8 writes codes unsigned, 4 packs them as int4."""
        if bits == 4:
            tensor = self.onnx.helper.make_tensor(
                name, self.onnx.TensorProto.INT4, array.shape, array.ravel().astype(np.int8)
            )
        else:
            if bits == 8:
                array = (array.astype(np.int16) + MIDDLE).astype(np.uint8)
            tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.tensors[name] = tensor
        return name

    def reshape(self, x: str, *shape: int) -> str:
        """To ``shape``, in which -1 stands for the batch."""
        out: str = self.add("Reshape", x, self.constant(shape, np.int64))
        return out

    def transpose(self, x: str, *order: int) -> str:
        """Axes in ``order``."""
        out: str = self.add("Transpose", x, perm=list(order))
        return out

    def scaled(self, x: str, factor: Any) -> str:
        """Times a constant."""
        out: str = self.add("Mul", x, self.constant(factor))
        return out

    def qdq(self, x: str, scale: Any, zero: Any, kind: Any, axis: int | None = None) -> str:
        """Through integers of type ``kind`` and back."""
        step, point = self.constant(scale), self.constant(zero, kind)
        about = {} if axis is None else {"axis": axis}
        codes = self.add("QuantizeLinear", x, step, point, **about)
        out: str = self.add("DequantizeLinear", codes, step, point, **about)
        return out

    def byte(self, x: str, scale: Any, zero: Any = 0, axis: int | None = None) -> str:
        """Through codes of eight bits and back; ``zero``: the code of 0, -128..127."""
        return self.qdq(x, scale, np.add(zero, MIDDLE), np.uint8, axis)

    def codes(self, x: str, scale: float, zero: int = 0) -> str:
        """To codes of eight bits, as :meth:`byte` has them in between."""
        step, point = self.constant(scale), self.constant(zero + MIDDLE, np.uint8)
        out: str = self.add("QuantizeLinear", x, step, point)
        return out

    def real(self, codes: str, scale: float, zero: int = 0) -> str:
        """What :meth:`codes` stand for."""
        step, point = self.constant(scale), self.constant(zero + MIDDLE, np.uint8)
        out: str = self.add("DequantizeLinear", codes, step, point)
        return out

    def once(self, name: str, array: Any) -> str:
        """A tensor that several nodes use, made by the first."""
        return name if name in self.tensors else self.initialiser(name, array)
