"""Arithmetic that is the same everywhere, and integers that do not depend on the machine."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr as normal
from support.float_networks import float_network
from support.machines import answers

from moevit.quant.reproducible import exp, inverse_factor, log, ndtr, power, product


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5), st.integers(1, 700), st.booleans()
)
def test_products_have_no_order(seed: int, n: int, m: int, depth: int, narrow: bool) -> None:
    rng = np.random.default_rng(seed)
    kind = np.float32 if narrow else np.float64
    x = (rng.normal(size=(2, n, depth)) * 10.0 ** rng.integers(-30, 30, (2, n, 1))).astype(kind)
    y = (rng.normal(size=(m, depth)) * 10.0 ** rng.integers(-9, 9, (m, 1))).astype(kind)
    found = product(x, y)
    assert found.dtype == kind and found.shape == (2, n, m)
    order = rng.permutation(depth)
    assert np.array_equal(product(x[..., order], y[:, order]), found)
    assert np.array_equal(product(y, x).swapaxes(-1, -2), found)
    wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
    size = np.linalg.norm(wide_x, axis=-1)[..., None] * np.linalg.norm(wide_y, axis=-1)
    assert np.all(np.abs(found - wide_x @ wide_y.T) <= 4e-6 * size)


def test_products_of_whole_numbers_and_nothing() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(-128, 128, (7, 300)), rng.integers(-127, 128, (5, 300))
    assert np.array_equal(product(x.astype(np.float64), y.astype(np.float32)), x @ y.T)
    assert not product(np.zeros((2, 3)), np.ones((4, 3))).any()
    assert product(np.zeros((0, 3)), np.ones((4, 3))).shape == (0, 4)


def test_functions() -> None:
    x = np.linspace(-40, 40, 30001)
    assert np.all(np.abs(exp(x) / np.exp(x) - 1) < 1e-12)
    assert np.all(np.abs(ndtr(x) - normal(x)) < 2e-11)
    assert np.all(np.abs(ndtr(x[x > -8]) / normal(x[x > -8]) - 1) < 1e-6)
    assert np.all(np.abs(log(np.exp(x)) - x) < 1e-13)
    assert log(np.array([1.0])) == 0 and exp(np.float32(0)) == 1
    y = np.exp(x / 8)
    assert np.all(np.abs(power(y, 0.3) / y**0.3 - 1) < 1e-12)
    assert power(y, 1) is y and np.all(power(y, 0) == 1)
    assert np.all(exp(np.array([-1e9, -800.0])) < 1e-300) and exp(np.float32(1)).dtype == "f4"


def test_functions_bit_by_bit() -> None:
    """On every machine: a change of these numbers is a change of everybody's integers."""
    x = np.linspace(-20, 20, 4001)
    found = [f(x) for f in (exp, ndtr)] + [log(np.arange(1, 5000) / 7), power(1 + x * x, 0.25)]
    a = np.sin(np.arange(60.0).round(1)).astype(np.float32).reshape(6, 10)
    a = (a * 1000).round() / np.float32(1024)
    found.append(inverse_factor(product(a, a) + np.eye(6)).astype(np.float64))
    digest = hashlib.sha256(b"".join(f.astype("<f8").tobytes() for f in found)).hexdigest()
    assert digest[:16] == "0295a053ae5d554f"


def test_factors_of_inverses() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(50, 30))
    matrix = rows.T @ rows + 0.1 * np.eye(30)
    factor = inverse_factor(matrix)
    assert np.array_equal(factor, np.triu(factor)) and np.all(np.diag(factor) > 0)
    assert np.abs(factor.T @ factor @ matrix - np.eye(30)).max() < 1e-10
    with pytest.raises(ValueError, match="not positive definite"):
        inverse_factor(np.ones((2, 2)))


_QUANTISE = """
import hashlib, pathlib, pickle, sys
from moevit.quant.ptq.calibrate import calibrate
from moevit.quant.io import save_network
from moevit.quant.ptq.methods import method
from moevit.quant.ptq.quantize import quantise
from moevit.quant.random_network import random_images
found, folder = hashlib.sha256(), pathlib.Path(sys.argv[1])
for net in pickle.loads((folder / "networks").read_bytes()):
    stats = calibrate(net, random_images(0, net.geometry, 12))
    for name, bits in (("default", 4), ("all", 8), ("compensate", 8)):
        path = folder / sys.argv[2]
        save_network(quantise(net, stats, method(name, expert_bits=bits)), path)
        found.update(path.read_bytes())
print(found.hexdigest())
"""


@pytest.mark.slow
def test_the_same_integers_on_every_machine(tmp_path: Path) -> None:
    """One thread or two, kernels with and without fused additions, NumPy with and without SIMD."""
    networks = [float_network(4), float_network(6, doublings=2, depth=1, own_norm=True)]
    (tmp_path / "networks").write_bytes(pickle.dumps(networks))
    digests = answers(_QUANTISE, str(tmp_path))
    assert len(digests[0]) == 64 and len(set(digests)) == 1, digests
