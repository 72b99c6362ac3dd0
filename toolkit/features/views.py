"""Tests of a data set by the features of changed photos: mirrored ones and enlarged ones."""

from collections.abc import Callable

import numpy as np

ALPHA = 0.05  # level of the one-sided test that mirroring harms
FAMILIAR = 0.75  # share of the accuracy that features of photos like those of pretraining keep on enlarged photos

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
"fit(features, labels) returns a function from features to log-probabilities, float [photos, classes]."


def out_of_fold(
    fit: Fit, features: np.ndarray, labels: np.ndarray, folds: np.ndarray, views: list[np.ndarray]
) -> list[np.ndarray]:
    """Return the log-probabilities of each view's photos, float [photos, classes], by a classifier that saw none.

    features: float [photos, features]. labels, folds: int [photos]; the photos of fold -1 get nan. views: features of
    the same photos, changed in some way.
    """
    found = [np.full((len(labels), labels.max() + 1), np.nan) for _ in views]
    for fold in np.unique(folds[folds >= 0]):
        judged = folds == fold
        log_probabilities = fit(features[~judged], labels[~judged])
        for view, result in zip(views, found, strict=True):
            result[judged] = log_probabilities(view[judged])
    return found


def mirroring_harms(plain: np.ndarray, mirrored: np.ndarray, labels: np.ndarray) -> bool:
    """Return True if the classifier is significantly less sure of the right class if photos are mirrored.

    plain, mirrored: log-probabilities of `out_of_fold`. The mirror image of a letter, a sign or a left hand is another
    thing. The test is Student's for pairs, one-sided, of each photo's cross-entropy, at the level ALPHA.
    """
    from scipy.stats import ttest_1samp

    rows = np.arange(len(labels))
    added = plain[rows, labels] - mirrored[rows, labels]
    added = added[~np.isnan(added)]
    return len(added) > 1 and np.ptp(added) > 0 and bool(ttest_1samp(added, 0, alternative="greater").pvalue < ALPHA)


def is_familiar(plain: np.ndarray, enlarged: np.ndarray, labels: np.ndarray) -> bool:
    """Return True if the classifier is right on nearly as many enlarged photos as on photos as they are.

    plain, enlarged: log-probabilities of `out_of_fold`. Accuracy is the mean recall of the classes, above that of
    chance, so that a large class does not hide the others. A network that was trained on photos of things knows a thing
    at any size. What it knows only at one size it does not know as a thing, and has to learn anew.
    """
    judged = ~np.isnan(plain[:, 0])
    if not judged.any():
        return True
    right, still = (_above_chance(part[judged].argmax(1), labels[judged]) for part in (plain, enlarged))
    return still >= FAMILIAR * right


def _above_chance(predicted: np.ndarray, labels: np.ndarray) -> float:
    "Return the mean recall of the classes less that of guessing."
    classes = np.unique(labels)
    return float(np.mean([(predicted[labels == each] == each).mean() for each in classes])) - 1 / len(classes)
