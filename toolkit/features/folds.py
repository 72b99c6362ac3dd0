"""Folds of photos that keep near-duplicates together."""

import numpy as np


def grouped_folds(labels: np.ndarray, groups: np.ndarray, k: int = 5, seed: int = 0) -> np.ndarray:
    """Return the fold of each photo, int64 [photos]: 0 to k - 1, or -1 if it is held out in none.

    labels, groups: int [photos]. The photos of a group are in one fold, and classes are spread evenly over the folds:
    the largest groups first, in an order drawn by `seed`, each into the fold that has fewest photos of its classes,
    then fewest photos. A class with fewer groups than folds is missing from some. Were all photos of a class in one
    fold, as those of one group must be, none would be left to train on: their groups are then held out in no fold, and
    `folds != fold` always has them. There are fewer than k folds then if one loses all of its photos.
    scikit-learn's StratifiedGroupKFold spreads them as evenly, and takes a thousandth of a second for each group.
    Raises ValueError for fewer than two folds, or more than there are groups.
    """
    _, labels = np.unique(np.asarray(labels), return_inverse=True)
    _, groups = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(groups)
    if not 2 <= k <= len(sizes):
        raise ValueError(f"{k} folds of {len(sizes)} groups of photos: it takes 2 or more, and as many groups")
    folds = _spread(labels, groups, k, np.lexsort((np.random.default_rng(seed).permutation(len(sizes)), -sizes)))
    in_one = [name for name in np.unique(labels) if len(np.unique(folds[labels == name])) == 1]
    folds = np.where(np.isin(groups, groups[np.isin(labels, in_one)]), -1, folds)
    _, numbers = np.unique(np.append(folds, -1), return_inverse=True)
    return (numbers[:-1] - 1).astype(np.int64)  # without numbers that no photo has left


def _spread(labels: np.ndarray, groups: np.ndarray, k: int, order: np.ndarray) -> np.ndarray:
    "Return the fold of each photo, int64 [photos]: groups in `order`, each into the emptiest fold for its classes."
    held, total = np.zeros((k, labels.max() + 1), np.int64), np.zeros(k, np.int64)
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    folds = np.empty(len(labels), np.int64)
    for group in order:
        own = labels[members[group]]
        fold = np.lexsort((total, held[:, own].sum(1)))[0]
        np.add.at(held[fold], own, 1)
        total[fold] += len(own)
        folds[members[group]] = fold
    return folds
