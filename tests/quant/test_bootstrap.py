"""Bootstrap intervals: draws, coverage, and what cannot be drawn from."""

import numpy as np
import pytest

from moevit.quant.analysis.bootstrap import draws, estimate, share


def test_draws() -> None:
    drawn = draws(7, 50, seed=1)
    assert drawn.shape == (50, 7) and (drawn.sum(axis=1) == 7).all()
    assert len(np.unique(drawn, axis=0)) > 40
    assert np.array_equal(drawn, draws(7, 50, seed=1))


def test_an_interval_covers_what_it_says() -> None:
    """Of 200 sets of 60 images, the interval of the share holds the truth in about 95 %."""
    rng = np.random.default_rng(0)
    tokens = np.full(60, 20)
    held = 0
    for trial in range(200):
        rates = rng.beta(8, 2, 60)  # images differ; the mean rate is 0.8
        found = share(rng.binomial(tokens, rates), tokens, seed=trial)
        assert found.low <= found.value <= found.high
        held += found.low <= 0.8 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_what_is_not_a_number_is_dropped() -> None:
    assert estimate(1.0, [1.0, np.nan, 1.0]).to_dict() == {"value": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0)])
def test_bad_sizes(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="Draws need images and resamples, not"):
        draws(*sizes)
