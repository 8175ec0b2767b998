"""Upsampling heads: folded windows against doubling and convolution, and the network around."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from moevit.quant.check import check_network
from moevit.quant.formats import ACTIVATION
from moevit.quant.golden import Golden, dequantise
from moevit.quant.io import load_network, save_network
from moevit.quant.network import Network
from moevit.quant.operators.upsampling import MAX_SIDE, Stage, UpsamplingHead, windows
from moevit.quant.random_network import Sizes, random_images, random_network

Array = np.ndarray[Any, np.dtype[Any]]


def doubled(maps: list[list[Fraction]]) -> list[list[Fraction]]:
    """Bilinear doubling from its definition: at 2y + d the point y + d / 2 - 1 / 4."""
    height, width = len(maps), len(maps[0])

    def at(y: Fraction, x: Fraction) -> Fraction:
        total = Fraction(0)
        low_y, low_x = y.__floor__(), x.__floor__()
        for dy in (0, 1):
            for dx in (0, 1):
                row, column = low_y + dy, low_x + dx
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                total += share * maps[min(max(row, 0), height - 1)][min(max(column, 0), width - 1)]
        return total

    half, quarter = Fraction(1, 2), Fraction(1, 4)
    return [
        [at(y * half - quarter, x * half - quarter) for x in range(2 * width)]
        for y in range(2 * height)
    ]


def convolved(maps: list[list[Fraction]], kernel: Array) -> list[list[Fraction]]:
    """Convolution with zeros around."""
    reach, height, width = len(kernel) // 2, len(maps), len(maps[0])

    def at(y: int, x: int) -> Fraction:
        return sum(
            (
                int(kernel[k, j]) * maps[y + k - reach][x + j - reach]
                for k in range(len(kernel))
                for j in range(len(kernel))
                if 0 <= y + k - reach < height and 0 <= x + j - reach < width
            ),
            Fraction(0),
        )

    return [[at(y, x) for x in range(width)] for y in range(height)]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.integers(0, 1 << 16),
)
def test_windows_are_doubling_and_convolution(
    height: int, width: int, kernel: int, doubling: bool, seed: int
) -> None:
    """Weights and pixels of small integers: halves and quarters are exact in floats."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-9, 10, (1, 1, kernel, kernel))
    pixels = rng.integers(-50, 50, (height, width))
    exact = [[Fraction(int(v)) for v in row] for row in pixels]
    exact = convolved(doubled(exact) if doubling else exact, weight[0, 0])
    factor = 2 if doubling else 1
    got = np.full((factor * height, factor * width), np.nan)
    for window in windows((height, width), kernel=kernel, doubling=doubling):
        r, c = window.rows, window.columns
        rows = slice(factor * r.start + r.phase, factor * (r.start + r.count), factor)
        columns = slice(factor * c.start + c.phase, factor * (c.start + c.count), factor)
        assert np.isnan(got[rows, columns]).all()  # each output once
        read = window.gather(pixels[None, :, :, None])[0]
        got[rows, columns] = read @ window.fold(weight.astype(float))[0]
    assert np.array_equal(got, np.array(exact, float))


def tap_by_tap(stage: Stage, maps: Array) -> Array:
    """A stage pixel by pixel and channel by channel: maps ``(h, w, C)``."""
    f = stage.factor
    out = np.zeros((f * stage.height, f * stage.width, stage.outputs), np.int64)
    for window, linear in zip(stage.windows, stage.linears, strict=True):
        r, c = window.rows, window.columns
        for y in range(r.start, r.start + r.count):
            for x in range(c.start, c.start + c.count):
                read = [
                    maps[y + r.first + t, x + c.first + u]
                    for t in range(r.taps)
                    for u in range(c.taps)
                ]
                value = linear.values(np.concatenate(read)[None])[0]
                if stage.relu:
                    value = np.clip(value + ACTIVATION.min, ACTIVATION.min, ACTIVATION.max)
                out[f * y + r.phase, f * x + c.phase] = value
    return out


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    patch, rows, columns = draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)))
    return Sizes(
        image_height=patch * rows,
        image_width=patch * columns,
        patch=patch,
        dim=draw(st.integers(1, 7)),
        heads=1,
        depth=1,
        moe=(),
        hidden=5,
        tasks=2,
        head_channels=draw(st.sampled_from([(1,), (3, 2)])),
        decoder_width=draw(st.integers(1, 9)),
        doublings=draw(st.integers(0, 3)),
        norm=draw(st.booleans()),
        class_token=draw(st.booleans()),
    )


@settings(max_examples=25, deadline=None)
@given(sizes(), st.integers(0, 1 << 16))
def test_golden_is_the_definition(sizes: Sizes, seed: int) -> None:
    net = random_network(seed, sizes)
    check_network(net)
    image = random_images(seed, net.geometry)[0]
    for task, head in net.heads.items():
        assert isinstance(head, UpsamplingHead)
        result = Golden(net).run(image, task, trace=True)
        norm = head.norm or net.norm
        assert norm is not None
        maps = norm.compute(result.trace[f"blocks.{len(net.blocks) - 1}.mlp"])
        maps = maps[net.geometry.front :].reshape(*net.geometry.grid, -1)
        for n, stage in enumerate(head.stages):
            maps = tap_by_tap(stage, maps)
            assert np.array_equal(result.trace[f"stages.{n}"], maps.reshape(-1, stage.outputs))
        assert np.array_equal(result.output, maps.reshape(-1, head.channels))
        assert result.output.dtype == np.int16
        planes = Golden(net).dequantise(result.output, task)
        exact = np.moveaxis(maps, -1, 0) * np.float32(head.scale)
        assert np.array_equal(planes, exact.astype(np.float32))
        assert planes.shape[1:] == tuple(2**sizes.doublings * s for s in net.geometry.grid)


