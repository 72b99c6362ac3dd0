"""All metrics of a model's predictions as one dict: the part of metrics.json that describes the predictions."""

import numpy as np

from toolkit.evaluation.calibration import (
    calibration_error,
    log_probabilities,
    reliability_curve,
    scaled_by_other_half,
    temperature,
)
from toolkit.evaluation.metrics import (
    balanced_accuracy,
    brier,
    check_probabilities,
    confusion_matrix,
    macro_f1,
    negative_log_likelihood,
    topk_accuracy,
    weighted_f1,
)
from toolkit.evaluation.statistics import wilson_interval


def summary(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """Return all metrics as plain JSON numbers. probabilities: float [n, classes]; labels: int [n].

    Keys: images, classes, accuracy, accuracy_interval [low, high] (Wilson, 95 %), top5, balanced_accuracy, macro_f1,
    weighted_f1, nll, brier, ece, adaptive_ece, temperature; after temperature scaling (`scaled_by_other_half`)
    scaled_nll, scaled_ece; reliability and scaled_reliability, as `reliability_curve` returns them. The temperature
    is 1, which changes nothing, unless both scaled_nll and scaled_ece are lower than nll and ece.
    Raises ValueError if there are no images, if shapes do not fit, if a label is out of range, or if a row is not a
    probability distribution.
    """
    probabilities, labels = check_probabilities(probabilities, labels)
    n, classes = probabilities.shape
    predictions, confidence = probabilities.argmax(1), probabilities.max(1)
    correct = predictions == labels
    confusion = confusion_matrix(labels, predictions, classes)
    curve, nll = reliability_curve(confidence, correct), negative_log_likelihood(probabilities, labels)
    fitted, scaled_curve, scaled_nll = _temperature_scaling(probabilities, labels, curve, nll)
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
        "temperature": fitted,
        "scaled_nll": scaled_nll,
        "scaled_ece": calibration_error(scaled_curve),
        "reliability": curve,
        "scaled_reliability": scaled_curve,
    }


def _temperature_scaling(
    probabilities: np.ndarray, labels: np.ndarray, curve: list[dict], nll: float
) -> tuple[float, list[dict], float]:
    """(temperature, reliability curve, negative log-likelihood) after temperature scaling.

    (1.0, curve, nll), the values without it, unless it lowers both the calibration error and the likelihood loss on
    images whose labels it did not see.
    """
    scaled = scaled_by_other_half(probabilities, labels)
    scaled_curve = reliability_curve(scaled.max(1), probabilities.argmax(1) == labels)
    scaled_nll = negative_log_likelihood(scaled, labels)
    if scaled_nll < nll and calibration_error(scaled_curve) < calibration_error(curve):
        return temperature(log_probabilities(probabilities), labels), scaled_curve, scaled_nll
    return 1.0, curve, nll
