"""The features of changed photos, mirrored and enlarged, and what they say of a data set."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.features.extract import head_inputs

ALPHA = 0.05  # level of the one-sided test that mirroring harms
FAMILIAR = 0.75  # share of the accuracy that features of photos like those of pretraining keep on enlarged photos
PART = 0.5  # of the width and height of a photo, its centre, is enlarged to the whole

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
"fit(features, labels) returns a function from features to log-probabilities, float [photos, classes]."


def mirrored(images: Tensor) -> Tensor:
    "Return the mirror image of each image; images: [batch, 3, height, width]."
    return images.flip(-1)


def enlarged(images: Tensor) -> Tensor:
    "Return the centre of each square image, PART of its width and height, at the size of the whole."
    side = images.shape[-1]
    edge = round(side * (1 - PART) / 2)
    centre = images[..., edge : side - edge, edge : side - edge]
    return F.interpolate(centre, size=(side, side), mode="bilinear", antialias=True)


def changed_features(
    model: nn.Module,
    batches: Iterable[tuple],
    changes: Sequence[Callable[[Tensor], Tensor]],
    device: torch.device,
    exact: bool,
) -> list[np.ndarray]:
    """Return for each of `changes` the features of the images that it changed, float32 [images, features].

    batches: (images, ...), each read once. For the other parameters see `toolkit.features.extract.head_inputs`.
    """
    changed = (
        (change(images.as_subclass(Tensor)), torch.full((len(images),), number))
        for images, *_ in batches
        for number, change in enumerate(changes)
    )
    features, numbers = head_inputs(model, changed, device, exact)
    features, number = features.cpu().numpy(), torch.cat([each for (each,) in numbers]).numpy()
    return [features[number == each] for each in range(len(changes))]


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