SMALL = Sizes(decoder_width=5, doublings=2, norm=False, head_channels=(3,))


@pytest.fixture(scope="module")
def small() -> Network:
    return random_network(3, SMALL)


def test_values_are_lively() -> None:
    net = random_network(2, replace(SMALL, decoder_width=24))
    trace = Golden(net).run(random_images(2, net.geometry)[0], "task0", trace=True).trace
    for n in (0, 1):
        values = trace[f"stages.{n}"]
        assert values.std() > 20
        assert 0.2 < np.mean(values == ACTIVATION.min) < 0.8
        assert np.mean(values == ACTIVATION.max) < 0.1
    assert np.abs(trace["head"]).max() > 1000


def test_batches_are_their_images(small: Network) -> None:
    images = random_images(5, small.geometry, 3)
    together = Golden(small).run_batch(images)
    for image, result in zip(images, together["task0"], strict=True):
        assert np.array_equal(Golden(small).run(image, "task0").output, result.output)
    stacked = np.stack([result.output for result in together["task0"]])
    planes = dequantise(stacked, small.heads["task0"], small.geometry.grid)
    assert planes.shape == (3, 3, 8, 12)


def test_a_task_without_head_beside_it(small: Network) -> None:
    """No norm: the residual stream."""
    result = Golden(small).run(random_images(1, small.geometry)[0], "task1", trace=True)
    assert np.array_equal(result.output, result.trace["blocks.1.mlp"])
    assert small.final_norm("task0") is not None
    assert small.final_norm("task1") is None


@pytest.mark.parametrize("norm", [False, True])
def test_saved_and_loaded(tmp_path: Path, norm: bool) -> None:
    net = random_network(4, replace(SMALL, norm=norm))
    save_network(net, tmp_path / "net")
    again = load_network(tmp_path / "net")
    image = random_images(4, net.geometry)[0]
    results = [Golden(n).run(image, "task0").output for n in (net, again)]
    assert np.array_equal(*results)


def head_of(network: Network) -> UpsamplingHead:
    head = network.heads["task0"]
    assert isinstance(head, UpsamplingHead)
    return head


def stages_with(network: Network, index: int, **changes: Any) -> UpsamplingHead:
    head = head_of(network)
    stages = list(head.stages)
    stages[index] = replace(stages[index], **changes)
    return replace(head, stages=tuple(stages))


def wrong(kind: str, network: Network) -> UpsamplingHead:
    head = head_of(network)
    first, last = head.stages[0], head.stages[-1]
    if kind == "no stages":
        return replace(head, stages=())
    if kind == "no norm":
        return replace(head, norm=None)
    if kind == "relu":
        return stages_with(network, -1, relu=True)
    if kind == "no relu":
        return stages_with(network, 0, relu=False)
    if kind == "order":
        return replace(head, stages=(first, last))
    if kind == "scale":
        linears = (*last.linears[:-1], replace(last.linears[-1], scale=1.0))
        return stages_with(network, -1, linears=linears)
    if kind == "weights":
        weight = first.linears[2].weight.astype(np.int16)
        linear = replace(first.linears[2], weight=weight)
        return stages_with(network, 0, linears=(*first.linears[:2], linear, *first.linears[3:]))
    raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no stages", r"heads\.task0\.stages must be one at least"),
        ("no norm", r"heads\.task0 needs the final norm, which is absent"),
        ("relu", r"heads\.task0\.stages\.2\.relu must be False"),
        ("no relu", r"heads\.task0\.stages\.0\.relu must be True"),
        ("order", r"heads\.task0\.stages\.1 must read 2 x 3 of 5 channels, not 4 x 6 x 5"),
        ("scale", r"heads\.task0\.stages\.2\.linears\.15\.scale must be 0\.000976"),
        ("weights", r"heads\.task0\.stages\.0\.linears\.2\.weight must be int8"),
    ],
)
def test_heads_that_do_not_fit(small: Network, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_network(replace(small, heads={"task0": wrong(kind, small)}))


def test_two_norms(small: Network) -> None:
    with pytest.raises(ValueError, match=r"heads\.task0\.norm must be absent"):
        check_network(replace(small, norm=head_of(small).norm))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, f"height must be from 1 to {MAX_SIDE}, not 0"),
        ({"width": 10**9}, f"width must be from 1 to {MAX_SIDE}, not 1000000000"),
        ({"kernel": 2}, r"kernel must be one of \(1, 3\), not 2"),
        ({"height": 1}, "linears must be 3, not 6"),
        ({"channels": 31}, r"linears\.0\.weight must be \(5, 124\), not \(5, 128\)"),
    ],
)
def test_stages_that_do_not_fit(small: Network, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stages_with(small, 0, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_heads": True}, "Upsampling heads read patches"),
        ({"doublings": -1}, "must not be negative, found 5 and -1"),
        ({"decoder_width": 0}, "Linear heads need the final norm"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)
