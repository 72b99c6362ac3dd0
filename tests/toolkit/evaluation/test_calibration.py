"""Calibration against Guo et al.'s definitions, scipy's optimizer, and an example computed by hand."""

import numpy as np
import pytest
from overconfident import overconfident
from scipy import optimize
from sklearn import metrics as sk

from toolkit.evaluation import calibration
from toolkit.evaluation.metrics import softmax


def logits_and_labels(seed=3, scale=2.0):
    probabilities, labels = overconfident(seed=seed)
    return np.log(probabilities) * scale, labels


# Reliability


def test_calibration_error_of_an_example_by_hand():
    # (0.4, 0.6]: confidences .5 .6 (mean .55), 1 of 2 right; (0.8, 1]: .9 .9 1 (mean .9333), 2 of 3 right
    curve = calibration.reliability_curve([0.5, 0.6, 0.9, 0.9, 1.0], [1, 0, 1, 1, 0], bins=5)
    assert [(b["count"], b["accuracy"]) for b in curve] == [(2, 0.5), (3, pytest.approx(2 / 3))]
    assert [b["confidence"] for b in curve] == pytest.approx([0.55, 2.8 / 3])
    assert calibration.calibration_error(curve) == pytest.approx(2 / 5 * 0.05 + 3 / 5 * (2.8 / 3 - 2 / 3))


def test_calibration_error_equals_the_loop_of_the_paper():
    probabilities, labels = overconfident()
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += abs(confidence[inside].mean() - correct[inside].mean()) * inside.mean()
    assert calibration.calibration_error(calibration.reliability_curve(confidence, correct)) == pytest.approx(
        expected, abs=1e-12
    )


def test_adaptive_bins_hold_equal_numbers_and_keep_equal_confidences_together():
    curve = calibration.reliability_curve(np.linspace(0.3, 0.99, 60), np.ones(60), bins=15, adaptive=True)
    assert [b["count"] for b in curve] == [4] * 15
    saturated = np.r_[np.full(52, 1.0), np.linspace(0.3, 0.9, 8)]
    curve = calibration.reliability_curve(saturated, np.r_[np.zeros(13), np.ones(47)], bins=15, adaptive=True)
    assert [b["count"] for b in curve] == [4, 4, 52]
    assert [b["accuracy"] for b in curve] == [1, 1, 0.75]


def test_a_confidence_above_1_is_refused():
    with pytest.raises(ValueError, match="outside \\[0, 1\\]"):
        calibration.reliability_curve([87.0], [1])


def test_joined_bins_hold_enough_images_and_keep_the_means():
    random = np.random.default_rng(0)
    curve = calibration.reliability_curve(random.random(95), random.random(95) > 0.5)
    joined = calibration.join_small_bins(curve)
    assert len(joined) < len(curve)
    assert min(b["count"] for b in joined) >= 10
    for key in ("confidence", "accuracy"):
        assert sum(b[key] * b["count"] for b in joined) == pytest.approx(sum(b[key] * b["count"] for b in curve))
    assert (
        calibration.join_small_bins([{"low": 0, "high": 1, "confidence": 0.5, "accuracy": 1.0, "count": 3}])[0]["count"]
        == 3
    )


# Temperature


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
def test_temperature_equals_the_minimum_of_scipys_optimizer(scale):
    logits, labels = logits_and_labels(scale=scale)

    def loss(t):
        return sk.log_loss(labels, softmax(logits / t), labels=range(7))

    best = optimize.minimize_scalar(loss, bounds=(0.05, 50), method="bounded", options={"xatol": 1e-9})
    assert calibration.temperature(logits, labels) == pytest.approx(best.x, rel=1e-4)
    assert loss(calibration.temperature(logits, labels)) <= best.fun + 1e-12


def test_log_probabilities_have_the_temperature_of_their_logits():
    logits, labels = logits_and_labels()
    shifted = np.log(softmax(logits))
    assert calibration.temperature(shifted, labels) == pytest.approx(calibration.temperature(logits, labels), rel=1e-4)


def test_temperature_is_1_if_the_loss_has_no_minimum():
    assert calibration.temperature(np.eye(4) * 9, np.arange(4)) == 1
    assert calibration.temperature(np.zeros((5, 1)), np.zeros(5, int)) == 1


def test_infinite_logits_have_no_temperature():
    with pytest.raises(ValueError, match="finite numbers"):
        calibration.temperature(np.array([[0, np.inf]]), np.array([0]))
    with pytest.raises(ValueError, match="at least one"):
        calibration.temperature(np.zeros((0, 3)), np.zeros(0, int))


def test_no_image_is_scaled_with_a_temperature_fitted_to_its_own_label():
    probabilities, labels = overconfident(n=40)
    scaled = calibration.scaled_by_other_half(probabilities, labels)
    order = np.random.default_rng(0).permutation(40)
    first = order[:20]
    swapped = labels.copy()
    swapped[first] = (labels[first] + 1) % 7  # labels of the first half change the second half only
    np.testing.assert_allclose(calibration.scaled_by_other_half(probabilities, swapped)[first], scaled[first])
    assert not np.allclose(calibration.scaled_by_other_half(probabilities, swapped)[order[20:]], scaled[order[20:]])
