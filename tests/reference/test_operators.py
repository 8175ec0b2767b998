"""The integer operators against a second writing of docs/numbers.md (:mod:`.operators`)."""

from __future__ import annotations

import ast
from fractions import Fraction
from itertools import accumulate
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import operators as theirs

from moevit.quant.formats import Multiplier
from moevit.quant.operators.activations import ACTIVATIONS
from moevit.quant.operators.exp2 import GATE_EXP, SOFTMAX_EXP
from moevit.quant.operators.gate import NOBODY, Gate
from moevit.quant.operators.layernorm import LayerNorm, rsqrt
from moevit.quant.operators.linear import HiddenOutput, Linear, to_activation, to_key_value
from moevit.quant.operators.rescale import Rescale
from moevit.quant.operators.softmax import Softmax, reciprocal, token_mean
from moevit.quant.operators.upsampling import KERNELS, Stage, windows

INT16 = np.arange(-32768, 32768)
int8s = st.integers(-128, 127)
weights = st.integers(-127, 127)
int16s = st.one_of(st.integers(-32768, 32767), st.sampled_from([-32768, -32767, -1, 0, 1, 32767]))
mults = st.one_of(st.integers(0, 65535), st.sampled_from([0, 1, 32768, 65535]))
tops = st.integers(32768, 65535)  # multipliers with the top bit set
shifts = st.one_of(st.integers(0, 63), st.sampled_from([0, 1, 63]))


