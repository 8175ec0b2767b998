"""Post-training quantisation: a float network and its calibration to integers.

W8A8, the experts' weights W4 if asked for.
Weights are symmetric per output channel, activations static. What reaches a LayerNorm's consumers,
and values inside attention, get a scale and a centre for each channel: the norm's own affine (or
the rows of ``v``) produces them, and the next weights and bias absorb them, so they cost nothing in
hardware (RepQ-ViT, Li et al. 2023, sec. 3.2). How far scales follow the channels' ranges is
searched for each site, because what narrows activations widens weights (SmoothQuant, Xiao et al.
2023, sec. 4). Softmax ignores a constant added to all keys, and passes on one added to all values,
so both are centred; the values' centre ends in the bias of the projection.

Each method can be chosen (:class:`Options`): ranges (:mod:`.ranges`), rounding (:mod:`.rounding`),
and bias correction, which adds to a layer's bias what quantisation takes from the mean of its
outputs on calibrated inputs (Nagel et al. 2019, section 4.2).
"""

from __future__ import annotations

from dataclasses import asdict
from math import log2
from typing import Any

import numpy as np

from ..float.network import (
    FloatAttention,
    FloatBlock,
    FloatLinear,
    FloatMlp,
    FloatMoe,
    FloatNetwork,
    FloatNorm,
    gelu,
)
from ..formats import ACTIVATION, LOGIT, RESIDUAL, Multiplier
from ..golden import PIXEL_OFFSET
from ..network import Attention, Block, Entry, Mlp, Moe, Network, expert_order
from ..operators.gate import Gate
from ..operators.gelu import GELU
from ..operators.linear import GeluOutput, Linear
from ..operators.rescale import Rescale
from ..operators.softmax import Softmax
from .calibrate import Calibration, Site
from .heads import HeadQuantiser, parts
from .layers import Fixed, Layers
from .options import Options
from .ranges import CODES, SEARCH_ROWS, Encoding, channel_range, search

__all__ = ["Options", "quantise", "quantise_with_parts"]

Floats = np.ndarray[Any, np.dtype[Any]]

_FINEST_GELU = 0.73
"""Output steps for each 1/256 of GELU, at most: keeps int8 GELU within one step of exact."""

_FEW_ROWS = 64
_PRIOR_ROWS = 1024


def quantise(
    network: FloatNetwork, calibration: Calibration, options: Options | None = None
) -> Network:
    """The integer network. Raises ``ValueError`` where a range does not fit the formats, and for
    options that ask for fine-tuning, which needs the model:
    :func:`moevit.model.training.qat.finetune`.
    """
    return quantise_with_parts(network, calibration, options)[0]


def quantise_with_parts(
    network: FloatNetwork,
    calibration: Calibration,
    options: Options | None = None,
    fixed: Fixed | None = None,
) -> tuple[Network, Layers]:
    """The integer network, and what each layer's and site's integers stand for.

    ``fixed``: what fine-tuning has decided, where the options ask for it.
    """
    options = options or Options()
    if options.finetune and fixed is None:
        raise ValueError(
            f"Fine-tuning of {options.finetune} steps needs the model, not its floats alone"
        )
    quantiser = _Quantiser(network, calibration, options, fixed)
    return quantiser.run(), quantiser


