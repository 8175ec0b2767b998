"""The float network as an ONNX graph of standard operators, checked against PyTorch.

Routing is data dependent, which a graph of tensors is not: the exported mixture runs every expert
on every token and weighs the results by the scores, zero for the experts that were not chosen. That
is the same function at ``experts / top_k`` times the arithmetic. All experts of a layer are two
batched matrix products, so the graph stays small whatever their number.

Input ``images``: ``(batch, H, W, 3)`` uint8, batch dynamic. Outputs: one a task, under its name, as
:meth:`..m3vit.M3ViT.forward` gives them; what precedes the first mixture is computed once.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import write_atomically
from ..m3vit import M3ViT
from ..moe import MixtureOfExperts

__all__ = ["OPSET", "TOLERANCE", "Report", "export_onnx", "onnx_forward", "session"]

OPSET = 20
"""Version of ONNX's standard operators; 20 is the first with ``Gelu``."""

TOLERANCE = 1e-4
"""Largest difference from PyTorch, over the largest value of the output or 1."""

Report = dict[str, Any]
Forward = Callable[[Any, str], Any]

_LARGEST = 2**31 - 2**20  # bytes: a file is one protocol buffer, which ends at 2 GiB


class _DenseMixture(nn.Module):
    """All experts on all tokens, weighted by the scores of the ``top_k``."""

    fc1_weight: Tensor  # (E, D, hidden)
    fc1_bias: Tensor  # (E, 1, hidden)
    fc2_weight: Tensor  # (E, hidden, D)
    fc2_bias: Tensor  # (E, 1, D)

    def __init__(self, mixture: MixtureOfExperts) -> None:
        super().__init__()
        self.router = mixture.router
        experts: list[Any] = list(mixture.experts)
        for name in ("fc1", "fc2"):
            layers = [getattr(expert, name) for expert in experts]
            weight = torch.stack([layer.weight.detach().T for layer in layers])  # (E, I, O)
            bias = torch.stack([layer.bias.detach() for layer in layers])[:, None]  # (E, 1, O)
            self.register_buffer(f"{name}_weight", weight.contiguous())
            self.register_buffer(f"{name}_bias", bias)
        self.act = experts[0].act

    def forward(self, x: Tensor, task: int, gate_input: Tensor, embedding: Tensor | None) -> Tensor:
        """``(B, N, D)`` to the same."""
        router, count = self.router, len(self.fc1_weight)
        probabilities = router(gate_input, task, embedding).softmax(-1)  # (B, N, W)
        chosen = probabilities.topk(router.top_k, dim=-1)
        scores = router.weigh(chosen.values)
        scores = torch.zeros_like(probabilities).scatter(-1, chosen.indices, scores)
        if not router.whole:  # zeros for the experts that the task cannot choose
            first = int(router.windows[task, 0])
            scores = F.pad(scores, (first, count - first - scores.shape[-1]))
        rows = x.flatten(0, 1)[None]  # (1, n, D)
        hidden = self.act(rows @ self.fc1_weight + self.fc1_bias)  # (E, n, hidden)
        y = hidden @ self.fc2_weight + self.fc2_bias  # (E, n, D)
        weights = scores.flatten(0, 1).T[:, :, None]  # (E, n, 1)
        out: Tensor = (y * weights).sum(0).view_as(x)
        return out


