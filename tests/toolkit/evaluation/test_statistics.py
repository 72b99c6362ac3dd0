"""Intervals and tests against scipy and scikit-learn, worked examples, and simulated studies."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr, ndtri
from sklearn.metrics import confusion_matrix, f1_score

from toolkit.evaluation.metrics import macro_f1
from toolkit.evaluation.statistics import (
    MeanVariance,
    holm,
    images_needed,
    macro_f1_interval,
    mcnemar_by_majority,
    mcnemar_exact,
    mean_variance,
    t_test,
    wilson_interval,
)

# Intervals


@pytest.mark.parametrize(
    ("correct", "total"), [(274, 300), (0, 10), (10, 10), (1, 1), (0, 1), (95, 104), (48_000, 50_000)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_interval_equals_scipys(correct, total, confidence):
    expected = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(correct, total, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_interval_stays_inside_0_and_1_and_reaches_them():
    assert wilson_interval(0, 7)[0] == 0
    assert wilson_interval(7, 7)[1] == 1
    assert all(0 <= end <= 1 for k in range(8) for end in wilson_interval(k, 7))


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (5, 4), (-1, 4)])
def test_an_interval_without_images_is_refused(correct, total):
    with pytest.raises(ValueError, match="at least one image"):
        wilson_interval(correct, total)


def test_an_interval_of_95_instead_of_0_95_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1, such as 0.95"):
        wilson_interval(3, 4, confidence=95)


def test_the_interval_of_macro_f1_has_the_deviation_and_bias_of_a_bootstrap_with_scikit_learn():
    draws = np.random.default_rng(1)
    labels = draws.choice(5, 200, p=[0.5, 0.3, 0.15, 0.03, 0.02])
    predictions = np.where(draws.random(200) < 0.7, labels, draws.integers(0, 5, 200))
    again = draws.integers(0, 200, (2000, 200))
    figures = [f1_score(labels[chosen], predictions[chosen], average="macro") for chosen in again]
    low, high = macro_f1_interval(confusion_matrix(labels, predictions, labels=range(6)))
    figure = macro_f1(confusion_matrix(labels, predictions))
    assert high - low == pytest.approx(2 * 1.96 * np.std(figures), rel=0.1)
    assert (low + high) / 2 == pytest.approx(2 * figure - np.mean(figures), abs=0.02)
    assert low < figure < high


OTHER_SETS = [pytest.param(*each, marks=pytest.mark.long) for each in ((20, 104, 0.5), (40, 200, 0.85), (5, 60, 0.8))]


@pytest.mark.parametrize(("classes", "images", "accuracy"), [(20, 104, 0.8), (10, 270, 0.97), *OTHER_SETS])
def test_the_interval_of_macro_f1_covers_the_truth_in_more_than_90_percent_of_samples(classes, images, accuracy):
    "Samples from random classifiers. Percentile intervals covered 0.81 and 0.76 with 20 classes and 104 images."
    draws, held, same = np.random.default_rng(0), [], np.eye(classes, dtype=bool)
    while len(held) < 200:
        recall = np.clip(accuracy + 0.1 * draws.standard_normal(classes), 0.02, 0.995)
        wrong = np.where(same, 0, draws.dirichlet(np.full(classes, 0.5), classes))
        joint = np.where(same, recall, (1 - recall)[:, None] * wrong / wrong.sum(1, keepdims=True)) / classes
        confusion = draws.multinomial(images, joint.ravel()).reshape(classes, classes)
        if ends := macro_f1_interval(confusion):
            held.append(ends[0] <= macro_f1(joint) <= ends[1])
    assert np.mean(held) > 0.9


def test_the_interval_of_macro_f1_stays_below_1_if_one_image_is_wrong():
    confusion = np.eye(100, dtype=int)
    confusion[0] = np.roll(confusion[0], 1)
    low, high = macro_f1_interval(confusion)
    assert 0 < low < macro_f1(confusion) < high < 1


@pytest.mark.parametrize("confusion", [np.diag([9, 9, 0]), np.array([[0, 4], [0, 0]])])
def test_macro_f1_has_no_interval_if_all_images_are_right_or_all_are_wrong(confusion):
    assert macro_f1_interval(confusion) is None


# Pairs of models


def test_holm_corrects_the_worked_example():
    "https://en.wikipedia.org/wiki/Holm%E2%80%93Bonferroni_method#Example: at 0.05 the 4th and the 1st are significant."
    corrected = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert (corrected < 0.05).tolist() == [True, False, False, True]
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert holm(np.array([])).tolist() == []
    with pytest.raises(ValueError, match="accepted: numbers from 0 to 1"):
        holm(np.array([0.5, np.nan]))


def test_models_on_different_numbers_of_images_are_refused():
    with pytest.raises(ValueError, match="3 and 2 images"):
        mcnemar_exact(np.ones(3), np.ones(2))


@pytest.mark.parametrize(("only_a", "only_b", "both"), [(10, 3, 80), (0, 0, 5), (0, 5, 3), (7, 7, 0), (400, 350, 9000)])
def test_mcnemar_equals_scipys_exact_binomial_test(only_a, only_b, both):
    a = np.r_[np.ones(only_a), np.zeros(only_b), np.ones(both)]
    b = np.r_[np.zeros(only_a), np.ones(only_b), np.ones(both)]
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1
    assert mcnemar_exact(a, b) == (only_a, only_b, pytest.approx(expected, rel=1e-9))


def test_the_homeworks_accuracies_do_not_differ_significantly():
    # 274 and 271 of 300 right: even if one were right wherever the other is, p = 2 * 0.5^3
    a, b = np.arange(300) < 274, np.arange(300) < 271
    assert mcnemar_exact(a, b) == (3, 0, pytest.approx(0.25))


@pytest.mark.parametrize("seeds", [1, 3, 4])
def test_each_image_counts_once_and_p_is_that_of_the_sign_test(seeds):
    draws = np.random.default_rng(seeds)
    a, b = (draws.random((seeds, 60)) < rate for rate in (0.8, 0.6))
    only_a, only_b, p = mcnemar_by_majority(a.astype(float), b.astype(float))
    assert only_a == sum(x.sum() > y.sum() for x, y in zip(a.T, b.T, strict=True))
    assert only_a + only_b <= 60
    assert p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_identical_seeds_do_not_change_mcnemars_p():
    draws = np.random.default_rng(0)
    a, b = (np.where(draws.random((1, 80)) < rate, 1.0, 0.0) for rate in (0.9, 0.8))
    assert mcnemar_by_majority(np.repeat(a, 9, 0), np.repeat(b, 9, 0)) == mcnemar_by_majority(a, b)


# Seeds and images


@dataclass(frozen=True)
class Design:
    "A simulated study of two variants."

    seeds: int
    images: int
    run_sd: float  # standard deviation of a run's own accuracy
    gap: float = 0.0  # by which the first variant is more accurate
    accuracy: float = 0.8  # of the second variant
    noise: float = 1.0  # of one run on one image; 0: all runs of a variant have the same images right
    taste: float = 0.0  # standard deviation of an image's difficulty between the variants
    pool: int | None = None  # each seed draws its images from a pool of this size


def studies(times, design):
    "Differences float [seeds, images] of `times` simulated studies. Images differ in difficulty."
    draws, unit = np.random.default_rng(0), np.sqrt(1 + design.taste**2 + design.noise**2)
    middle = unit * ndtri([design.accuracy + design.gap, design.accuracy])[:, None, None]
    size = design.pool or design.images
    for _ in range(times):
        ease = middle + draws.standard_normal(size) + design.taste * draws.standard_normal((2, 1, size))
        chance = ndtr(ease / design.noise) if design.noise else ease > 0
        runs = design.run_sd * draws.standard_normal((2, design.seeds, 1))
        right = draws.random((2, design.seeds, size), np.float32) < chance + runs
        values = right[0] * 1.0 - right[1]
        if design.pool:
            seen = np.argsort(draws.random((design.seeds, size)), axis=1) < design.images
            values = np.where(seen, values, np.nan)[:, seen.any(0)]
        yield values


def significant_share(times, design):
    "The share of simulated studies with p below 0.05."
    return np.mean([t_test(mean_variance(values))[2] < 0.05 for values in studies(times, design)])


@pytest.mark.parametrize(
    ("seeds", "images", "deviation", "options"),
    [
        (3, 100, 0.0, {"accuracy": 0.97}),
        (3, 2000, 0.023, {}),
        (3, 2000, 0.03, {"taste": 1}),
        (3, 10_000, 0.023, {"taste": 0.3}),
        (4, 500, 0.01, {"accuracy": 0.9, "noise": 0.3, "taste": 0.3}),
        (5, 100, 0.0, {"noise": 0, "taste": 0.5}),
        (5, 400, 0.023, {"pool": 2000}),
        (10, 100, 0.03, {"taste": 1}),
        (10, 100, 0.0, {"noise": 0, "taste": 1}),
        (10, 2000, 0.023, {}),
    ],
)
def test_equally_good_variants_differ_significantly_in_at_most_5_percent_of_studies(seeds, images, deviation, options):
    "0.071 is three standard errors of a share of 1,000 above 0.05. A percentile bootstrap had 0.13 to 0.24."
    assert significant_share(1000, Design(seeds, images, deviation, **options)) <= 0.05 + 3 * np.sqrt(
        0.05 * 0.95 / 1000
    )


@pytest.mark.parametrize(
    ("seeds", "images", "deviation", "gap"),
    [(3, 1000, 0.005, 0.07), (5, 2000, 0.01, 0.035), (10, 1000, 0.023, 0.04), (10, 5000, 0.005, 0.0125)],
)
def test_a_difference_is_found_with_enough_seeds_and_images(seeds, images, deviation, gap):
    assert significant_share(200, Design(seeds, images, deviation, gap)) > 0.75


@pytest.mark.parametrize("options", [{}, {"taste": 1}, {"pool": 600}, {"taste": 1, "pool": 600}])
def test_the_variance_of_a_mean_is_at_least_that_over_simulated_studies(options):
    "It is at most twice as large: the interaction of seeds and images is counted twice."
    found = [mean_variance(values) for values in studies(2000, Design(4, 300, 0.02, **options))]
    variance = np.mean([one.seed_variance + one.image_variance for one in found])
    assert 0.95 < variance / np.var([one.mean for one in found]) < 2


def test_with_many_images_p_is_that_of_scipys_t_test_over_seeds():
    draws, means = np.random.default_rng(0), np.array([0.1, 0.3, 0.5])
    values = (draws.random((3, 200_000)) < means[:, None]) * 1.0
    low, high, p = t_test(mean_variance(values))
    expected = stats.ttest_1samp(means, 0)
    assert p == pytest.approx(expected.pvalue, rel=0.02)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval()), rel=0.02)


def test_identical_seeds_leave_only_the_variance_over_images():
    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (1, 1000), p=[0.1, 0.7, 0.2])
    for seeds in (1, 6):
        found = mean_variance(np.repeat(values, seeds, 0))
        assert found.seed_variance == 0
        assert found.image_variance == pytest.approx(values.var() / 1000)


def test_ties_only_are_no_difference():
    assert t_test(mean_variance(np.zeros((3, 9)))) == (0, 0, 1)


@pytest.mark.parametrize(("seeds", "gap"), [(5, 0.05), (10, 0.04), (1, 0.06)])
def test_with_the_images_needed_a_true_difference_is_found_in_80_percent_of_studies(seeds, gap):
    deviation = 0.01 if seeds > 1 else 0.0
    needed = np.median(
        [images_needed(mean_variance(values), gap, 2000) for values in studies(50, Design(seeds, 2000, deviation))]
    )
    assert significant_share(400, Design(seeds, round(needed), deviation, gap)) == pytest.approx(0.8, abs=0.1)


def test_no_number_of_images_is_enough_if_the_spread_over_seeds_hides_the_difference():
    found = MeanVariance(mean=0.01, seed_variance=1e-4, image_variance=1e-5, freedom=2)
    assert images_needed(found, 0.01, 500) == np.inf
    assert images_needed(found, 0.08, 500) < 500
    with pytest.raises(ValueError, match="0 images"):
        images_needed(found, 0.01, 0)
