"""Short quantisation-aware fine-tuning of the integers that :mod:`moevit.quant.ptq.quantize` finds.

The model runs with fake quantisation: weights and activations are rounded to what their codes stand
for, and gradients pass straight through the rounding (Bengio et al. 2013; Jacob et al. 2018,
section 3). Everything starts as post-training quantisation leaves it, its rounding and its scales,
so that nothing of that is lost. The activations' scales stay; the steps of the weights' rows are
learned with the weights (LSQ, Esser et al. 2020, section 2; Adam makes its gradient scale
superfluous). Norms, embeddings, routers and heads stay: channels' scales go through the norms'
gains, and a router that moves sends tokens elsewhere, which no gradient sees.

The teacher is the float model itself, on the same images: the loss is the squared distance of the
raw outputs over their variance (Ba and Caruana 2014; for quantised networks Polino et al. 2018). It
needs no truth, so any image will do, and it can only repair what quantisation broke: training on
truths would move the float model as well, and the comparison would not be one.

What the training saw is what the network computes with, code by code: the rows' steps and the
activations' scales are handed to the quantiser (:class:`~moevit.quant.ptq.layers.Fixed`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from moevit.quant.float.network import FloatLinear, FloatNetwork, with_layers
from moevit.quant.formats import ACTIVATION, weight_max
from moevit.quant.network import Network
from moevit.quant.ptq.calibrate import Calibration
from moevit.quant.ptq.layers import Fixed, Layers
from moevit.quant.ptq.options import Options
from moevit.quant.ptq.quantize import quantise_with_parts
from moevit.quant.ptq.ranges import Encoding
from moevit.quant.typing import Floats, Report, silent

from ..m3vit import Attention, Block, M3ViT

__all__ = ["IMAGES", "Tuning", "finetune"]

IMAGES = 512
"""Images that are drawn from, where there are as many."""

_TINY = 1e-12
_MARGIN = 0.45
"""How far from its code's centre a weight may start, in steps: not at the edge of the next one."""

