"""Calibration: does confidence match accuracy? Reliability curves, ECE, and the temperature that improves them.

Pure functions on numpy arrays. Shapes throughout: probabilities and logits float [n, classes]; labels int [n];
confidence float [n], the largest probability of each row; correct bool [n]. No torch, so that export can use it.
"""

import math

import numpy as np

from toolkit.evaluation.metrics import check_probabilities, check_same_length, class_indices, softmax

BINS = 15  # of the reliability curve, as in Guo et al. 2017
TEMPERATURES = (0.01, 100.0)  # the range that `temperature` searches


def reliability_curve(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, adaptive: bool = False
) -> list[dict]:
    """One dict for each bin that holds an image, from low to high confidence.

    Keys: low, high, confidence (mean), accuracy, count. Bins are (low, high]: of equal width, or of equal numbers of
    images if `adaptive`. Equal confidences share a bin.
    Raises ValueError if there are no images, if lengths differ, or if a confidence is outside [0, 1].
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    check_same_length(confidence, correct)
    if not len(confidence) or not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise ValueError("no confidence, or one outside [0, 1] · accepted: at least one image's largest probability")
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.quantile(confidence, inner, method="inverted_cdf") if adaptive else inner
    at = np.searchsorted(edges, confidence, side="left")
    count, sums, hits = (
        np.bincount(at, weights=w, minlength=bins) for w in (np.ones_like(confidence), confidence, correct)
    )
    low, high = np.concatenate([[0.0], edges]), np.concatenate([edges, [1.0]])
    return [
        {
            "low": float(low[b]),
            "high": float(high[b]),
            "confidence": float(sums[b] / count[b]),
            "accuracy": float(hits[b] / count[b]),
            "count": int(count[b]),
        }
        for b in np.flatnonzero(count)
    ]


def calibration_error(curve: list[dict]) -> float:
    """Mean over images of |accuracy - confidence| of their bin in a reliability curve, 0 to 1.

    On equal-width bins this is ECE (Guo et al. 2017, https://arxiv.org/abs/1706.04599), on equal-mass bins adaptive ECE
    (Mukhoti et al. 2020, https://arxiv.org/abs/2002.09437).
    """
    return sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in curve) / sum(b["count"] for b in curve)


def join_small_bins(curve: list[dict], least: int = 10) -> list[dict]:
    "Join neighbouring bins of a reliability curve until each holds `least` images. Fewer images say nothing."
    joined: list[dict] = []
    for b in curve:
        joined = [*joined[:-1], _join(joined[-1], b)] if joined and joined[-1]["count"] < least else [*joined, b]
    if len(joined) > 1 and joined[-1]["count"] < least:
        joined = [*joined[:-2], _join(*joined[-2:])]
    return joined


def _join(a: dict, b: dict) -> dict:
    count = a["count"] + b["count"]
    means = {key: (a[key] * a["count"] + b[key] * b["count"]) / count for key in ("confidence", "accuracy")}
    return {"low": a["low"], "high": b["high"], **means, "count": count}


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that minimises the negative log-likelihood of softmax(logits / T). T > 1 if the model is overconfident.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599. Log-probabilities serve as well as logits. The loss is convex in
    1/T, so its slope is brought to zero by bisection; T is within TEMPERATURES.
    Returns 1.0 if the loss has no minimum: if every label already has the largest logit (a smaller T is always better),
    or if there is one class. Raises ValueError if there are no images or if a logit is nan or infinite.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise ValueError(f"logits of shape {logits.shape} · accepted: finite numbers of shape [images, classes]")
    labels = class_indices(labels, logits.shape[1], "labels")
    check_same_length(logits, labels)
    if not len(labels):
        raise ValueError("no image · a temperature needs at least one")
    own = logits[np.arange(len(labels)), labels].astype(np.float64)
    if (own >= logits.max(1)).all():
        return 1.0
    low, high = (math.log(1 / t) for t in reversed(TEMPERATURES))
    while high - low > 1e-6:  # bisection in log(1/T); the slope of a convex loss changes sign once
        middle = (low + high) / 2
        probabilities = softmax(logits * np.float32(math.exp(middle)))
        slope = np.einsum("ij,ij->", probabilities, logits, dtype=np.float64) - own.sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def scaled_by_other_half(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities [n, classes] after temperature scaling; each half of the images gets the other half's temperature.

    No image's temperature was fitted to its own label, so calibration looks no better than on new images. The halves
    are random, and the same for the same n.
    """
    probabilities, labels = check_probabilities(probabilities, labels)
    logits, halves, scaled = log_probabilities(probabilities), random_halves(len(labels)), np.array(probabilities)
    for half, other in (halves, halves[::-1]):
        if len(half) and len(other):
            scaled[half] = softmax(logits[half] / temperature(logits[other], labels[other]))
    return scaled


def random_halves(images: int) -> list[np.ndarray]:
    "The indices of two random halves of the images, the same for the same number of images."
    return np.array_split(np.random.default_rng(0).permutation(images), 2)


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    "Logarithms of probabilities, finite: 0 counts as the smallest normal number of its dtype."
    return np.log(np.maximum(probabilities, np.finfo(probabilities.dtype).tiny))
