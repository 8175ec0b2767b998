"""Scores on cases small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from moevit.model.config import KINDS
from moevit.model.evaluation.metrics import (
    PRIMARY,
    Depth,
    Edges,
    FMeasure,
    Normals,
    Saliency,
    Segmentation,
    delta_m,
    scorer,
)
from moevit.model.kinds import TASK_KINDS
from moevit.model.tasks import decode, known, predict

UNKNOWN = {"depth": 0, "normals": 0, "orientation": 0}


def test_miou_by_hand() -> None:
    tally = Segmentation(4)
    tally.update(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 2]]))
    # class 0: 1/2, class 1: 1/3, class 2: 0/1; class 3 never occurs
    assert_allclose(tally.per_class(), [1 / 2, 1 / 3, 0, np.nan])
    assert tally.result() == {"miou": pytest.approx(5 / 18), "accuracy": 0.5}


def test_depth_by_hand() -> None:
    tally = Depth()
    tally.update(np.array([1.0, 2.0, 4.0, 1.0]), np.array([1.0, 2.4, 5.0, 3.0]))
    result = tally.result()
    assert result["rmse"] == pytest.approx(np.sqrt((0.16 + 1 + 4) / 4))
    logs = np.log([1, 1.2, 1.25, 3])
    assert result["log_rmse"] == pytest.approx(np.sqrt(np.mean(logs**2)))
    assert result["delta1"] == 0.5  # a factor of exactly 1.25 is not within it


def test_normals_by_hand() -> None:
    tally = Normals()
    half = np.sqrt(0.5)
    tally.update(
        np.array([[0.0, 0, -1], [0, 0, -1], [0, half, -half]]),
        np.array([[0.0, 0, -1], [0, -1, 0], [0, 0, -1]]),
    )
    result = tally.result()
    assert result["mean_angle"] == pytest.approx((0 + 90 + 45) / 3, abs=1e-4)
    assert result["rms_angle"] == pytest.approx(np.sqrt((90**2 + 45**2) / 3), abs=1e-4)
    assert [result[f"within_{n}"] for n in (11, 22, 30)] == pytest.approx([1 / 3] * 3)
    tally.update(np.array([[0.0, np.sin(0.45), -np.cos(0.45)]]), np.array([[0.0, 0, -1]]))
    result = tally.result()  # 25.8 degrees
    assert [result[f"within_{n}"] for n in (11, 22, 30)] == pytest.approx([1 / 4, 1 / 4, 2 / 4])


def test_f_takes_the_best_threshold() -> None:
    tally = FMeasure("f", 1.0)
    tally.update(np.array([0.9, 0.6, 0.4, 0.1]), np.array([True, False, True, False]))
    # above 0.4: precision 2/3, recall 1, F 0.8; above 0.9: precision 1, recall 1/2, F 2/3
    result = tally.result()
    assert result["f"] == pytest.approx(0.8)
    assert 0.1 < result["threshold"] <= 0.4


def test_saliency_f_prefers_precision() -> None:
    tally = FMeasure("max_f", 0.3)
    tally.update(np.array([0.9, 0.6, 0.6, 0.4]), np.array([True, False, False, True]))
    assert tally.result()["max_f"] == pytest.approx(1.3 * 1 * 0.5 / (0.3 * 1 + 0.5))


def test_edges_one_pixel_off_are_right_with_tolerance() -> None:
    truth = np.zeros((1, 120, 160), np.bool_)  # diagonal 200: 1.5 pixels of tolerance
    truth[0, :, 80] = True
    near, far = np.zeros(truth.shape), np.zeros(truth.shape)
    near[0, :, 81], far[0, :, 82] = 0.9, 0.9
    found = []
    for prediction in (near, far):
        tally = Edges()
        tally.update(prediction, truth)
        found.append(tally.result())
    # exact: only "everything is an edge" finds the true ones
    everything = pytest.approx(2 / (1 + 160))
    assert [result["f"] for result in found] == [everything] * 2
    assert found[0]["ods_f"] == pytest.approx(1)
    # within 1.5 pixels lie three columns of 160, at the threshold 0
    assert found[1]["ods_f"] == pytest.approx(2 * (3 / 160) / (3 / 160 + 1))


def test_saliency_as_m3vit_scores_it() -> None:
    tally = Saliency()
    tally.update(
        np.array([[[0.95, 0.3, 0.0, 0.0]], [[0.0, 0.0, 0.6, 0.0]]]),
        np.array([[[True, True, False, False]], [[False, False, False, False]]]),
    )
    result = tally.result()
    # from 0.6 to 0.9 the images' overlaps are 1/2 and 1 (both empty); P 1 and 0, R 1/2 and 0
    assert result["miou"] == pytest.approx(3 / 4)
    # at 0.2 and 0.25: P 1 and 0, R 1 and 0
    assert result["max_f1"] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_pixels_do_not_count(kind: str) -> None:
    rng = np.random.default_rng(3)
    channels = TASK_KINDS[kind].channels or 3
    truth, prediction, other = (
        decode(kind, rng.normal(size=(2, channels, 8, 6))) for _ in range(3)
    )
    if kind in ("edges", "saliency"):
        truth = (truth > 0.5).astype(np.uint8)
    hidden = rng.random((2, 8, 6)) < 0.4
    truth[hidden] = UNKNOWN.get(kind, 255)
    assert np.array_equal(known(kind, truth), ~hidden)
    changed = prediction.copy()
    changed[hidden] = other[hidden]
    results = []
    for guess in (prediction, changed):
        tally = scorer(kind, 3)
        tally.update(guess, truth)
        results.append(tally.result())
    assert results[0] == results[1]
    nothing = scorer(kind, 3)
    truth[:] = UNKNOWN.get(kind, 255)
    nothing.update(prediction, truth)
    assert np.isfinite(list(nothing.result().values())).all()
    assert PRIMARY[kind] in nothing.result()


def test_f_of_nothing_is_zero() -> None:
    tally = FMeasure("f", 1.0)
    tally.update(np.array([0.2, 0.7]), np.array([False, False]))
    assert tally.result()["f"] == 0


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_the_batches(kind: str, seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    channels = TASK_KINDS[kind].channels or 3
    truth, prediction = (decode(kind, rng.normal(size=(10, channels, 2, 3))) for _ in range(2))
    if kind in ("edges", "saliency"):
        truth = truth > 0.5
    whole, parts = scorer(kind, 3), scorer(kind, 3)
    whole.update(prediction, truth)
    parts.update(prediction[:cut], truth[:cut])
    parts.update(prediction[cut:], truth[cut:])
    for name, value in whole.result().items():
        assert parts.result()[name] == pytest.approx(value, nan_ok=True)


def test_delta_m_by_hand() -> None:
    reference = {"segmentation": {"miou": 0.5}, "depth": {"rmse": 2.0}}
    better = {"segmentation": {"miou": 0.6}, "depth": {"rmse": 1.5}}
    assert delta_m(better, reference) == pytest.approx(100 * (0.2 + 0.25) / 2)
    assert delta_m(reference, reference) == 0
    assert delta_m({"a": {"rmse": 3.0}}, {"a": {"rmse": 2.0}}, {"a": "depth"}) == -50


def test_delta_m_needs_a_reference_for_each_task() -> None:
    with pytest.raises(ValueError, match="lacks rmse of task 'depth'"):
        delta_m({"depth": {"rmse": 1.0}}, {"edges": {"f": 1.0}})
    with pytest.raises(ValueError, match="rmse of task 'depth' is zero"):
        delta_m({"depth": {"rmse": 1.0}}, {"depth": {"rmse": 0.0}})
    with pytest.raises(ValueError, match="no task"):
        delta_m({}, {})


def test_decoding() -> None:
    assert decode("segmentation", np.array([[[[1.0]], [[3.0]], [[2.0]]]])).tolist() == [[[1]]]
    assert_allclose(decode("depth", np.log(np.full((1, 1, 1, 2), 2.5))), [[[2.5, 2.5]]])
    normal = decode("normals", np.array([3.0, 0, -4]).reshape(1, 3, 1, 1))
    assert_allclose(normal[0, 0, 0], [0.6, 0, -0.8])
    assert_allclose(decode("edges", np.zeros((1, 1, 1, 1))), [[[0.5]]])
    assert np.isfinite(decode("saliency", np.array([-1e4, 1e4]).reshape(1, 1, 1, 2))).all()
    with pytest.raises(ValueError, match="not 'flow'"):
        decode("flow", np.zeros((1, 1, 1, 1)))


def test_predictions_are_enlarged_before_they_are_decoded() -> None:
    raw = np.array([[[[0.0, 4.0]]]], np.float32)
    assert_allclose(predict("depth", raw, (1, 4))[0, 0], np.exp([0, 1, 3, 4]), rtol=1e-6)


def test_unknown_kind_has_no_scorer() -> None:
    with pytest.raises(ValueError, match="not 'flow'"):
        scorer("flow", 1)