def test_nothing_is_shared() -> None:
    tree = ast.parse(Path(theirs.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"__future__", "collections.abc", "fractions", "functools", "math"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]


# Tables and functions of one argument: all of them ------------------------------------------------
@pytest.mark.parametrize(("unit", "peak", "guard"), [(SOFTMAX_EXP, 127, 4), (GATE_EXP, 32767, 2)])
def test_exponential(unit, peak, guard) -> None:
    distances = np.arange(65536)
    expected = [theirs.exponential(d, peak, guard) for d in range(65536)]
    assert unit.compute(distances).tolist() == expected


@pytest.mark.parametrize(("unit", "peak", "off"), [(SOFTMAX_EXP, 127, 9), (GATE_EXP, 32767, 76)])
def test_where_the_exponential_is_off(unit, peak, off) -> None:
    """docs/numbers.md counts the distances at which the table's rounding shows."""

    def exact(d: int) -> int:
        # The last n with (n - 1/2) <= peak * 2**(-d/256), in whole numbers.
        low, high = 0, peak + 1
        while high - low > 1:
            middle = (low + high) // 2
            below = (2 * middle - 1) ** 256 * 2**d <= (2 * peak) ** 256
            low, high = (middle, high) if below else (low, middle)
        return low

    differences = [int(unit.compute(d)) - exact(d) for d in range(256 * 17)]
    assert sum(map(bool, differences)) == off
    assert set(differences) <= {0, 1}


@pytest.mark.parametrize(
    "function", {a.integer.name: a.integer for a in ACTIVATIONS.values()}.values()
)
def test_activation_functions(function) -> None:
    expected = [theirs.FUNCTIONS[function.name](v) for v in INT16.tolist()]
    assert function.compute(INT16).tolist() == expected


@given(mult=mults, shift=shifts, zero=int8s, values=st.lists(int16s, min_size=1, max_size=20))
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_hidden(name, mult, shift, zero, values) -> None:
    unit = HiddenOutput(out=Multiplier(mult=mult, shift=shift), zero_point=zero, function=name)
    function = theirs.FUNCTIONS[ACTIVATIONS[name].integer.name]
    expected = [theirs.hidden(function, v, mult, shift, zero) for v in values]
    assert unit.compute(np.array(values)).tolist() == expected


def test_reciprocal_of_every_mantissa() -> None:
    values = np.arange(1 << 15, 1 << 16)
    r, e = reciprocal(values)
    expected = [theirs.reciprocal(v) for v in values.tolist()]
    assert list(zip(r.tolist(), e.tolist(), strict=True)) == expected


@given(st.integers(1, (1 << 40) - 1))
def test_reciprocal(value) -> None:
    assert tuple(map(int, reciprocal(value))) == theirs.reciprocal(value)


def test_root_of_every_mantissa() -> None:
    values = np.arange(1 << 16, 1 << 18)
    r, e = rsqrt(values)
    expected = [theirs.root(v) for v in values.tolist()]
    assert list(zip(r.tolist(), e.tolist(), strict=True)) == expected


@given(st.integers(1, (1 << 60) - 1))
def test_root(value) -> None:
    assert tuple(map(int, rsqrt(value))) == theirs.root(value)


# Operators on rows --------------------------------------------------------------------------------
@given(st.data())
def test_linear(data) -> None:
    inputs, outputs = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    x = data.draw(st.lists(int8s, min_size=inputs, max_size=inputs))
    rows = [data.draw(st.lists(weights, min_size=inputs, max_size=inputs)) for _ in range(outputs)]
    bias = [data.draw(st.integers(-(1 << 25), 1 << 25)) for _ in range(outputs)]
    scale = [(data.draw(mults), data.draw(shifts)) for _ in range(outputs)]
    layer = Linear(
        weight=np.array(rows, np.int8),
        bias=np.array(bias, np.int32),
        mult=np.array([m for m, _ in scale], np.uint16),
        shift=np.array([s for _, s in scale], np.uint8),
    )
    channels = list(zip(rows, bias, scale, strict=True))
    values = [theirs.linear(x, w, b, *ms) for w, b, ms in channels]
    assert layer.values(np.array([x])).tolist() == [values]
    assert to_activation(np.array(values)).tolist() == [theirs.sat(v, -128, 127) for v in values]
    assert to_key_value(np.array(values)).tolist() == [theirs.sat(v, -127, 127) for v in values]
    residual = data.draw(st.lists(int16s, min_size=outputs, max_size=outputs))
    score = data.draw(st.none() | st.integers(0, 32767))
    scores = None if score is None else np.array([score])
    expected = [theirs.add(a, v, score) for a, v in zip(residual, values, strict=True)]
    assert layer.add(np.array([residual]), np.array([x]), scores).tolist() == [expected]


@given(acc=st.integers(-(1 << 26), (1 << 26) - 1), half=st.integers(1, 63), odd=st.booleans())
def test_ties_of_requantisation(acc, half, odd) -> None:
    """Sums that lie on a half, and beside it."""
    unit = Multiplier(mult=1, shift=half)
    value = (acc | 1) << (half - 1) if half < 30 else acc + odd
    expected = theirs.requantised(value, 1, half)
    assert int(np.clip(unit.compute(np.array([value]))[0], -32768, 32767)) == expected


@given(st.data())
def test_attention(data) -> None:
    keys, size = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 5))
    row = st.lists(weights, min_size=size, max_size=size)
    q = data.draw(st.lists(int8s, min_size=size, max_size=size))
    k, v = ([data.draw(row) for _ in range(keys)] for _ in "kv")
    score = data.draw(mults), data.draw(st.integers(0, 30))
    out = data.draw(tops), data.draw(st.integers(0, 40))
    unit = Softmax(
        score=Multiplier(mult=score[0], shift=score[1]), out=Multiplier(mult=out[0], shift=out[1])
    )
    p = unit.weights(unit.scores(np.array(q) @ np.array(k).T))
    found = to_activation(unit.outputs(p @ np.array(v), p.sum()))
    assert found.tolist() == theirs.attention(q, k, v, score, out)


@given(total=st.integers(127, 127 * 4096), mult=tops, shift=shifts)
def test_row_scale(total, mult, shift) -> None:
    one = Multiplier(mult=1 << 15, shift=0)
    unit = Softmax(score=one, out=Multiplier(mult=mult, shift=shift))
    assert tuple(map(int, unit.row(total))) == theirs.row(total, mult, shift)


@given(st.data(), tops, st.integers(14, 20))
def test_token_mean(data, mult, shift) -> None:
    width = data.draw(st.integers(1, 4))
    line = st.lists(int8s, min_size=width, max_size=width)
    rows = data.draw(st.lists(line, min_size=1, max_size=20))
    found = token_mean(np.array(rows), Multiplier(mult=mult, shift=shift))
    assert found.tolist() == [theirs.token_mean(rows, (mult, shift))]


