"""Figures of a classifier from its probabilities and labels: accuracy with its interval, classes, calibration.

Pure functions on numpy arrays. Shapes throughout: probabilities float [n, classes], rows summing to 1; labels and
predictions int [n], 0 <= value < classes; confidence float [n], the largest probability of each row; correct bool [n];
confusion int [classes, classes], label by prediction. No torch, so that export can use it.
"""

import math
from statistics import NormalDist

import numpy as np

BINS = 15  # of the reliability curve, as in Guo et al. 2017
TEMPERATURES = (0.01, 100.0)  # where `temperature` looks


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval (low, high) within [0, 1] that holds the true rate, from `correct` successes in `total` draws.

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


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: how often label (row) was predicted as (column). Works without any image."""
    labels, predictions = _indices(labels, classes, "labels"), _indices(predictions, classes, "predictions")
    _same_length(labels, predictions)
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Of each class, from the confusion matrix: precision, recall, f1 (float [classes]) and support (int [classes]).

    Precision is nan for a class never predicted, recall for one without images, f1 = 2tp / (2tp + fp + fn) for one with
    neither: undefined is not 0. (scikit-learn puts 0 there for precision and recall.)
    """
    right, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return {
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, support),
        "f1": _ratio(2 * right, support + predicted),
        "support": support,
    }


def macro_f1(confusion: np.ndarray) -> float:
    "Mean f1 of the classes that occur as label or as prediction, as scikit-learn's f1_score(average='macro') takes it."
    return float(np.nanmean(per_class(_not_empty(confusion))["f1"]))


def weighted_f1(confusion: np.ndarray) -> float:
    "Mean f1 weighted by the number of images of each class."
    figures = per_class(_not_empty(confusion))
    return float(np.nansum(figures["f1"] * figures["support"]) / figures["support"].sum())


def balanced_accuracy(confusion: np.ndarray) -> float:
    "Mean recall of the classes that have images: accuracy if every class had as many."
    return float(np.nanmean(per_class(_not_empty(confusion))["recall"]))


