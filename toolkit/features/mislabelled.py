"""Labels that a linear probe contradicts, which never saw the photo or one nearly the same."""

from functools import partial
from typing import NamedTuple

import numpy as np

from toolkit.features.fit_linear import STEPS_TO_COMPARE, classifier
from toolkit.features.views import out_of_fold as log_probabilities

STRENGTHS = (0.1, 0.01)  # of the L2 penalty: strong ones, so that wrong labels are not learned by heart
ENOUGH = 1.1  # times the lowest log loss
CLEAR = 10  # times as likely as the label another class must be,
CONFIDENT = 5  # or this many times if confident learning counts the photo in another class


class Suspects(NamedTuple):
    "Photos whose label is probably wrong, the least likely label first."

    photo: np.ndarray  # int64 [suspects]: index of the photo
    suggestion: np.ndarray  # int64 [suspects]: the most likely class
    confidence: np.ndarray  # float32 [suspects]: its probability
    label: np.ndarray  # float32 [suspects]: the probability of the photo's own label


def out_of_fold(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return `held_out_probabilities` by the strongest of STRENGTHS whose mean log loss is within ENOUGH of the lowest.

    features, labels, folds and the result are those of `held_out_probabilities`. A weaker penalty doubts more labels.
    If no photo can be held out (all folds are -1), nothing is known of any.
    """
    if (folds < 0).all():
        return np.full((len(labels), int(labels.max()) + 1), np.nan, np.float32)
    found = [held_out_probabilities(features, labels, folds, l2) for l2 in STRENGTHS]
    losses = [-np.nanmean(np.log(each[np.arange(len(labels)), labels] + 1e-9)) for each in found]
    return next(each for each, loss in zip(found, losses, strict=True) if loss <= ENOUGH * min(losses))


def held_out_probabilities(features: np.ndarray, labels: np.ndarray, folds: np.ndarray, l2: float) -> np.ndarray:
    """Return the probability of each class for each photo, by a classifier of the photos of all other folds.

    features: float [photos, features]. labels: int [photos], from 0. folds: int [photos], of
    `toolkit.features.folds.grouped_folds`. The classifier is multinomial logistic regression on features with mean 0
    and deviation 1 of all together, with the penalty l2 / 2 * sum(weight ** 2) beside the mean loss.
    Returns float32 [photos, classes]; NaN for photos of fold -1, which no classifier leaves out.
    """
    fit = partial(classifier, classes=int(labels.max()) + 1, l2=l2, steps=STEPS_TO_COMPARE)
    return np.exp(log_probabilities(fit, features, labels, folds, [features])[0]).astype(np.float32)


def suspected_labels(probabilities: np.ndarray, labels: np.ndarray) -> Suspects:
    """Return the photos whose label is probably wrong.

    probabilities: float [photos, classes], of `out_of_fold`. labels: int [photos]. A label is suspected if another
    class is CLEAR times as likely, or if it is CONFIDENT times as likely and `confident_class` is another class.
    Photos without probabilities are never suspected.
    """
    known = np.flatnonzero(~np.isnan(probabilities).any(1))
    probabilities, labels = probabilities[known], labels[known]
    own = probabilities[np.arange(len(labels)), labels]
    best, confident = probabilities.argmax(1), confident_class(probabilities, labels)
    ratio = probabilities.max(1, initial=0) / np.maximum(own, 1e-12)
    counted = (confident >= 0) & (confident != labels)
    found = np.flatnonzero((best != labels) & ((ratio >= CLEAR) | ((ratio >= CONFIDENT) & counted)))
    found = found[np.argsort(own[found], kind="stable")]
    return Suspects(known[found], best[found], probabilities[found, best[found]], own[found])


def confident_class(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class that confident learning counts each photo in, int64 [photos]; -1 if it counts it in none.

    That is the most likely class of those whose probability reaches the class's threshold, the mean probability of the
    class over the photos that are labelled with it.
    Source: https://arxiv.org/abs/1911.00068, equations 1 and 2
    """
    classes = np.arange(probabilities.shape[1])
    thresholds = [probabilities[labels == each, each].mean() if (labels == each).any() else np.inf for each in classes]
    above = np.where(probabilities >= np.array(thresholds) - 1e-6, probabilities, -1.0)
    return np.where(above.max(1) >= 0, above.argmax(1), -1)
