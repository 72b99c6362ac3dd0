"""Thresholds of confidence that keep a promised precision, and the exact interval of what came of it."""

import numpy as np
import pytest
from scipy.stats import beta

from toolkit.evaluation.selective import judged, precision_over_coverage, promised, threshold_for
from toolkit.evaluation.statistics import exact_interval


def calibrated(n, seed=0):
    "Confidence uniform from 0.5 to 1, and right as often as it says: above a threshold t the precision is (1 + t) / 2."
    draws = np.random.default_rng(seed)
    confidence = draws.uniform(0.5, 1, n)
    return confidence, draws.uniform(size=n) < confidence


@pytest.mark.parametrize(("right", "total"), [(0, 5), (5, 5), (49, 50), (3, 7)])
def test_the_exact_interval_is_clopper_and_pearsons(right, total):
    low = beta.ppf(0.025, right, total - right + 1) if right else 0
    high = beta.ppf(0.975, right + 1, total - right) if right < total else 1
    assert exact_interval(right, total) == pytest.approx((low, high), abs=1e-9)


def test_the_exact_interval_of_a_textbook():
    assert exact_interval(81, 263) == pytest.approx((0.2527, 0.3677), abs=5e-4)  # Agresti, Categorical Data Analysis


def test_the_threshold_is_the_lowest_with_the_promised_precision():
    confidence, correct = calibrated(300)
    for promise in (0.8, 0.9, 0.97):
        precise = [c for c in confidence if correct[confidence >= c].mean() >= promise]
        assert threshold_for(confidence, correct, promise) == pytest.approx(min(precise), abs=1e-4)
        assert threshold_for(confidence, correct, promise) <= min(precise)  # rounding leaves nobody out


def test_equally_confident_images_are_answered_together_or_not_at_all():
    confidence, correct = np.array([0.9, 0.8, 0.8, 0.7]), np.array([True, True, False, True])
    assert threshold_for(confidence, correct, 0.9) == 0.9
    assert threshold_for(confidence, correct, 0.6) == 0.7


def test_a_model_that_is_always_right_still_does_not_answer_what_was_not_judged():
    assert threshold_for(np.array([0.9, 0.6]), np.array([True, True]), 0.98) == 0.6


def test_no_threshold_without_a_right_answer_and_none_without_images():
    assert threshold_for(np.array([0.9, 0.6]), np.array([False, True]), 0.98) is None
    assert threshold_for(np.array([]), np.array([], bool), 0.98) is None


def test_the_threshold_of_a_calibrated_model_is_the_one_that_follows_from_its_confidence():
    found = promised(*calibrated(20_000), 0.9)
    assert found["threshold"] == pytest.approx(0.8, abs=0.02)  # (1 + 0.8) / 2
    assert found["coverage"] == pytest.approx(0.4, abs=0.04)
    low, high = found["precision_interval"]
    assert low < 0.9 < high
    assert found["answered"] * found["precision"] == pytest.approx(found["right"])


def test_on_new_images_the_promise_holds_on_average_and_the_intervals_lower_end_nearly_always():
    found = [promised(*calibrated(400, seed), 0.9) for seed in range(5, 45)]
    truth = np.array([(1 + each["threshold"]) / 2 for each in found])
    lower_ends = np.array([each["precision_interval"][0] for each in found])
    assert truth.mean() >= 0.9
    assert (lower_ends <= truth).mean() >= 0.95


def test_the_promise_is_true_of_the_images_it_was_chosen_on():
    larger_of_both_breaks_it = 0
    for seed in range(60):
        confidence, correct = calibrated(400, seed)
        try:
            threshold = promised(confidence, correct, 0.97)["threshold"]
        except ValueError:
            continue
        assert correct[confidence >= threshold].mean() >= 0.97
        halves = np.array_split(np.random.default_rng(0).permutation(400), 2)
        other = max(threshold_for(confidence[half], correct[half], 0.97) for half in halves)
        larger_of_both_breaks_it += correct[confidence >= other].mean() < 0.97
    assert larger_of_both_breaks_it  # or the test would not show


def test_each_half_is_judged_by_the_other_halfs_threshold():
    confidence, correct = calibrated(101)
    halves = np.array_split(np.random.default_rng(0).permutation(101), 2)
    thresholds = [threshold_for(confidence[half], correct[half], 0.85) for half in halves]
    parts = [judged(confidence[h], correct[h], t) for h, t in zip(halves, thresholds[::-1], strict=True)]
    found = promised(confidence, correct, 0.85)
    assert found["threshold"] >= max(thresholds)
    assert thresholds[0] != thresholds[1]
    assert found["right"] == sum(part["right"] for part in parts)
    assert found["answered"] == sum(part["answered"] for part in parts)


@pytest.mark.parametrize("images", [1, 200])
def test_a_promise_that_the_photos_break_is_refused_with_a_figure(images):
    confidence = np.linspace(0.99, 0.5, images)
    correct = np.arange(images) % 2 == 1  # half of the most confident are right, and half of all
    with pytest.raises(ValueError, match=rf"--promise 0.98 can't be kept on {images} validation photos: of the most"):
        promised(confidence, correct, 0.98)


def test_precision_over_coverage_goes_from_the_most_confident_to_all():
    confidence, correct = np.array([0.5, 0.9, 0.7, 0.7]), np.array([False, True, True, False])
    assert precision_over_coverage(confidence, correct) == [[0.25, 1], [0.75, 2 / 3], [1, 0.5]]
    many = precision_over_coverage(*calibrated(5000))
    assert len(many) == 60
    assert many[-1][0] == 1