class _Graph(nn.Module):
    """The network for some tasks, as it is exported."""

    def __init__(self, model: M3ViT, tasks: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(tasks)
        self.dense = nn.ModuleDict(
            {str(index): _DenseMixture(mixture) for index, mixture in model.mixtures()}
        )
        indices = [index for index, _ in model.mixtures()]
        self.shared = indices[0] if indices else len(model.blocks)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images to the outputs of ``names``."""
        x = self.model.embed(images)
        x = self._blocks(x, 0, self.shared, 0)
        outputs = []
        for name in self.names:
            task = self.model.config.task_index(name)
            tokens = self.model.norm(self._blocks(x, self.shared, len(self.model.blocks), task))
            outputs.append(self.model.output(tokens, name))
        return tuple(outputs)

    def _blocks(self, x: Tensor, first: int, end: int, task: int) -> Tensor:
        embedding = self.model.task_embedding()
        for index in range(first, end):
            block: Any = self.model.blocks[index]
            before = x
            x = x + block.attn(block.norm1(x))
            y = block.norm2(x)
            if str(index) in self.dense:
                gate_input = before if block.ahead else y
                x = x + self.dense[str(index)](y, task, gate_input, embedding)
            else:
                x = x + block.mlp(y)
        return x


def export_onnx(model: M3ViT, path: Path | str, tasks: Sequence[str] | None = None) -> Report:
    """Write ``tasks`` (default: all) of a model as one ONNX file and check it.

    The file is written if ONNX's checker accepts it, if it has operators of the standard domain
    alone, and if onnxruntime's results differ from PyTorch's by :data:`TOLERANCE` at most, on
    batches of two sizes. Returns ``opset``, ``operators`` (how many of each), ``difference`` (of
    each task, relative to the largest value or 1), ``bytes``.

    Raises ``ValueError`` for an unknown task and for a network above the 2 GiB of one file, and
    ``RuntimeError`` where a check fails, which is our fault.
    """
    names = list(model.config.task_names if tasks is None else tasks)
    for name in names:
        model.config.task_index(name)
    if not names:
        raise ValueError(
            f"No task to export; expected some of {', '.join(model.config.task_names)}"
        )
    size = 4 * sum(p.numel() for p in model.parameters())
    if size > _LARGEST:
        raise ValueError(f"An ONNX file holds 2 GiB, the parameters have {size:,} bytes")
    training = model.training
    model.eval()
    try:
        proto = _convert(_Graph(model, names))
        data = proto.SerializeToString()
        operators = _check(proto)
        difference = _compare(model, data, names)
    finally:
        model.train(training)
    write_atomically(Path(path), data)
    return {
        "opset": OPSET,
        "tasks": names,
        "operators": operators,
        "difference": difference,
        "bytes": len(data),
    }


def _convert(graph: _Graph) -> Any:
    config = graph.model.config
    height, width = config.image
    example = torch.zeros(
        2, height, width, 3, dtype=torch.uint8
    )  # a batch of 1 would be a constant
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(graph.names),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = "moevit", config.to_json()
    proto.producer_name = "moevit"
    _forget_sources(proto.graph)
    return proto


def _forget_sources(graph: Any) -> None:
    """Drop what the exporter notes about our source files: it makes files differ by machine."""
    for item in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del item.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's chatter, which is about its own workings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check(proto: Any) -> dict[str, int]:
    """ONNX's own check, and how many operators of each name there are."""
    import onnx

    onnx.checker.check_model(proto, full_check=True)
    if proto.functions:
        raise RuntimeError(f"The graph has functions of its own: {proto.functions[0].name}")
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    counts: dict[str, int] = {}
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise RuntimeError(f"{node.op_type} is of domain {node.domain!r}, no standard operator")
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    if opsets.get("") != OPSET:
        raise RuntimeError(f"The graph has opset {opsets.get('')}, expected {OPSET}")
    return dict(sorted(counts.items()))


def _compare(model: M3ViT, data: bytes, names: Sequence[str]) -> dict[str, float]:
    run = session(data).run
    height, width = model.config.image
    rng = np.random.default_rng(0)
    worst = dict.fromkeys(names, 0.0)
    for batch in (1, 3):
        coarse = rng.integers(0, 256, (batch, -(-height // 8), -(-width // 8), 3))
        pixels = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
        images = np.clip(pixels + rng.integers(-8, 9, pixels.shape), 0, 255).astype(np.uint8)
        for name, got in zip(names, run(list(names), {"images": images}), strict=True):
            with torch.no_grad():
                expected = model(torch.from_numpy(images), name).float().numpy()
            scale = max(float(np.abs(expected).max()), 1.0)
            worst[name] = max(worst[name], float(np.abs(got - expected).max()) / scale)
    for name, difference in worst.items():
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"Task {name}: onnxruntime differs from PyTorch by {difference:.2g} of the largest "
                f"value, allowed {TOLERANCE:g}"
            )
    return worst


def session(model: bytes | str) -> Any:
    """A file or its bytes in onnxruntime, on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_forward(path: Path | str) -> Forward:
    """An exported file as a function: images ``(B, H, W, 3)`` uint8 and a task to its output.

    Raises ``ValueError`` for a file that is absent or not an export of ours, and, when called, for
    a task that it does not hold.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"ONNX model {path} does not exist")
    try:
        opened = session(str(path))
        about = json.loads(opened.get_modelmeta().custom_metadata_map["moevit"])
    except KeyError:
        raise ValueError(f"ONNX model {path} was not exported by moevit") from None
    except Exception as error:  # onnxruntime has an exception class for each of its states
        reason = str(error).splitlines()[0]
        raise ValueError(f"ONNX model {path} cannot be read: {reason}") from None
    names = [output.name for output in opened.get_outputs()]
    shape = (*about["image"], 3)

    def forward(images: Any, task: str) -> Any:
        if task not in names:
            raise ValueError(f"Task must be one of {', '.join(names)}, not {task!r}")
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(f"Images must be (B, {shape}) uint8, not {images.shape}")
        return opened.run([task], {"images": images})[0]

    return forward
