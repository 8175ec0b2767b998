"""Calibration statistics and range searches."""

import numpy as np
import pytest
from support.float_networks import float_network

from moevit.quant.float.network import FloatMoe
from moevit.quant.ptq.calibrate import Site, calibrate
from moevit.quant.ptq.ranges import CODES, Encoding, channel_range, check_clip, quantise_rows
from moevit.quant.random_network import random_images


def test_sites_hold_what_the_network_computes() -> None:
    net = float_network(1)
    images = random_images(0, net.geometry, 20)
    seen: dict[str, list[np.ndarray]] = {}
    net.run(images, observe=lambda name, rows: seen.setdefault(name, []).append(rows))
    stats = calibrate(net, images, rows=50)
    assert {n for n in seen if ".routing." not in n} == set(stats.sites)
    for name, site in stats.sites.items():
        everything = np.concatenate(seen[name])
        assert site.count == len(everything)
        assert np.allclose(site.low, everything.min(axis=0), atol=1e-5)
        assert np.allclose(site.high, everything.max(axis=0), atol=1e-5)
        assert np.allclose(site.mean, everything.mean(axis=0), atol=1e-4)
        assert len(site.rows) == min(50, len(everything))


def test_usage_counts_tokens_an_image() -> None:
    net = float_network(2, moe=(0, 2))
    images = random_images(0, net.geometry, 10)
    stats = calibrate(net, images)
    assert list(stats.usage) == [0, 2]
    for block, usage in stats.usage.items():
        mlp = net.blocks[block].mlp
        assert isinstance(mlp, FloatMoe)
        assert list(usage) == ["a", "b"]
        for counts in usage.values():
            assert len(counts) == len(mlp.experts)
            assert sum(counts) == pytest.approx(net.geometry.tokens * mlp.k)


def test_samples_are_uniform() -> None:
    """Rows number their image; a reservoir must not favour the first or the last ones."""
    net = float_network(0, depth=1, moe=())
    images = random_images(0, net.geometry, 400)
    stats = calibrate(net, images, rows=200, seed=5)
    everything: list[np.ndarray] = []
    net.run(images, observe=lambda name, rows: everything.append(rows) if name == "norm" else None)
    order = {row.tobytes(): i for i, row in enumerate(np.round(everything[0], 3))}
    places = [order.get(row.tobytes(), -1) for row in np.round(stats.sites["norm"].rows, 3)]
    known = np.array([p for p in places if p >= 0])
    assert len(known) > 100  # rounding may lose a few
    assert 0.4 < np.mean(known < len(everything[0]) / 2) < 0.6


def test_calibration_needs_images() -> None:
    net = float_network()
    with pytest.raises(
        ValueError, match=r"needs images \(N, H, W, C\), not shape \(0, 16, 24, 3\)"
    ):
        calibrate(net, np.empty((0, 16, 24, 3), np.uint8))
    with pytest.raises(ValueError, match=r"holds nothing for 'blocks\.9\.q'"):
        calibrate(net, random_images(0, net.geometry, 1)).site("blocks.9.q")


def site(rows: np.ndarray) -> Site:
    rows = rows.astype(np.float32)
    return Site(
        low=rows.min(axis=0),
        high=rows.max(axis=0),
        sum=rows.sum(axis=0, dtype=np.float64),
        count=len(rows),
        rows=rows,
    )


def test_ranges() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(5, 1, (1000, 3)) * [1, 10, 0.1]
    rows[7] = [40, 60, 0.5]  # an outlier in channel 0
    data = site(rows)
    centre, half = channel_range(data, "minmax", 100)
    assert np.allclose(centre - half, data.low, rtol=1e-5)
    assert np.allclose(centre + half, data.high, rtol=1e-5)
    flat, wide = channel_range(data, "minmax", 100, centred=False)
    assert not flat.any()
    assert np.allclose(wide, np.maximum(data.high, -data.low), rtol=1e-5)
    _, tight = channel_range(data, "percentile", 99)
    assert tight[0] < 0.3 * half[0]
    _, best = channel_range(data, "mse", 100)
    assert np.all(best <= half)

    def error(width: np.ndarray) -> np.ndarray:
        step = width / CODES
        codes = np.clip(np.round((rows - centre) / step), -CODES, CODES)
        return np.mean((codes * step + centre - rows) ** 2, axis=0)

    assert np.all(error(best) <= error(half))


def test_constant_channels_are_exact() -> None:
    data = site(np.full((10, 2), [3.25, 0.0]))
    centre, half = channel_range(data, "mse", 100)
    encoding = Encoding(scale=half / CODES, offset=centre)
    assert np.array_equal(encoding.decode(encoding.encode(data.rows)), data.rows)


def test_weight_rows() -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 1, (20, 64)) * rng.uniform(0.01, 10, (20, 1))
    weight[3] = 0
    codes, step = quantise_rows(weight)
    assert np.abs(codes).max() == CODES
    assert np.all(np.abs(codes * step[:, None] - weight) <= step[:, None] / 2 + 1e-12)
    clipped, smaller = quantise_rows(weight, clip="mse")
    assert np.all(smaller <= step)

    def error(c: np.ndarray, s: np.ndarray) -> float:
        return float(np.sum((c * s[:, None] - weight) ** 2))

    assert error(clipped, smaller) <= error(codes, step)


def test_unknown_clip() -> None:
    with pytest.raises(ValueError, match="Clip must be one of minmax, percentile, mse, not 'max'"):
        check_clip("max")
