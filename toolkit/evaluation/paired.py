"""Are two models, judged on the same images, equally accurate? Tests of pairs, and what it would take to tell.

Pure functions on numpy arrays: correct float [seeds, images], 1 where the image was right, 0 where it was wrong, nan
where it was not among that seed's validation images.
"""

import math
from typing import NamedTuple

import numpy as np

ALPHA = 0.05  # how often, at most, a difference is named where there is none


def mcnemar_exact(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[int, int, float]:
    """(only a right, only b right, p): are two models, judged on the same images, equally accurate? Exact, two-sided.

    correct_a, correct_b: bool [images].
    McNemar's test: a sign test over the images on which exactly one is right, https://en.wikipedia.org/wiki/McNemar%27s_test
    Raises ValueError for unequal lengths.
    """
    correct_a, correct_b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if len(correct_a) != len(correct_b):
        raise ValueError(f"{len(correct_a)} and {len(correct_b)} images · both must be judged on the same ones")
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    n = only_a + only_b
    log_choose = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(min(only_a, only_b) + 1)
    )
    return only_a, only_b, min(1.0, 2 * math.fsum(math.exp(c - n * math.log(2)) for c in log_choose))


def votes(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[int, int, float]:
    """(images that a got right with more of the seeds, that b did, p of McNemar's exact test on them), two-sided.

    Seeds repeat the same images: pooled, an image would count once a seed, and p would come out too small. So each
    image has one vote, for the variant that more of its models got right; with one seed this is McNemar's test itself.
    correct_a, correct_b: float [seeds, images].
    """
    a, b = np.nansum(correct_a, axis=0), np.nansum(correct_b, axis=0)
    return mcnemar_exact(a > b, b > a)


class Spread(NamedTuple):
    "A mean over seeds and images, and the parts of its variance."

    mean: float
    of_seeds: float  # what more images would not take away
    of_images: float  # what shrinks as images become more
    freedom: int  # degrees of freedom of Student's t


def spread(values: np.ndarray) -> Spread:
    """The mean over seeds of `values` float [seeds, images], and its variance if seeds and images are both drawn.

    The variance of the mean over seeds alone plus that over images alone: what is of both is counted twice, which the
    test needs so as not to be wrong more often than it says. On seeds - 1 degrees of freedom, as that over seeds is
    known no better; with one seed over images alone, on images - 1.
    Components of a crossed random design: Searle, Casella & McCulloch 1992, Variance Components, chapter 4.
    """
    seeds, present = len(values), ~np.isnan(values)
    means = np.nanmean(values, axis=1)
    parts = np.where(present, values - means[:, None], 0.0) / present.sum(1)[:, None]  # of an image in a seed's mean
    together, alone = (parts.sum(0) ** 2).sum(), (parts**2).sum()
    over_images = together / seeds**2
    if seeds == 1:
        return Spread(float(means[0]), 0.0, over_images, max(values.shape[1] - 1, 1))
    over_seeds = means.var(ddof=1) / seeds
    of_both = (alone - together / seeds) / (seeds * (seeds - 1))  # of an image that one seed gets right, another not
    of_seeds = max(0.0, over_seeds - max(0.0, of_both))
    return Spread(float(means.mean()), of_seeds, over_seeds + over_images - of_seeds, seeds - 1)


def crossed(found: Spread) -> tuple[float, float, float]:
    """(low, high, p) of a mean: its 95 % interval, and two-sided whether it is 0, by Student's t.

    Of two equally good variants p is below 0.05 in 5 % of studies at most (`test_paired.py` draws such studies).
    """
    from scipy.special import stdtr, stdtrit

    error = math.sqrt(found.of_seeds + found.of_images)
    half = float(stdtrit(found.freedom, 1 - ALPHA / 2)) * error
    if not error:
        return found.mean, found.mean, 1.0 if found.mean == 0 else 0.0
    return found.mean - half, found.mean + half, float(2 * stdtr(found.freedom, -abs(found.mean) / error))


def holm(p: np.ndarray) -> np.ndarray:
    """float [tests]: p-values corrected for their number, so that one below 0.05 by chance is rarer than 1 in 20.

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


def images_to_tell(found: Spread, difference: float, images: int, alpha: float = ALPHA, power: float = 0.8) -> float:
    """How many images `crossed` needs, on as many seeds, to tell a difference from 0 at `alpha`, if its spread stays.

    infinite where the spread over seeds alone hides it. found: of so many `images`. difference: the true one.
    (t_alpha/2 + t_power)^2 variances make up the square of the difference, of which images shrink their own part.
    Raises ValueError for no image.
    """
    from scipy.special import stdtrit

    if images < 1:
        raise ValueError(f"{images} images · accepted: 1 or more")
    beyond = float(stdtrit(found.freedom, 1 - alpha / 2) + stdtrit(found.freedom, power))
    room = (difference / beyond) ** 2 - found.of_seeds
    return images * found.of_images / room if room > 0 else math.inf