def topk_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int = 5) -> float:
    "Share of images whose label is among the k most probable classes; of equals the lower index comes first (argmax)."
    probabilities, labels = _checked(probabilities, labels)
    own = probabilities[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    rank = ((probabilities > own) | ((probabilities == own) & earlier)).sum(1)
    return float((rank < k).mean())


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    "Mean of -log p(label), in nats. A probability rounded to 0 counts as the smallest number of its dtype: finite."
    probabilities, labels = _checked(probabilities, labels)
    own = probabilities[np.arange(len(labels)), labels]
    own = np.maximum(own, np.finfo(own.dtype).smallest_subnormal).astype(np.float64)
    return max(0.0, float(-np.log(own).mean()))  # not -0.0


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    "Mean over images of the squared distance to the one-hot label, summed over classes: 0 (best) to 2. Brier 1950."
    probabilities, labels = _checked(probabilities, labels)
    squares = np.einsum("ij,ij->", probabilities, probabilities, dtype=np.float64)
    return float((squares - 2 * probabilities[np.arange(len(labels)), labels].sum(dtype=np.float64)) / len(labels) + 1)


def reliability_curve(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, adaptive: bool = False
) -> list[dict]:
    """Of each bin that holds an image: {low, high, confidence (mean), accuracy, count}, from low to high confidence.

    Bins are (low, high], of equal width, or with `adaptive` of equal numbers of images; equal confidences share a bin.
    Raises ValueError for no image, unequal lengths or a confidence outside [0, 1].
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    _same_length(confidence, correct)
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


def softmax(logits: np.ndarray) -> np.ndarray:
    "Probabilities float [n, classes] of logits [n, classes], which may be float16."
    logits = np.asarray(logits)
    logits = logits.astype(np.result_type(logits, np.float32))
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that minimises the negative log-likelihood of softmax(logits / T): above 1 if the model is too sure.

    Guo et al. 2017. Log-probabilities serve as well as logits. The loss is convex in 1/T: its slope is brought to zero.
    Where every label already has the largest logit there is no minimum (ever smaller T is ever better), nor with a
    single class: 1.0 then. Otherwise within 0.01 to 100. Raises ValueError for no image, nan or infinite logits.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise ValueError(f"logits of shape {logits.shape} · accepted: finite numbers of shape [images, classes]")
    labels = _indices(labels, logits.shape[1], "labels")
    _same_length(logits, labels)
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
    """Probabilities [n, classes] after a temperature that did not see their labels: each half gets the other half's.

    So calibration after temperature looks no better than on new images. Random halves, the same ones for the same n.
    """
    probabilities, labels = _checked(probabilities, labels)
    logits, order = _log(probabilities), np.random.default_rng(0).permutation(len(labels))
    halves, scaled = np.array_split(order, 2), np.array(probabilities)
    for half, other in (halves, halves[::-1]):
        if len(half) and len(other):
            scaled[half] = softmax(logits[half] / temperature(logits[other], labels[other]))
    return scaled


def summary(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """All of it as plain JSON numbers: the part of metrics.json that describes the predictions.

    Keys: images, classes, accuracy, accuracy_interval [low, high] (Wilson, 95 %), top5, balanced_accuracy, macro_f1,
    weighted_f1, nll, brier, ece, adaptive_ece, temperature; after temperature (`scaled_by_other_half`) scaled_nll,
    scaled_ece; reliability and scaled_reliability, as `reliability_curve` returns them. The temperature is 1, which
    changes nothing, unless both scaled_nll and scaled_ece would be lower than nll and ece.
    Raises ValueError for no images, shapes that do not fit, labels out of range, and rows that are no probabilities.
    """
    probabilities, labels = _checked(probabilities, labels)
    n, classes = probabilities.shape
    predictions, confidence = probabilities.argmax(1), probabilities.max(1)
    correct = predictions == labels
    confusion = confusion_matrix(labels, predictions, classes)
    curve, nll = reliability_curve(confidence, correct), negative_log_likelihood(probabilities, labels)
    scaled = scaled_by_other_half(probabilities, labels)
    scaled_curve, scaled_nll = reliability_curve(scaled.max(1), correct), negative_log_likelihood(scaled, labels)
    helps = scaled_nll < nll and calibration_error(scaled_curve) < calibration_error(curve)
    if not helps:
        scaled_curve, scaled_nll = curve, nll
    return {
        "images": n,
        "classes": classes,
        "accuracy": float(correct.mean()),
        "accuracy_interval": list(wilson_interval(int(correct.sum()), n)),
        "top5": topk_accuracy(probabilities, labels, 5),
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "weighted_f1": weighted_f1(confusion),
        "nll": nll,
        "brier": brier(probabilities, labels),
        "ece": calibration_error(curve),
        "adaptive_ece": calibration_error(reliability_curve(confidence, correct, adaptive=True)),
        "temperature": temperature(_log(probabilities), labels) if helps else 1.0,
        "scaled_nll": scaled_nll,
        "scaled_ece": calibration_error(scaled_curve),
        "reliability": curve,
        "scaled_reliability": scaled_curve,
    }


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "Arrays that fit each other, or a ValueError. Half precision becomes float32, its 0 what may have become 0."
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or not np.issubdtype(probabilities.dtype, np.floating):
        raise ValueError(
            f"probabilities are {probabilities.dtype} of shape {probabilities.shape} · "
            "accepted: floats of shape [images, classes]"
        )
    n, classes = probabilities.shape
    if not n or not classes:
        raise ValueError(
            f"{n} images and {classes} classes · metrics need at least one of each; is the validation set empty?"
        )
    slack = 1e-3
    if probabilities.dtype == np.float16:
        slack, least = 1e-2, np.finfo(np.float16).smallest_subnormal
        probabilities = np.where(probabilities == 0, least, probabilities).astype(np.float32)
    if (
        not (probabilities >= 0).all() or not (abs(probabilities.sum(1) - 1) <= slack).all()
    ):  # `not all` refuses nan too
        raise ValueError(
            "a row is negative, nan or does not sum to 1 · accepted: probabilities; pass logits through softmax first"
        )
    labels = _indices(labels, classes, "labels")
    _same_length(probabilities, labels)
    return probabilities, labels


def _indices(values: np.ndarray, classes: int, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and not np.issubdtype(values.dtype, np.integer)):
        raise ValueError(
            f"{name} are {values.dtype} of shape {values.shape} · accepted: class indices, int of shape [images]"
        )
    if values.size and not 0 <= values.min() <= values.max() < classes:
        raise ValueError(
            f"{name} run from {values.min()} to {values.max()} · accepted: 0 to {classes - 1}, for {classes} classes"
        )
    return values.astype(np.int64)


def _same_length(a: np.ndarray, b: np.ndarray) -> None:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} images · both arrays must describe the same images")


def _not_empty(confusion: np.ndarray) -> np.ndarray:
    if not confusion.sum():
        raise ValueError(
            "the confusion matrix holds no image · metrics need at least one; is the validation set empty?"
        )
    return confusion


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, np.finfo(probabilities.dtype).tiny))
