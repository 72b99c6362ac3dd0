"""Selective classification: answers below a threshold of confidence are `unsure`, so that the others can be relied on.

Coverage is the share of images that get an answer, precision the share of right ones among these answers.
Pure functions on numpy arrays: confidence float [n], the calibrated probability of each image's predicted class;
correct bool [n]. Source: El-Yaniv and Wiener 2010, https://www.jmlr.org/papers/v11/el-yaniv10a.html
"""

from typing import Any

import numpy as np

from toolkit.evaluation.calibration import random_halves
from toolkit.evaluation.statistics import exact_interval

POINTS = 60  # of the curve, at most
STEPS = 10_000  # in 1: confidences are rounded down to one, as another device's have other last digits


def precision_over_coverage(confidence: np.ndarray, correct: np.ndarray) -> list[list[float]]:
    "[coverage, precision] of the most confident images, from few to all; equally confident ones come together."
    order = np.argsort(-confidence, kind="stable")
    last = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))  # of each group of equal confidence
    answered, right = last + 1, np.cumsum(correct[order])[last]
    chosen = np.unique(np.linspace(0, len(last) - 1, min(len(last), POINTS)).round().astype(int))
    return [[float(answered[i] / len(order)), float(right[i] / answered[i])] for i in chosen]


def threshold_for(confidence: np.ndarray, correct: np.ndarray, promise: float, least: float = 0.0) -> float | None:
    """The confidence of the least confident answer of the largest set that is right with a share of `promise` or more.

    A set holds all images above a confidence, which is `least` or more. It is never below the least confident image:
    what is less certain than all of these was not judged. None if there is no such set.
    """
    if not len(correct):
        return None
    order = np.argsort(-confidence, kind="stable")
    steps = np.floor(confidence[order] * STEPS) / STEPS
    last = np.append(np.diff(steps) != 0, True)
    precision = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    kept = np.flatnonzero(last & (precision >= promise) & (steps >= least))
    return float(steps[kept[-1]]) if len(kept) else None


def judged(confidence: np.ndarray, correct: np.ndarray, threshold: float | np.ndarray) -> dict[str, Any]:
    "Images, answered and right ones at a threshold, their precision with its exact 95 % interval, and the coverage."
    answers = confidence >= threshold
    answered, right = int(answers.sum()), int(correct[answers].sum())
    found: dict[str, Any] = {"images": len(correct), "answered": answered, "right": right}
    if answered:
        found |= {"precision": right / answered, "precision_interval": list(exact_interval(right, answered))}
    return found | {"coverage": answered / len(correct)}


def promised(confidence: np.ndarray, correct: np.ndarray, promise: float) -> dict[str, Any]:
    """The threshold that keeps the promised precision, and what came of it.

    Each random half of the images is judged by the threshold that was chosen on the other half. `threshold` is the
    lowest one that keeps the promise on all images and is not below either. The smaller one of the two keeps it on new
    images in less than half of the cases, because it was chosen for it.
    Keys: promise, threshold, those of `judged`, and `curve` of `precision_over_coverage`.
    Raises ValueError if the promise can't be kept: there is no threshold, or the exact 95 % interval of the precision
    of both halves together lies below the promise.
    """
    curve, halves = precision_over_coverage(confidence, correct), random_halves(len(correct))
    thresholds = [threshold_for(confidence[half], correct[half], promise) for half in halves]
    found: dict[str, Any] = {}
    threshold = None if None in thresholds else threshold_for(confidence, correct, promise, max(thresholds))
    if threshold is not None:
        by_other = np.empty(len(correct))
        by_other[halves[0]], by_other[halves[1]] = thresholds[::-1]
        found = judged(confidence, correct, by_other)
    if not found.get("answered") or found["precision_interval"][1] < promise:
        share, right = min(curve, key=lambda point: abs(point[0] - 0.5))
        raise ValueError(
            f"--promise {promise:g} can't be kept on {len(correct)} validation photos: of the most confident "
            f"{share:.0%} of them {right:.1%} are right; give a lower precision, or 0 for none"
        )
    return {"promise": promise, "threshold": threshold, **found, "curve": curve}
