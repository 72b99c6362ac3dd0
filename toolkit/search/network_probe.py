"""A network judged by a linear probe of its features on held-out training photos."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.features.duplicates import groups, near_duplicates
from toolkit.features.fit_linear import fit_linear
from toolkit.features.folds import grouped_folds
from toolkit.finetuning import linear_probe
from toolkit.finetuning.linear_probe import STRENGTHS, Known
from toolkit.learner.learner import Learner

FOLDS = 5
MOST = 4000  # training photos at most that a search looks at


def features_of(learn: Learner) -> Known:
    "Return the training photos' features and labels, and their thumbnails uint8 [photos, SIDE, SIDE]."
    small: list[np.ndarray] = []
    features, labels = linear_probe.features_of(learn, small)
    return features, labels, np.concatenate(small)


def drawn(photos: int, seed: int) -> np.ndarray:
    "Return the indices of the photos that a search looks at, int64, in order: all, or MOST drawn by the seed."
    return np.sort(np.random.default_rng(seed).permutation(photos)[:MOST])


def rows_of(known: Known, rows: np.ndarray) -> Known:
    "Return what is known of the photos with these indices."
    features, labels, thumbnails = known
    part = torch.from_numpy(rows).to(features.device)
    return features[part], labels[part], thumbnails[rows]


def folds_of(features: Tensor, labels: Tensor, thumbnails: np.ndarray) -> np.ndarray:
    """Return the fold of each photo, int64 [photos], near-duplicates together; see `grouped_folds`.

    Raises ValueError if there are too few photos.
    """
    pairs = near_duplicates(features.cpu().numpy(), thumbnails)
    together, classes = groups(pairs, len(labels)), labels.cpu().numpy()
    most = min(len(np.unique(together)), int(np.bincount(classes).max()))
    if most < 2:
        raise ValueError(f"--arch auto: {len(labels)} training photos are too few to hold some out; give a name")
    folds = grouped_folds(classes, together, min(FOLDS, most))
    if folds.max() < 1:
        raise ValueError("--arch auto: too few training photos that differ can be held out; give a name")
    return folds


def judged(features: Tensor, labels: Tensor, folds: np.ndarray) -> tuple[float, float]:
    """Return the accuracy of linear probes on each fold's photos, fitted to the other ones, and its standard error.

    The L2 penalty is the strongest whose accuracy on the first fold is within a standard error of the best one's.
    Photos in no fold (-1) are always fitted to.
    """
    fold = torch.from_numpy(folds).to(labels.device)
    features = (features - features.mean(0)) / features.std().clamp_min(1e-12)
    classes = int(labels.max()) + 1
    start, tried = (features.new_zeros(classes, features.shape[1]), features.new_zeros(classes)), []
    for l2 in STRENGTHS:
        right, start = _held_out(features, labels, fold == 0, l2, start)
        tried.append((l2, right, start))
    best = max(float(right.mean()) for _, right, _ in tried)
    enough = best - standard_error(best, len(tried[0][1]))
    l2, right, start = next(each for each in tried if float(each[1].mean()) >= enough)
    others = [_held_out(features, labels, fold == each, l2, start)[0] for each in range(1, int(fold.max()) + 1)]
    right = torch.cat([right, *others])
    return float(right.mean()), standard_error(float(right.mean()), len(right))


def _held_out(
    features: Tensor, labels: Tensor, held: Tensor, l2: float, start: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    "Return 1 or 0 for each held-out photo, if it is classified right or wrong, float [held out], and the classifier."
    weight, bias, _ = fit_linear(features[~held], labels[~held], F.cross_entropy, l2, start)
    predicted = (features[held] @ weight.T + bias).argmax(1)
    return (predicted == labels[held]).float(), (weight, bias)


def standard_error(share: float, count: int) -> float:
    "The standard error of a share of `count` photos."
    return math.sqrt(share * (1 - share) / count)