@given(st.data())
def test_layer_norm(data) -> None:
    size = data.draw(st.integers(1, 12))
    x = data.draw(st.lists(int16s, min_size=size, max_size=size) | st.just([0] * size))
    gain = data.draw(st.lists(int16s, min_size=size, max_size=size))
    ends = st.integers(-(1 << 31), (1 << 31) - 1)
    bias = data.draw(st.lists(ends, min_size=size, max_size=size))
    shift = data.draw(st.lists(shifts, min_size=size, max_size=size))
    eps = data.draw(st.integers(0, (1 << 32) - 1) | st.sampled_from([0, 1]))
    affine = list(zip(gain, bias, shift, strict=True))
    arrays = {
        "gain": np.array(gain, np.int16),
        "bias": np.array(bias, np.int32),
        "shift": np.array(shift, np.uint8),
    }
    norm, rescale = LayerNorm(**arrays, eps=eps), Rescale(**arrays)
    assert norm.compute(np.array(x)).tolist() == theirs.layer_norm(x, affine, eps)
    expected = [theirs.rescale(a, *one) for a, one in zip(x, affine, strict=True)]
    assert rescale.compute(np.array(x)).tolist() == expected


@given(st.data())
def test_gate(data) -> None:
    experts = data.draw(st.integers(1, 9))
    k = data.draw(st.integers(1, experts))
    near = st.integers(-600, 600)
    logits = data.draw(
        st.lists(int16s, min_size=experts, max_size=experts)
        | st.lists(near, min_size=experts, max_size=experts)
        | st.lists(st.sampled_from([-5, 0, 7]), min_size=experts, max_size=experts)  # equal ones
    )
    threshold = data.draw(st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.999]))
    least = min(floor(threshold * 2**15) + 1, 32767) if threshold else 0
    renormalise = data.draw(st.booleans())
    scores = [score for _, score in theirs.gate(logits, k, renormalise=renormalise)]
    near_sums = [n + d for n in accumulate(scores) for d in (-1, 0, 1) if 0 < n + d <= 32768]
    p = data.draw(
        st.fractions(min_value=Fraction(1, 40000), max_value=1)
        | st.sampled_from([Fraction(1), Fraction(32767, 32768), Fraction(65535, 65536)])
        | st.sampled_from([Fraction(n, 32768) for n in near_sums])  # just reached, or not
    )
    unit = Gate(
        experts=experts,
        k=k,
        renormalise=renormalise,
        least=Gate.above(threshold),
        enough=Gate.reaching(p),
    )
    index, score = unit.compute(np.array([logits]))
    found = [(i, s) for i, s in zip(index[0], score[0], strict=True) if i != NOBODY]
    assert found == theirs.gate(logits, k, renormalise=renormalise, least=least, p=p)


@settings(max_examples=40)
@given(st.data())
def test_upsampling_stage(data) -> None:
    height, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    kernel, doubling = data.draw(st.sampled_from(KERNELS)), data.draw(st.booleans())
    channels, outputs = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    relu = data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    linears = [
        Linear(
            weight=rng.integers(-127, 128, (outputs, window.taps * channels)).astype(np.int8),
            bias=rng.integers(-9999, 9999, outputs).astype(np.int32),
            mult=rng.integers(1, 65536, outputs).astype(np.uint16),
            shift=rng.integers(14, 24, outputs).astype(np.uint8),
        )
        for window in windows((height, width), kernel=kernel, doubling=doubling)
    ]
    unit = Stage(
        height=height,
        width=width,
        channels=channels,
        kernel=kernel,
        doubling=doubling,
        relu=relu,
        linears=tuple(linears),
    )
    maps = rng.integers(-128, 128, (1, height, width, channels))
    layers = [
        list(zip(*(a.tolist() for a in (x.weight, x.bias, x.mult, x.shift)), strict=True))
        for x in linears
    ]
    expected = theirs.stage(maps[0].tolist(), layers, kernel=kernel, doubling=doubling, relu=relu)
    assert unit.compute(maps)[0].tolist() == expected
