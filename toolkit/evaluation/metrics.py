"""Metrics of a classifier from its probabilities and labels: accuracy, F1, log-likelihood and Brier score.

Pure functions on numpy arrays. Shapes throughout: probabilities float [n, classes], rows summing to 1; labels and
predictions int [n], 0 <= value < classes; confusion int [classes, classes], label by prediction. No torch, so that
export can use it.
"""

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: how often each label (row) was predicted as each class (column).

    All zeros if there are no images.
    """
    labels, predictions = class_indices(labels, classes, "labels"), class_indices(predictions, classes, "predictions")
    check_same_length(labels, predictions)
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall, f1 (float [classes]) and support (int [classes]) of each class.

    Precision is nan for a class that is never predicted, recall for a class without images, and
    f1 = 2tp / (2tp + fp + fn) for a class with neither: undefined is not 0. (scikit-learn returns 0 for precision and
    recall there.)
    """
    right, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return {
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, support),
        "f1": _ratio(2 * right, support + predicted),
        "support": support,
    }


def macro_f1(confusion: np.ndarray) -> float:
    "Mean f1 of the classes that occur as label or as prediction, as in scikit-learn's f1_score(average='macro')."
    return float(np.nanmean(per_class(_not_empty(confusion))["f1"]))


def weighted_f1(confusion: np.ndarray) -> float:
    "Mean f1 weighted by the number of images of each class."
    figures = per_class(_not_empty(confusion))
    return float(np.nansum(figures["f1"] * figures["support"]) / figures["support"].sum())


def balanced_accuracy(confusion: np.ndarray) -> float:
    "Mean recall of the classes that have images. It is the accuracy if all classes have equally many images."
    return float(np.nanmean(per_class(_not_empty(confusion))["recall"]))


def topk_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int = 5) -> float:
    "Share of images whose label is among the k most probable classes. Ties go to the lower class index, as in argmax."
    probabilities, labels = check_probabilities(probabilities, labels)
    own = probabilities[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    rank = ((probabilities > own) | ((probabilities == own) & earlier)).sum(1)
    return float((rank < k).mean())


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p(label), in nats.

    A probability that was rounded to 0 counts as the smallest number of its dtype, so that the result is finite.
    """
    probabilities, labels = check_probabilities(probabilities, labels)
    own = probabilities[np.arange(len(labels)), labels]
    own = np.maximum(own, np.finfo(own.dtype).smallest_subnormal).astype(np.float64)
    return max(0.0, float(-np.log(own).mean()))  # not -0.0


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    "Mean over images of the squared distance to the one-hot label, summed over classes: 0 (best) to 2. Brier 1950."
    probabilities, labels = check_probabilities(probabilities, labels)
    squares = np.einsum("ij,ij->", probabilities, probabilities, dtype=np.float64)
    return float((squares - 2 * probabilities[np.arange(len(labels)), labels].sum(dtype=np.float64)) / len(labels) + 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    "Probabilities float [n, classes] of logits [n, classes]; float16 logits give float32."
    logits = np.asarray(logits)
    logits = logits.astype(np.result_type(logits, np.float32))
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


# Checks of arguments


def check_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays: probabilities float32 or float64, labels int64.

    float16 becomes float32. A float16 zero becomes the smallest float16 number, because it may have been rounded.
    Raises ValueError if there are no images or classes, if shapes do not fit, if a label is out of range, or if a row
    is not a probability distribution.
    """
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
    tolerance = 1e-3
    if probabilities.dtype == np.float16:
        tolerance, least = 1e-2, np.finfo(np.float16).smallest_subnormal
        probabilities = np.where(probabilities == 0, least, probabilities).astype(np.float32)
    sums_to_1 = (abs(probabilities.sum(1) - 1) <= tolerance).all()  # False if a value is nan
    if not (probabilities >= 0).all() or not sums_to_1:
        raise ValueError(
            "a row is negative, nan or does not sum to 1 · accepted: probabilities; pass logits through softmax first"
        )
    labels = class_indices(labels, classes, "labels")
    check_same_length(probabilities, labels)
    return probabilities, labels


def class_indices(values: np.ndarray, classes: int, name: str) -> np.ndarray:
    "Return `values` as int64 [n]. Raises ValueError if they are not class indices; `name` is what the message says."
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


def check_same_length(a: np.ndarray, b: np.ndarray) -> None:
    "Raises ValueError if the arrays describe different numbers of images."
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
