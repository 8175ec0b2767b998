"""Post-training quantisation: a float network and its calibration to integers.

W8A8; weights of the experts and of any class of layers W4 if asked for.
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

from ..analysis.fit import is_activation, saturated
from ..float.network import (
    FloatBlock,
    FloatLinear,
    FloatMlp,
    FloatMoe,
    FloatNetwork,
    FloatNorm,
)
from ..formats import ACTIVATION, LOGIT, RESIDUAL, Multiplier
from ..golden import PIXEL_OFFSET, patchify
from ..network import Block, Entry, Mlp, Moe, Network, expert_order
from ..operators.gate import Gate
from ..operators.linear import HiddenOutput, Linear
from ..operators.rescale import Rescale
from ..reproducible import product
from .attention import AttentionQuantiser
from .calibrate import Calibration, Site
from .flow import PICTURES, Flow
from .heads import parts
from .layers import Fixed, Layers
from .options import Options
from .ranges import SEARCH_ROWS, Encoding
from .rounding import Rounding

__all__ = ["Options", "quantise", "quantise_with_parts"]

Floats = np.ndarray[Any, np.dtype[Any]]

_ROUTER_SHARE = 0.005
"""Of the damping, for routers: a wrong choice costs more than a logit's error does."""

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


class _Quantiser(AttentionQuantiser):
    def run(self) -> Network:
        net = self.net
        embedding = RESIDUAL.saturate(np.round(net.embedding / self.residual)).astype(np.int16)
        patch_embed = self.patch_embed()
        entry = None if net.entry is None else self.entry(net.entry)
        self.flow = None
        if self.options.compensate and not self.fixed.steps:
            self.flow = Flow(net, self.stats.pictures, self.residual)
            self.flow.embed(embedding, patch_embed)
            if entry is not None:
                self.flow.enter(entry)
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
            patch_embed=patch_embed,
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
                "clipped": self.clipped(),
            },
        )

    def clipped(self) -> float:
        """Share of calibrated activations that saturate."""
        shares = [0.0]
        for name, encoding in self.encodings.items():
            site = self.stats.sites.get(name)
            if site is not None and is_activation(name):
                shares.append(saturated(name, encoding.encode(site.sample(SEARCH_ROWS))))
        return round(float(np.mean(shares)), 6)

    # Layers ------------------------------------------------------------------------------------
    def patch_embed(self) -> Linear:
        """Normalisation folded in; pixels are ``u8 - 128``, an exact encoding."""
        net = self.net
        pixels = net.geometry.patch**2
        encoding = Encoding(
            scale=np.tile(1 / net.pixel_std, pixels),
            offset=np.tile((PIXEL_OFFSET - net.pixel_mean) / net.pixel_std, pixels),
        )
        rows = None
        if self.options.compensate:  # neighbours are alike, so that their errors add up
            pixel = patchify(self.stats.pictures[:PICTURES], net.geometry.patch)
            codes = pixel.reshape(-1, pixel.shape[-1]).astype(np.float64) - PIXEL_OFFSET
            rows = encoding.decode(codes)
        return self.linear(
            net.patch_embed, encoding, self.residual, name="patch_embed", rows=rows, taps=pixels
        )

    def entry(self, norm: FloatNorm) -> Entry:
        """A norm in front of the blocks: its outputs go back to the residual one by one."""
        dim = self.net.geometry.dim
        same = FloatLinear(weight=np.eye(dim, dtype=np.float32), bias=np.zeros(dim, np.float32))
        layer, encoding = self.norm(norm, "entry", [same])
        return Entry(norm=layer, linear=self.linear(same, encoding, self.residual, name="entry"))

    # Blocks ------------------------------------------------------------------------------------
    def block(self, index: int, block: FloatBlock) -> Block:
        prefix = f"blocks.{index}."
        a, mlp, flow = block.attention, block.mlp, self.flow
        bits = self.options.bits
        widths = [bits(name) for name in ("q", "k", "v")]
        norm1, enc1 = self.norm(block.norm1, prefix + "norm1", [a.q, a.k, a.v], widths)
        rows = self.after(prefix + "norm1", block.norm1)
        if flow is not None and isinstance(mlp, FloatMoe):
            flow.part()
        seen = None if flow is None else flow.normed(norm1)
        attention = self.attention(a, enc1, index, rows, seen)
        if isinstance(mlp, FloatMoe):
            routers = [] if mlp.ahead else list(mlp.routers.values())
            widths = [bits("routers")] * len(routers)
            widths += [self.options.expert_bits] * len(mlp.experts)
            consumers = [*routers, *(expert.fc1 for expert in mlp.experts)]
            norm2, enc2 = self.norm(block.norm2, prefix + "norm2", consumers, widths)
            seen = None if flow is None else flow.normed(norm2)
            moe = self.moe(mlp, block.norm2, enc2, index, seen)
            if flow is not None and seen is not None:
                flow.mixture(moe, seen)
            return Block(norm1=norm1, attention=attention, norm2=norm2, mlp=moe)
        norm2, enc2 = self.norm(block.norm2, prefix + "norm2", [mlp.fc1], [bits("fc1")])
        seen = None if flow is None else flow.normed(norm2)
        rows = self.after(prefix + "norm2", block.norm2)
        real = self.real(flow, prefix + "norm2", block.norm2)
        missing = 0.0 if flow is None else flow.missing(prefix + "proj")
        dense = self.mlp(
            mlp,
            enc2,
            self.stats.site(prefix + "hidden"),
            prefix,
            rows=rows,
            seen=seen,
            real=real,
            missing=missing,
        )
        if flow is not None and seen is not None:
            flow.dense(dense, seen)
        return Block(norm1=norm1, attention=attention, norm2=norm2, mlp=dense)

    def mlp(
        self,
        mlp: FloatMlp,
        encoding: Encoding,
        site: Site,
        prefix: str,
        *,
        rows: Floats,
        prior: Floats | None = None,
        seen: Floats | None = None,
        real: Floats | None = None,
        missing: Floats | float = 0.0,
    ) -> Mlp:
        """``site``: of the hidden activations, whose codes start at their minimum.

        ``rows``: inputs of the layer; ``prior``: of any expert, where these are an expert's.
        ``seen``, ``real``: input codes and floats of the pictures that go along, ``missing``: what
        else its outputs should make up for.
        """
        low, high = float(site.low.min()), float(site.high.max())
        if self.options.clip == "percentile":
            high = float(np.percentile(site.rows, self.options.percentile))
        elif self.options.clip == "mse":
            high = self.hidden_high(site.sample(SEARCH_ROWS), low, high, mlp.fc2)
        high *= self.options.margin
        levels = ACTIVATION.max - ACTIVATION.min
        step = max((high - low) / levels, mlp.activation.finest_step)
        zero_point = ACTIVATION.min + round(-low / step)
        if (known := self.fixed.encodings.get(prefix + "hidden")) is not None:
            step = float(known.scale[0])
            zero_point = round(-float(known.offset[0]) / step)
        hidden = HiddenOutput(
            out=Multiplier.from_scale(mlp.activation.step / step),
            zero_point=zero_point,
            function=mlp.activation.name,
        )
        width = mlp.fc2.weight.shape[1]
        out = Encoding(scale=np.full(width, step), offset=np.full(width, -step * zero_point))
        fc1 = self.linear(
            mlp.fc1,
            encoding,
            mlp.activation.step,
            name=prefix + "fc1",
            rows=rows,
            prior=prior,
            pair=self.pair(mlp.fc1, seen, real),
        )
        self.encodings[prefix + "hidden"] = out
        hidden_prior = None if prior is None else mlp.hidden(prior)
        pair = None
        if seen is not None and real is not None:
            exact = mlp.activation(product(real, mlp.fc1.weight) + mlp.fc1.bias)
            pair = self.pair(mlp.fc2, hidden.compute(fc1.values(seen)), exact, missing)
        fc2 = self.linear(
            mlp.fc2,
            out,
            self.residual,
            name=prefix + "fc2",
            rows=site.rows,
            prior=hidden_prior,
            pivot=zero_point,
            pair=pair,
        )
        return Mlp(fc1=fc1, hidden=hidden, fc2=fc2)

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

    def moe(
        self,
        moe: FloatMoe,
        norm: FloatNorm,
        encoding: Encoding,
        index: int,
        codes: Floats | None,
    ) -> Moe:
        prefix, flow = f"blocks.{index}.", self.flow
        real = self.real(flow, prefix + "norm2", norm)
        logit = 1 / (log2(np.e) * (1 << LOGIT.frac))
        usage = self.stats.usage[index]
        everything = self.after(prefix + "norm2", norm)
        ahead, seen, gate_rows = None, encoding, everything
        if moe.ahead:
            name = prefix + "ahead"
            widths = [self.options.bits("routers")] * len(moe.routers)
            seen = self.channels(name, self.stats.site(name), list(moe.routers.values()), widths)
            ahead = Rescale.from_affine(self.residual / seen.scale, -seen.offset / seen.scale)
            gate_rows = self.stats.site(prefix + "ahead").rows
            self.encodings[prefix + "ahead"] = seen
        gate_codes, gate_real = codes, real
        if flow is not None and ahead is not None:
            gate_codes = flow.normed(ahead, flow.before)
            gate_real = flow.floats(prefix + "ahead")
        chosen = None if flow is None else flow.chosen(prefix)

        def router(task: str, exact: FloatLinear) -> Linear:
            name, pair = f"{prefix}routers.{task}", None
            rounding: Rounding | None = None
            if flow is not None and gate_codes is not None and gate_real is not None:
                at = flow.lane(task)
                pair = self.pair(exact, gate_codes[at], gate_real[at], share=_ROUTER_SHARE)
                rounding = "descent"  # small, and what it gets wrong sends tokens elsewhere
            return self.linear(
                exact, seen, logit, name=name, rows=gate_rows, pair=pair, rounding=rounding
            )

        def own(rows: Floats | None, e: int) -> Floats | None:
            if rows is None or chosen is None:
                return None
            found: Floats = rows[(chosen == e).any(axis=1)]
            return found

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
            routers={t: router(t, r) for t, r in moe.routers.items()},
            experts=tuple(
                self.mlp(
                    expert,
                    encoding,
                    self.expert_site(expert, norm, prefix, e),
                    f"{prefix}experts.{e}.",
                    rows=self.expert_rows(everything, prefix, e),
                    prior=everything[:: -(-len(everything) // _PRIOR_ROWS)],
                    seen=own(codes, e),
                    real=own(real, e),
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
        rows = expert.hidden(x_hat * norm.gain + norm.bias)
        if site is not None:
            rows = np.concatenate([rows, site.rows])
        return Site(
            low=rows.min(axis=0),
            high=rows.max(axis=0),
            sum=rows.sum(axis=0, dtype=np.float64),
            count=len(rows),
            rows=rows,
        )
