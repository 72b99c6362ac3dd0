"""Tests of pairs against scipy, worked examples and all ways to draw again."""

import itertools

import numpy as np
import pytest
from scipy import stats

from toolkit import paired


def test_holm_is_the_worked_example():
    "https://en.wikipedia.org/wiki/Holm%E2%80%93Bonferroni_method#Example: of these at 0.05 the 4th and the 1st hold."
    corrected = paired.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert (corrected < 0.05).tolist() == [True, False, False, True]
    assert paired.holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert paired.holm(np.array([])).tolist() == []
    with pytest.raises(ValueError, match="accepted: numbers from 0 to 1"):
        paired.holm(np.array([0.5, np.nan]))


@pytest.mark.parametrize(
    ("only_a", "only_b", "total", "power"), [(20, 10, 100, 0.8), (12, 4, 300, 0.9), (3, 0, 50, 0.8)]
)
def test_so_many_images_as_mcnemars_test_needs_tell_a_true_difference_that_often(only_a, only_b, total, power):
    "The exact test, which is a little more careful than the normal one that the formula is for, on drawn images."
    images = round(paired.images_to_tell(only_a, only_b, total, power=power))
    shares = np.array([only_a, only_b, total - only_a - only_b]) / total
    a, b, _ = np.random.default_rng(0).multinomial(images, shares, 20_000).T
    told = 2 * stats.binom.cdf(np.minimum(a, b), a + b, 0.5) < 0.05
    assert told.mean() == pytest.approx(power, abs=0.05)


def test_images_to_tell_where_no_difference_was_seen_are_those_of_one_image():
    assert paired.images_to_tell(5, 5, 100) == pytest.approx(paired.images_to_tell(55, 45, 1000))
    assert paired.images_to_tell(0, 0, 100) == paired.images_to_tell(1, 0, 100)
    with pytest.raises(ValueError, match="70 and 40 of 100 images"):
        paired.images_to_tell(70, 40, 100)


def test_models_judged_on_different_images_are_no_pair():
    with pytest.raises(ValueError, match="3 and 2 images"):
        paired.mcnemar_exact(np.ones(3), np.ones(2))


@pytest.mark.parametrize(("only_a", "only_b", "both"), [(10, 3, 80), (0, 0, 5), (0, 5, 3), (7, 7, 0), (400, 350, 9000)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b, both):
    a = np.r_[np.ones(only_a), np.zeros(only_b), np.ones(both)]
    b = np.r_[np.zeros(only_a), np.ones(only_b), np.ones(both)]
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1
    assert paired.mcnemar_exact(a, b) == (only_a, only_b, pytest.approx(expected, rel=1e-9))


def test_the_homeworks_three_losses_cannot_be_told_apart():
    # 274 and 271 of 300 right: even if one were right wherever the other is, p = 2 * 0.5^3
    a, b = np.arange(300) < 274, np.arange(300) < 271
    assert paired.mcnemar_exact(a, b) == (3, 0, pytest.approx(0.25))


@pytest.mark.parametrize("seeds", [1, 3, 4])
def test_an_image_votes_once_and_the_p_value_is_the_sign_tests(seeds):
    draws = np.random.default_rng(seeds)
    a, b = (draws.random((seeds, 60)) < rate for rate in (0.8, 0.6))
    only_a, only_b, p = paired.votes(a.astype(float), b.astype(float))
    assert only_a == sum(x.sum() > y.sum() for x, y in zip(a.T, b.T, strict=True))
    assert only_a + only_b <= 60
    assert p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_seeds_that_repeat_each_other_make_no_difference_more_certain():
    draws = np.random.default_rng(0)
    a, b = (np.where(draws.random((1, 80)) < rate, 1.0, 0.0) for rate in (0.9, 0.8))
    assert paired.votes(np.repeat(a, 9, 0), np.repeat(b, 9, 0)) == paired.votes(a, b)


def test_bootstrap_is_the_mean_over_all_ways_to_draw_seeds_and_images():
    values = np.array([[1.0, 0.0, -1.0], [1.0, 1.0, 0.0]])
    ways = [
        values[np.ix_(seeds, images)].mean()
        for seeds in itertools.product(range(2), repeat=2)
        for images in itertools.product(range(3), repeat=3)
    ]
    drawn = paired.resampled_means(values, 200_000)
    for mean in set(ways):
        assert np.isclose(drawn, mean).mean() == pytest.approx(np.isclose(ways, mean).mean(), abs=0.005)
    low, high, p = paired.bootstrap(values, 200_000)
    assert (low, high) == pytest.approx(tuple(np.quantile(ways, [0.025, 0.975], method="inverted_cdf")))
    assert p == pytest.approx(2 * np.mean(np.array(ways) <= 0), abs=0.01)


def test_bootstrap_of_a_thousand_images_has_the_width_of_the_normal_interval():
    draws = np.random.default_rng(0)
    values = draws.choice([-1.0, 0.0, 1.0], (1, 1000), p=[0.1, 0.7, 0.2])
    low, high, _ = paired.bootstrap(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(1000), rel=0.05)


def test_images_that_a_seed_did_not_see_do_not_count_for_it():
    values = np.array([[1.0, np.nan], [np.nan, 0.0]])
    ways = [
        values[np.ix_(s, i)]
        for s in itertools.product(range(2), repeat=2)
        for i in itertools.product(range(2), repeat=2)
    ]
    means = [way[~np.isnan(way)].mean() if (~np.isnan(way)).any() else 0.0 for way in ways]
    drawn = paired.resampled_means(values, 200_000)
    assert drawn.mean() == pytest.approx(np.mean(means), abs=0.005)
    assert set(drawn) == set(means)
