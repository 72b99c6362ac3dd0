"""Intervals of figures that have no formula for theirs, by drawing the images again."""

import numpy as np

RESAMPLES = 1000


def macro_f1_interval(confusion: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval (low, high) of `metrics.macro_f1`: percentiles over images drawn again with replacement.

    Efron's percentile bootstrap, https://en.wikipedia.org/wiki/Bootstrapping_(statistics); the same draws each time.
    None where all images are right or all wrong: each draw is, too, and would tell of a certainty that is none.
    confusion: int [classes, classes], label by prediction, with at least one image.
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
    low, high = np.quantile(np.nanmean(f1, axis=0), [0.025, 0.975])
    return float(low), float(high)
