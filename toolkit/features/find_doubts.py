"""Find all that features show to be doubtful in a data set."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from toolkit.features.doubts import KINDS, Doubt
from toolkit.features.duplicates import Pairs, groups, near_duplicates
from toolkit.features.folds import grouped_folds
from toolkit.features.mislabelled import Suspects, out_of_fold, suspected_labels
from toolkit.features.outliers import odd_ones

FOLDS = 5
SPLITS = ("train", "valid", "test")


class Labelled(NamedTuple):
    file: str  # relative to the data set's root
    split: str  # one of SPLITS
    label: str | None  # None in test


def find_doubts(photos: Sequence[Labelled], features: np.ndarray, thumbnails: np.ndarray, seed: int = 0) -> list[Doubt]:
    """Return the doubts about `photos`, in the order of KINDS, the strongest of a kind first.

    features: float [photos, features]; thumbnails: uint8, see `near_duplicates`. seed: of the folds.
    A pair of near-duplicates is one row, of the photo that is less needed elsewhere: of a training photo before one of
    validation, and of the later one in a split. Two classes give a row for each of the two photos.
    """
    pairs = near_duplicates(features, thumbnails)
    labelled = np.flatnonzero([photo.label is not None for photo in photos])
    suspects, classes = suspects_of([photos[i].label for i in labelled], features[labelled], pairs, labelled, seed)
    found = [doubt for one, other, same in zip(*pairs, strict=True) for doubt in _pair(photos, one, other, same)]
    for photo, suggestion, confidence, _ in zip(*suspects, strict=True):
        found.append(_doubt(photos[labelled[photo]], "label", str(classes[suggestion]), confidence))
    for photo, score in zip(*odd_ones(features), strict=True):
        if photos[photo].label is not None:
            found.append(_doubt(photos[photo], "odd", "", score))
    return sorted(found, key=lambda doubt: list(KINDS).index(doubt.finding))


def suspects_of(
    labels: Sequence[str], features: np.ndarray, pairs: Pairs, among: np.ndarray, seed: int
) -> tuple[Suspects, np.ndarray]:
    """Return the suspected labels of labelled photos, and the names of the classes.

    pairs: near-duplicates of all photos; among: int64 [labels], the index of each labelled photo among all. Photos of
    one group are held out together.
    """
    classes, numbers = np.unique(np.asarray(labels, object), return_inverse=True)
    group = groups(pairs, int(max(among.max(initial=-1), pairs.second.max(initial=-1))) + 1)[among]
    folds = min(FOLDS, len(np.unique(group)))
    if folds < 2 or len(classes) < 2:
        nothing = np.empty(0, np.int64)
        return Suspects(nothing, nothing, nothing, nothing), classes
    probabilities = out_of_fold(features, numbers, grouped_folds(numbers, group, folds, seed))
    return suspected_labels(probabilities, numbers), classes


def _pair(photos: Sequence[Labelled], one: int, other: int, similarity: float) -> list[Doubt]:
    "The rows of a pair of near-duplicates. Of two photos to predict there are none."
    first, second = sorted((photos[one], photos[other]), key=lambda photo: SPLITS.index(photo.split))
    if first.label is None:
        return []
    if second.label not in (None, first.label):
        both = ((first, second), (second, first))
        return [_doubt(each, "conflict", twin.label, similarity, twin.file) for each, twin in both]
    if first.split != second.split:
        return [_doubt(first, "leak", "", similarity, second.file)]
    return [_doubt(second, "duplicate", "", similarity, first.file)]


def _doubt(photo: Labelled, finding: str, suggestion: str, score: float, other: str = "") -> Doubt:
    return Doubt(photo.file, photo.split, photo.label, finding, suggestion, f"{score:.3f}", other)