class _Quantiser(HeadQuantiser):
    def run(self) -> Network:
        net = self.net
        embedding = RESIDUAL.saturate(np.round(net.embedding / self.residual)).astype(np.int16)
        entry = None if net.entry is None else self.entry(net.entry)
        blocks = tuple(self.block(i, b) for i, b in enumerate(net.blocks))
        norm, encoding, step = None, None, 0.0
        if net.norm is not None and not net.heads:
            norm, step = self.final_tokens(net.norm)
        elif net.norm is not None:
            consumers = [part for head in net.heads.values() for part in parts(head)]
            norm, encoding = self.norm(net.norm, "norm", consumers)
        heads = {task: self.output(task, head, encoding) for task, head in net.heads.items()}
        return Network(
            geometry=net.geometry,
            patch_embed=self.patch_embed(),
            embedding=embedding,
            blocks=blocks,
            norm=norm,
            heads=heads,
            tasks=net.tasks,
            residual_scale=self.residual,
            norm_scale=step,
            entry=entry,
            meta={
                **net.meta,
                "quantisation": {**asdict(self.options), "images": self.stats.images},
            },
        )

    # Layers ------------------------------------------------------------------------------------
    def patch_embed(self) -> Linear:
        """Normalisation folded in; pixels are ``u8 - 128``, an exact encoding."""
        net = self.net
        pixels = net.geometry.patch**2
        encoding = Encoding(
            scale=np.tile(1 / net.pixel_std, pixels),
            offset=np.tile((PIXEL_OFFSET - net.pixel_mean) / net.pixel_std, pixels),
        )
        return self.linear(net.patch_embed, encoding, self.residual, name="patch_embed")

    def entry(self, norm: FloatNorm) -> Entry:
        """A norm in front of the blocks: its outputs go back to the residual one by one."""
        dim = self.net.geometry.dim
        same = FloatLinear(weight=np.eye(dim, dtype=np.float32), bias=np.zeros(dim, np.float32))
        layer, encoding = self.norm(norm, "entry", [same])
        return Entry(norm=layer, linear=self.linear(same, encoding, self.residual, name="entry"))

    # Blocks ------------------------------------------------------------------------------------
    def block(self, index: int, block: FloatBlock) -> Block:
        prefix = f"blocks.{index}."
        a, mlp = block.attention, block.mlp
        norm1, enc1 = self.norm(block.norm1, prefix + "norm1", [a.q, a.k, a.v])
        attention = self.attention(a, enc1, prefix, self.after(prefix + "norm1", block.norm1))
        if isinstance(mlp, FloatMoe):
            norm2, enc2 = self.norm(
                block.norm2,
                prefix + "norm2",
                [] if mlp.ahead else list(mlp.routers.values()),
                [expert.fc1 for expert in mlp.experts],
            )
            moe = self.moe(mlp, block.norm2, enc2, index)
            return Block(norm1=norm1, attention=attention, norm2=norm2, mlp=moe)
        norm2, enc2 = self.norm(block.norm2, prefix + "norm2", [mlp.fc1])
        rows = self.after(prefix + "norm2", block.norm2)
        dense = self.mlp(mlp, enc2, self.stats.site(prefix + "hidden"), prefix, rows=rows)
        return Block(norm1=norm1, attention=attention, norm2=norm2, mlp=dense)

    def attention(
        self, a: FloatAttention, encoding: Encoding, prefix: str, rows: Floats
    ) -> Attention:
        options, stats = self.options, self.stats
        head_dim = self.net.geometry.head_dim
        # Scores: steps of q and k may differ in each channel as long as their product is the same.
        clip, percentile = options.clip, options.percentile
        _, q_half = channel_range(stats.site(prefix + "q"), clip, percentile, centred=False)
        k_centre, k_half = channel_range(stats.site(prefix + "k"), clip, percentile)
        product = float((q_half * k_half).max()) / CODES**2
        balance = np.sqrt(q_half / k_half)
        q_scale, k_scale = np.sqrt(product) * balance, np.sqrt(product) / balance
        self.encodings[prefix + "q"] = Encoding(scale=q_scale, offset=np.zeros_like(q_scale))
        self.encodings[prefix + "k"] = Encoding(scale=k_scale, offset=k_centre)
        q = self.linear(a.q, encoding, q_scale, name=prefix + "q", rows=rows)
        k = self.linear(a.k, encoding, k_scale, k_centre, name=prefix + "k", rows=rows)
        score = product * head_dim**-0.5 * log2(np.e) * (1 << LOGIT.frac)
        # Values: the output is a mean of them, so it has their channels' scales and centres.
        site = stats.site(prefix + "attention")
        values = self.channels(prefix + "v", stats.site(prefix + "v"), [a.proj])
        self.encodings[prefix + "v"] = values
        v = self.linear(a.v, encoding, values.scale, values.offset, name=prefix + "v", rows=rows)
        peak = max(
            float(((site.high - values.offset) / values.scale).max()),
            float(((values.offset - site.low) / values.scale).max()),
        )
        if clip == "percentile":
            steps = (site.rows - values.offset) / values.scale
            peak = float(np.percentile(np.abs(steps), percentile))
        elif clip == "mse":
            steps = (site.sample(SEARCH_ROWS) - values.offset) / values.scale
            peak *= float(search(steps.reshape(-1, 1), np.array([peak]))[0])
        gain = CODES / max(peak, 1.0)
        out = Encoding(scale=values.scale / gain, offset=values.offset)
        self.encodings[prefix + "attention"] = out
        return Attention(
            q=q,
            k=k,
            v=v,
            softmax=Softmax(score=Multiplier.from_scale(score), out=Multiplier.from_scale(gain)),
            proj=self.linear(a.proj, out, self.residual, name=prefix + "proj", rows=site.rows),
        )

    def mlp(
        self,
        mlp: FloatMlp,
        encoding: Encoding,
        site: Site,
        prefix: str,
        *,
        rows: Floats,
        prior: Floats | None = None,
        bits: int = 8,
    ) -> Mlp:
        """``site``: of the hidden activations, whose codes start at GELU's minimum.

        ``rows``: inputs of the layer; ``prior``: of any expert, where these are an expert's.
        """
        low, high = float(site.low.min()), float(site.high.max())
        if self.options.clip == "percentile":
            high = float(np.percentile(site.rows, self.options.percentile))
        elif self.options.clip == "mse":
            high = self.hidden_high(site.sample(SEARCH_ROWS), low, high, mlp.fc2)
        levels = ACTIVATION.max - ACTIVATION.min
        step = max((high - low) / levels, 1 / (_FINEST_GELU * (1 << GELU.frac)))
        zero_point = ACTIVATION.min + round(-low / step)
        if (known := self.fixed.encodings.get(prefix + "hidden")) is not None:
            step = float(known.scale[0])
            zero_point = round(-float(known.offset[0]) / step)
        gelu_out = GeluOutput(
            out=Multiplier.from_scale(1 / (step * (1 << GELU.frac))), zero_point=zero_point
        )
        hidden = mlp.fc2.weight.shape[1]
        out = Encoding(scale=np.full(hidden, step), offset=np.full(hidden, -step * zero_point))
        fc1 = self.linear(
            mlp.fc1,
            encoding,
            1 / (1 << GELU.frac),
            name=prefix + "fc1",
            bits=bits,
            rows=rows,
            prior=prior,
        )
        self.encodings[prefix + "hidden"] = out
        hidden_prior = None if prior is None else gelu(mlp.fc1(prior))
        fc2 = self.linear(
            mlp.fc2,
            out,
            self.residual,
            name=prefix + "fc2",
            bits=bits,
            rows=site.rows,
            prior=hidden_prior,
            pivot=zero_point,
        )
        return Mlp(fc1=fc1, gelu=gelu_out, fc2=fc2)

    @staticmethod
    def hidden_high(rows: Floats, low: float, high: float, fc2: FloatLinear) -> float:
        """Upper end of the hidden range with the least error after ``fc2``'s column weights."""
        importance = np.sum(fc2.weight**2, axis=0)
        best, least = high, np.inf
        for factor in np.linspace(1.0, 0.3, 29):
            step = np.float32((high * factor - low) / (ACTIVATION.max - ACTIVATION.min))
            codes = np.clip(
                np.round(rows / step), np.round(low / step), np.round(high * factor / step)
            )
            error = float(np.mean(((codes * step - rows) ** 2 * importance).sum(axis=1)))
            if error < least:
                best, least = high * float(factor), error
        return best

    def moe(self, moe: FloatMoe, norm: FloatNorm, encoding: Encoding, index: int) -> Moe:
        prefix = f"blocks.{index}."
        logit = 1 / (log2(np.e) * (1 << LOGIT.frac))
        usage = self.stats.usage[index]
        bits = self.options.expert_bits
        everything = self.after(prefix + "norm2", norm)
        ahead, seen, gate_rows = None, encoding, everything
        if moe.ahead:
            name = prefix + "ahead"
            seen = self.channels(name, self.stats.site(name), list(moe.routers.values()))
            ahead = Rescale.from_affine(self.residual / seen.scale, -seen.offset / seen.scale)
            gate_rows = self.stats.site(prefix + "ahead").rows
            self.encodings[prefix + "ahead"] = seen
        return Moe(
            gate=Gate(
                experts=len(next(iter(moe.routers.values())).bias),
                k=moe.k,
                renormalise=moe.renormalise,
                least=Gate.above(moe.threshold),
                enough=Gate.reaching(moe.top_p),
            ),
            starts=dict(moe.starts),
            ahead=ahead,
            routers={
                t: self.linear(r, seen, logit, name=f"{prefix}routers.{t}", rows=gate_rows)
                for t, r in moe.routers.items()
            },
            experts=tuple(
                self.mlp(
                    expert,
                    encoding,
                    self.expert_site(expert, norm, prefix, e),
                    f"{prefix}experts.{e}.",
                    rows=self.expert_rows(everything, prefix, e),
                    prior=everything[:: -(-len(everything) // _PRIOR_ROWS)],
                    bits=bits,
                )
                for e, expert in enumerate(moe.experts)
            ),
            order={task: expert_order(counts) for task, counts in usage.items()},
            usage=usage,
        )

    def expert_rows(self, everything: Floats, prefix: str, e: int) -> Floats:
        """Tokens that reach the expert; any tokens where calibration sent it next to none."""
        site = self.stats.sites.get(f"{prefix}experts.{e}.input")
        return site.rows if site is not None and site.count >= _FEW_ROWS else everything

    def expert_site(self, expert: FloatMlp, norm: FloatNorm, prefix: str, e: int) -> Site:
        """The expert's hidden activations; of any tokens where calibration sent it next to none."""
        name = f"{prefix}experts.{e}.hidden"
        site = self.stats.sites.get(name)
        if site is not None and site.count >= _FEW_ROWS:
            return site
        x_hat = self.stats.site(prefix + "norm2").rows
        rows = gelu(expert.fc1(x_hat * norm.gain + norm.bias))
        if site is not None:
            rows = np.concatenate([rows, site.rows])
        return Site(
            low=rows.min(axis=0),
            high=rows.max(axis=0),
            sum=rows.sum(axis=0, dtype=np.float64),
            count=len(rows),
            rows=rows,
        )
