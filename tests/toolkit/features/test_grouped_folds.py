"""Folds that keep groups together, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from toolkit.features.folds import grouped_folds


def data(seed, photos=300, classes=7):
    draw = np.random.default_rng(seed)
    groups = draw.integers(0, photos * 2 // 3, photos)
    return draw.integers(0, classes, groups.max() + 1)[groups], groups


def unevenness(folds, labels, k):
    return np.mean(np.std([np.bincount(labels[folds == fold], minlength=labels.max() + 1) for fold in range(k)], 0))


@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_together_and_classes_are_spread_as_evenly_as_by_scikit_learn(seed):
    labels, groups = data(seed)
    folds, theirs = grouped_folds(labels, groups, 5, seed), np.empty(len(labels), int)
    for fold, (_, held_out) in enumerate(StratifiedGroupKFold(5).split(labels, labels, groups)):
        theirs[held_out] = fold
    assert set(folds) == set(range(5))
    assert all(len(set(folds[groups == group])) == 1 for group in groups)
    assert unevenness(folds, labels, 5) <= unevenness(theirs, labels, 5) + 1e-9


def test_the_seed_decides_the_folds():
    labels, groups = data(0)
    assert (grouped_folds(labels, groups, 5, 1) == grouped_folds(labels, groups, 5, 1)).all()
    assert (grouped_folds(labels, groups, 5, 1) != grouped_folds(labels, groups, 5, 2)).any()


def test_a_class_of_one_group_is_never_held_out():
    labels = np.array([0] * 10 + [1] * 10 + [2] * 4)
    groups = np.array([*range(20), 20, 20, 20, 20])
    folds = grouped_folds(labels, groups, 5, 0)
    assert (folds[labels == 2] == -1).all()
    assert set(folds[labels < 2]) == set(range(5))


def test_every_fold_leaves_photos_of_each_class_to_train_on():
    for seed in range(20):
        draw = np.random.default_rng(seed)
        groups = draw.integers(0, 12, 40)
        labels = draw.integers(0, 6, 40)
        folds = grouped_folds(labels, groups, 4, seed)
        for fold in range(4):
            assert set(labels[folds != fold]) == set(labels)


def test_a_number_of_folds_that_groups_do_not_allow_is_refused():
    for k in (1, 4):
        with pytest.raises(ValueError, match=f"{k} folds of 3 groups of photos: it takes 2 or more"):
            grouped_folds(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]), k)
