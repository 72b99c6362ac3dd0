"""Confidence intervals, tests of pairs of models, and the number of images that a test needs.

Pure functions on numpy arrays. Shapes throughout: confusion int [classes, classes], label by prediction; correct float
[seeds, images], 1 if the image was right, 0 if it was wrong, nan if it was not among that seed's validation images.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from toolkit.evaluation.metrics import macro_f1

ALPHA = 0.05  # significance level
RESAMPLES = 1000


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) within [0, 1]: the confidence interval of the true rate, from `correct` successes in `total` draws.

    Wilson's score interval, https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval#Wilson_score_interval;
    unlike accuracy +- 1.96 sd it stays inside [0, 1] and is right at 0 %, at 100 % and for few images.
    Raises ValueError for total < 1, correct outside 0..total or confidence outside (0, 1).
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(
            f"{correct} correct of {total} · an interval needs 0 <= correct <= total and at least one image"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} · accepted: between 0 and 1, such as 0.95")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, shrink = correct / total, 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    low = 0.0 if correct == 0 else centre - half  # exact ends: rounding would leave 1e-17 and 0.999...
    high = 1.0 if correct == total else centre + half
    return low, high


def exact_interval(correct: int, total: int) -> tuple[float, float]:
    """(low, high): the exact 95 % interval of the true rate, from `correct` successes in `total` draws.

    Clopper and Pearson 1934. It holds the truth at least 95 times in 100, for any rate and few images too.
    """
    from scipy.stats import binomtest

    return tuple(map(float, binomtest(correct, total).proportion_ci(0.95, "exact")))


def macro_f1_interval(confusion: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval (low, high) of `metrics.macro_f1`: normal in log odds, so that it stays within 0 and 1.

    A bootstrap over images gives its standard deviation and its bias: the mean of the resampled values lies below the
    measured value by as much as the measured value is taken to lie below the truth. Efron & Tibshirani 1993, An
    Introduction to the Bootstrap, chapters 6 and 10; the draws are the same each time. Percentiles of the draws would
    repeat that bias: with 104 images of 20 classes they covered the truth in 76 to 81 % of samples, this interval in 91
    to 97 % (LOG.md).
    Returns None if all images are right or all are wrong: every resample is, too, and the interval would have no width.
    confusion: at least one image.
    """
    right, images = np.trace(confusion), confusion.sum()
    if right in (0, images):
        return None
    cells = np.flatnonzero(confusion)
    draws = np.random.default_rng(0).multinomial(images, confusion.flat[cells] / images, RESAMPLES).T  # [cells, draws]
    labels, predictions = np.divmod(cells, len(confusion))
    hits, total = np.zeros((2, len(confusion), RESAMPLES))
    np.add.at(hits, labels, draws * (labels == predictions)[:, None])
    np.add.at(total, labels, draws)
    np.add.at(total, predictions, draws)
    f1 = np.divide(2 * hits, total, out=np.full_like(hits, np.nan), where=total > 0)
    resampled, measured = np.nanmean(f1, axis=0), macro_f1(confusion)
    centre = 2 * _log_odds(measured) - _log_odds(resampled.mean())
    share = 1 / (1 + np.exp(-centre))
    half = 1.96 * resampled.std() / (share * (1 - share))  # delta method: standard deviation of the log odds
    low, high = 1 / (1 + np.exp(-(centre + np.array([-half, half]))))
    return float(low), float(high)


def _log_odds(share: float) -> float:
    return float(np.log(share / (1 - share)))


