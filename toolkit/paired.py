"""Are two models, judged on the same images, equally accurate? Tests of pairs, and what it would take to tell.

Pure functions on numpy arrays: correct float [seeds, images], 1 where the image was right, 0 where it was wrong, nan
where it was not among that seed's validation images.
"""

import math
from statistics import NormalDist

import numpy as np

ALPHA = 0.05  # how often, at most, a difference is named where there is none
RESAMPLES = 10_000
ABSENT = 9.0  # in place of nan, which is not equal to itself


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


def bootstrap(values: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """(low, high, p) of the mean of `values` float [seeds, images]: its 95 % interval, and two-sided whether it is 0.

    Seeds and images are each drawn again with replacement, crossed, the same ones for both of a pair: Owen 2007, The
    pigeonhole bootstrap, https://arxiv.org/abs/0712.1111. Percentiles; p = 2 (1 + those not beyond 0) / (1 + all), at
    most 1. The same draws each time.
    """
    means = resampled_means(values, resamples)
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    return float(low), float(high), min(1.0, 2 * (1 + int(tail)) / (1 + resamples))


def resampled_means(values: np.ndarray, resamples: int = RESAMPLES) -> np.ndarray:
    """float [resamples]: means of `values` over seeds and images drawn again.

    Images with the same values are drawn together, as a multinomial of their number: memory is resamples x patterns.
    """
    coded = np.where(np.isnan(values), ABSENT, values)
    patterns, counts = np.unique(coded, axis=1, return_counts=True)
    present = patterns != ABSENT
    draws, seeds = np.random.default_rng(0), len(values)
    images = draws.multinomial(counts.sum(), counts / counts.sum(), resamples)
    times = draws.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    totals = (times @ np.where(present, patterns, 0.0) * images).sum(1)
    return totals / np.maximum((times @ present * images).sum(1), 1)


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


def images_to_tell(only_a: int, only_b: int, total: int, alpha: float = ALPHA, power: float = 0.8) -> float:
    """How many images McNemar's test needs to tell two models apart that differ as these do, at `alpha`, two-sided.

    ((z_alpha/2 sqrt(d) + z_power sqrt(d - e^2)) / e)^2, d the share of images on which exactly one is right, e the
    difference of their accuracies: Connor 1987, Biometrics 43, 207-211, https://doi.org/10.2307/2531961
    Where no difference was seen, the smallest that `total` images could have shown is put in its place, one image: a
    true one smaller than that needs more. Raises ValueError for counts that do not fit.
    """
    if total < 1 or min(only_a, only_b) < 0 or only_a + only_b > total:
        raise ValueError(f"{only_a} and {only_b} of {total} images · accepted: counts whose sum is within the total")
    difference = max(abs(only_a - only_b), 1) / total
    discordant = max((only_a + only_b) / total, difference)
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    spread = z_alpha * math.sqrt(discordant) + z_power * math.sqrt(discordant - difference**2)
    return (spread / difference) ** 2