_TRAINED = re.compile(r"blocks\.(\d+)\.(q|k|v|proj|fc1|fc2|experts\.\d+\.fc[12])")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How to fine-tune; :attr:`Options.finetune` is the number of steps.

    ``batch``: images a step, shared out over the tasks. ``rate``: Adam's, in steps of the codes,
    rising over the first tenth and falling to 0 as half a cosine: a weight that is always pushed
    the same way moves by about half of ``steps * rate`` codes in all. ``growth_rate``: that of the
    logarithms of the rows' steps. On `nano` with 4-bit experts a rate of 0.01 begins with more
    noise than 60 steps can take away again, and 0.001 hardly moves a code.
    """

    batch: int = 20
    rate: float = 0.004
    growth_rate: float = 3e-5

    def share(self, step: int, steps: int) -> float:
        """Of the rates, at a step."""
        return min((step + 1) / max(steps / 10, 1), 0.5 * (1 + math.cos(math.pi * step / steps)))

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"Tuning batch must be at least 1, not {self.batch!r}")
        for name in ("rate", "growth_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Tuning {name} must be from 0 to 1, not {getattr(self, name)!r}")


class _Matrix(nn.Module):
    """A layer of the integer network: what its codes stand for, with gradients.

    ``codes`` ``(O, K)`` count the steps that the rows began with, on inputs that are codes
    themselves. ``growth`` ``(O, 1)`` is the logarithm of what became of the steps; ``shift``
    ``(O,)`` what became of the bias, in norms of the rows.
    """

    def __init__(self, exact: FloatLinear, name: str, made: Layers, bits: int) -> None:
        super().__init__()
        self.top = weight_max(bits)
        scale, step, real = made.inputs[name].scale, made.steps[name][:, None], made.layers[name]
        codes = np.round(real.weight * scale / step)
        start = np.clip(exact.weight * scale / step, codes - _MARGIN, codes + _MARGIN)
        unit = np.linalg.norm(codes * step, axis=1)
        self.codes = nn.Parameter(torch.tensor(start, dtype=torch.float32))
        self.growth = nn.Parameter(torch.zeros(len(step), 1))
        self.shift = nn.Parameter(torch.zeros(len(step)))
        self.step, self.scale = torch.tensor(step).float(), torch.tensor(scale).float()
        self.bias, self.unit = torch.tensor(real.bias).float(), torch.tensor(unit).float()

    def forward(self) -> tuple[Tensor, Tensor]:
        """Real weight ``(O, K)`` and bias ``(O,)``."""
        factor = self.growth.exp()
        codes = (self.codes / factor).clamp(-self.top, self.top)
        codes = codes + (codes.round() - codes).detach()
        return codes * (factor * self.step) / self.scale, self.bias + self.shift * self.unit

    @torch.no_grad()
    def result(self) -> tuple[FloatLinear, Floats]:
        """The real layer, and the steps ``(O,)`` of its codes."""
        weight, bias = self()
        step = (self.growth.exp() * self.step)[:, 0]
        return FloatLinear(weight=weight.numpy(), bias=bias.numpy()), step.double().numpy()


class _Rounding:
    """Forward hooks that move a module's input or output to what its codes stand for."""

    def __init__(self) -> None:
        self.on = False
        self.handles: list[Any] = []

    def _round(self, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """The gradient passes where no code saturates."""
        codes = ((x - offset) / scale).clamp(ACTIVATION.min, ACTIVATION.max)
        codes = codes + (codes.round() - codes).detach()
        return codes * scale + offset

    def output(self, module: nn.Module, scale: Floats, offset: Floats) -> None:
        """Round what ``module`` gives."""
        constants = _constants(scale, offset)

        def hook(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
            return self._round(out, *constants) if self.on else out

        self.handles.append(module.register_forward_hook(hook))

    def input(self, module: nn.Module, encoding: Encoding) -> None:
        """Round what ``module`` takes."""
        constants = _constants(encoding.scale, encoding.offset)

        def hook(_module: nn.Module, inputs: tuple[Tensor]) -> Any:
            return (self._round(inputs[0], *constants),) if self.on else None

        self.handles.append(module.register_forward_pre_hook(hook))

    def remove(self) -> None:
        """Leave the modules as they were."""
        for handle in self.handles:
            handle.remove()


def _constants(scale: Floats, offset: Floats) -> tuple[Tensor, Tensor]:
    """As tensors; a channel of scale 0, which is constant, gets one that does not divide by it."""
    scale = np.where(np.abs(scale) < _TINY, _TINY, scale)
    return torch.tensor(scale).float(), torch.tensor(offset).float()


class _Mixed(nn.Module):
    """The model's pass over a batch of mixed tasks, as what `functional_call` can call."""

    def __init__(self, model: M3ViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, counts: tuple[int, ...]) -> dict[str, Tensor]:
        return self.model.forward_mixed(images, counts)


class _Student:
    """The model with fake quantisation, beside the floats of the same model.

    ``matrices`` by the names of the integer network's layers.
    """

    def __init__(self, model: M3ViT, network: FloatNetwork, made: Layers, options: Options) -> None:
        self.mixed, self.rounding = _Mixed(model), _Rounding()
        self.matrices: dict[str, _Matrix] = {}

        def take(name: str, exact: FloatLinear) -> FloatLinear:
            if _TRAINED.fullmatch(name):
                self.matrices[name] = _Matrix(exact, name, made, options.bits(name))
            return exact

        with_layers(network, take)
        for index, module in enumerate(model.blocks):
            self._watch(cast(Block, module), f"blocks.{index}.", made)
        # Queries of another scale than usual have it in their weights: see export.
        self.factors = [
            module.scale * (module.qkv.in_features // module.heads) ** 0.5
            for module in (cast(Attention, block.attn) for block in model.blocks)
        ]

    def _watch(self, block: Block, prefix: str, made: Layers) -> None:
        """Round the activations of a block."""
        attention, inputs, rounding = block.attn, made.inputs, self.rounding
        encodings = [made.encodings[prefix + name] for name in "qkv"]
        factor = attention.scale * (attention.qkv.in_features // attention.heads) ** 0.5
        rounding.output(block.norm1, inputs[prefix + "q"].scale, inputs[prefix + "q"].offset)
        rounding.output(
            attention.qkv,
            np.concatenate([e.scale / f for e, f in zip(encodings, (factor, 1, 1), strict=True)]),
            np.concatenate([e.offset for e in encodings]),
        )
        rounding.input(attention.proj, inputs[prefix + "proj"])
        first = prefix + ("fc1" if prefix + "fc1" in inputs else "experts.0.fc1")
        rounding.output(block.norm2, inputs[first].scale, inputs[first].offset)
        for name in inputs:
            if name.startswith(prefix) and name.endswith("fc2"):
                fc2 = block.get_submodule("mlp." + name.removeprefix(prefix))
                rounding.input(fc2, inputs[name])

    def parameters(self) -> list[dict[str, Any]]:
        """Groups for the optimiser: codes and biases, then growths."""
        matrices = self.matrices.values()
        fast = [p for m in matrices for p in (m.codes, m.shift)]
        return [{"params": fast}, {"params": [m.growth for m in matrices]}]

    def weights(self) -> dict[str, Tensor]:
        """The model's parameters that the codes stand for, by name."""
        found: dict[str, Tensor] = {}
        attention: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for name, matrix in self.matrices.items():
            match = _TRAINED.fullmatch(name)
            assert match is not None
            index, layer = int(match[1]), match[2]
            weight, bias = matrix()
            if layer in "qkv":
                factor = self.factors[index] if layer == "q" else 1.0
                attention.setdefault(index, []).append((weight / factor, bias / factor))
                continue
            place = "attn.proj" if layer == "proj" else f"mlp.{layer}"
            found[f"model.blocks.{index}.{place}.weight"] = weight
            found[f"model.blocks.{index}.{place}.bias"] = bias
        for index, parts in attention.items():
            weights, biases = zip(*parts, strict=True)
            found[f"model.blocks.{index}.attn.qkv.weight"] = torch.cat(weights)
            found[f"model.blocks.{index}.attn.qkv.bias"] = torch.cat(biases)
        return found

    def loss(self, images: Tensor, counts: tuple[int, ...]) -> Tensor:
        """Mean over tasks of the squared distance from the floats, over their variance."""
        self.rounding.on = False
        with torch.no_grad():
            wanted = self.mixed(images, counts)
        self.rounding.on = True
        try:
            got = functional_call(self.mixed, self.weights(), (images, counts))
        finally:
            self.rounding.on = False
        terms = [
            (got[task] - target).square().mean() / target.var().clamp_min(_TINY)
            for task, target in wanted.items()
        ]
        return torch.stack(terms).mean()


def _counts(batch: int, tasks: int, step: int) -> tuple[int, ...]:
    """A batch shared out over the tasks, what does not divide in turn."""
    return tuple((batch + (n - step) % tasks) // tasks for n in range(tasks))


def finetune(
    model: M3ViT,
    network: FloatNetwork,
    calibration: Calibration,
    options: Options,
    images: Any,
    *,
    tuning: Tuning | None = None,
    seed: int = 0,
    report: Report = silent,
) -> tuple[Network, Layers]:
    """:func:`~moevit.quant.ptq.quantize.quantise_with_parts`, then ``options.finetune`` steps of
    training.

    ``network`` and ``calibration`` are the model's; ``images`` ``(N, H, W, 3)`` uint8 are learned
    on, drawn in an order that ``seed`` fixes. The model is left as it is. On the CPU the same
    arguments and the same number of threads give the same integers.

    Raises ``ValueError`` as the quantiser does, and without images or steps.
    """
    tuning = tuning or Tuning()
    if options.finetune < 1 or not len(images):
        raise ValueError(
            f"Fine-tuning needs steps and images, not {options.finetune} and {len(images)}"
        )
    made = quantise_with_parts(network, calibration, options, Fixed())[1]
    model.eval()
    student = _Student(model, network, made, options)
    steps, rates = options.finetune, (tuning.rate, tuning.growth_rate)
    optimiser = torch.optim.Adam(student.parameters())
    drawn = _drawn(len(images), tuning.batch, steps, seed)
    try:
        for step, chosen in enumerate(drawn):
            report(f"fine-tuning ({step}/{steps})", step / steps)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * tuning.share(step, steps)
            batch = torch.from_numpy(np.asarray(images)[chosen])
            optimiser.zero_grad(set_to_none=True)
            counts = _counts(len(chosen), len(model.config.tasks), step)
            loss = student.loss(batch, counts)
            if not torch.isfinite(loss):
                raise RuntimeError(f"Fine-tuning loss is {loss.item()} at step {step}")
            torch.autograd.backward(loss)
            optimiser.step()
    finally:
        student.rounding.remove()
    found = {name: matrix.result() for name, matrix in student.matrices.items()}
    tuned = with_layers(network, lambda name, exact: found[name][0] if name in found else exact)
    fixed = Fixed(encodings=made.encodings, steps={name: step for name, (_, step) in found.items()})
    return quantise_with_parts(tuned, calibration, options, fixed)


def _drawn(images: int, batch: int, steps: int, seed: int) -> list[Floats]:
    """Numbers of the images of each step: all once, in random order, then all again."""
    rng = np.random.default_rng(seed)
    rounds = -(-batch * steps // images)
    order = np.concatenate([rng.permutation(images) for _ in range(rounds)])
    return [order[step * batch : (step + 1) * batch] for step in range(steps)]