def mcnemar_exact(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[int, int, float]:
    """(images only a has right, images only b has right, p): are two models equally accurate on the same images?

    correct_a, correct_b: bool [images]. McNemar's exact two-sided test, a sign test over the images on which exactly
    one model is right, https://en.wikipedia.org/wiki/McNemar%27s_test
    Raises ValueError for unequal lengths.
    """
    from scipy.special import bdtr  # binomial distribution function

    correct_a, correct_b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if len(correct_a) != len(correct_b):
        raise ValueError(f"{len(correct_a)} and {len(correct_b)} images · both must be judged on the same ones")
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return only_a, only_b, min(1.0, float(2 * bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def mcnemar_by_majority(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[int, int, float]:
    """`mcnemar_exact` over seeds: an image counts for the variant that more of its seeds have right, else for neither.

    Seeds repeat the same images. If they were pooled, each image would count once per seed and p would be too small.
    With one seed this is McNemar's test itself. correct_a, correct_b: float [seeds, images].
    """
    a, b = np.nansum(correct_a, axis=0), np.nansum(correct_b, axis=0)
    return mcnemar_exact(a > b, b > a)


class MeanVariance(NamedTuple):
    "A mean over seeds and images, and the two parts of its variance."

    mean: float
    seed_variance: float  # more images do not reduce this part
    image_variance: float  # this part is inversely proportional to the number of images
    freedom: int  # degrees of freedom of Student's t


def mean_variance(values: np.ndarray) -> MeanVariance:
    """The mean of `values` float [seeds, images], and its variance if seeds and images are both random samples.

    The variance is that over seeds plus that over images. Their interaction is counted twice: without it the test
    would be wrong more often than it claims. Degrees of freedom: seeds - 1, because the variance over seeds is known
    no better; with one seed the variance is over images alone, with images - 1.
    Components of a crossed random design: Searle, Casella & McCulloch 1992, Variance Components, chapter 4.
    """
    seeds, present = len(values), ~np.isnan(values)
    means = np.nanmean(values, axis=1)
    parts = np.where(present, values - means[:, None], 0.0) / present.sum(1)[:, None]  # of an image in a seed's mean
    together, alone = (parts.sum(0) ** 2).sum(), (parts**2).sum()
    over_images = together / seeds**2
    if seeds == 1:
        return MeanVariance(float(means[0]), 0.0, over_images, max(values.shape[1] - 1, 1))
    over_seeds = means.var(ddof=1) / seeds
    of_both = (alone - together / seeds) / (seeds * (seeds - 1))  # images that one seed gets right and another does not
    seed_variance = max(0.0, over_seeds - max(0.0, of_both))
    return MeanVariance(float(means.mean()), seed_variance, over_seeds + over_images - seed_variance, seeds - 1)


def t_test(found: MeanVariance) -> tuple[float, float, float]:
    """(low, high, p) of a mean: its 95 % interval, and the two-sided p-value of a mean of 0, by Student's t.

    For two equally good variants p is below 0.05 in at most 5 % of studies (`test_statistics.py` draws such studies).
    """
    from scipy.special import stdtr, stdtrit

    error = math.sqrt(found.seed_variance + found.image_variance)
    half = float(stdtrit(found.freedom, 1 - ALPHA / 2)) * error
    if not error:
        return found.mean, found.mean, 1.0 if found.mean == 0 else 0.0
    return found.mean - half, found.mean + half, float(2 * stdtr(found.freedom, -abs(found.mean) / error))


def holm(p: np.ndarray) -> np.ndarray:
    """float [tests]: p-values corrected for the number of tests, by Holm's method.

    Holm 1979: the smallest is multiplied by the number of tests, the next by one less, and so on; none falls below the
    one before it, none rises above 1. https://en.wikipedia.org/wiki/Holm%E2%80%93Bonferroni_method
    Raises ValueError for a value outside [0, 1].
    """
    p = np.asarray(p, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values {p.tolist()} · accepted: numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def images_needed(
    found: MeanVariance, difference: float, images: int, alpha: float = ALPHA, power: float = 0.8
) -> float:
    """The number of images with which `t_test`, on as many seeds, finds a true `difference` with probability `power`.

    Infinite if the variance over seeds alone hides the difference. found: measured on `images` images.
    The variance must be (difference / (t_alpha/2 + t_power))^2; more images reduce their own part of it.
    Raises ValueError for no image.
    """
    from scipy.special import stdtrit

    if images < 1:
        raise ValueError(f"{images} images · accepted: 1 or more")
    quantiles = float(stdtrit(found.freedom, 1 - alpha / 2) + stdtrit(found.freedom, power))
    room = (difference / quantiles) ** 2 - found.seed_variance
    return images * found.image_variance / room if room > 0 else math.inf
