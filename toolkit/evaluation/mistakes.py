"""A model's mistakes: confused classes side by side, the most confused pairs, and the photos to look at.

Made from a run's valid_predictions.csv; shapes as in `toolkit.evaluation.metrics`.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from toolkit.data.preprocess import square
from toolkit.evaluation import metrics
from toolkit.evaluation.heatmaps import Heatmaps
from toolkit.evaluation.results import Predictions

PAIRS, EXAMPLES, GALLERY = 12, 3, 24  # confused pairs, photos on each side of a pair, photos in a gallery
THUMBNAIL = 160  # pixels of the longer side


# Classes


def similarity_order(confusion: np.ndarray) -> list[int]:
    "Class indices in an order that puts confused classes side by side, by average-linkage clustering."
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(confusion) < 3:
        return list(range(len(confusion)))
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    distance = 1 - (share + share.T) / 2
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average")).tolist()


def confusion_cells(predictions: Predictions) -> dict:
    """The confusion matrix to draw: names and support in similarity order, and its cells above 0.

    cells: (row, column, count, share of the row). cell and margin: pixels at first; the page's script then fits them to
    the window.
    """
    order = similarity_order(predictions.confusion)
    matrix = predictions.confusion[np.ix_(order, order)]
    support = matrix.sum(1)
    nonzero = zip(*(axis.tolist() for axis in np.nonzero(matrix)), strict=True)
    return {
        "names": [predictions.classes[i] for i in order],
        "support": support.tolist(),
        "cells": [
            (row, column, int(matrix[row, column]), matrix[row, column] / support[row]) for row, column in nonzero
        ],
        "cell": min(34, max(10, 720 // len(order))),
        "margin": 7 * min(24, max(map(len, predictions.classes))) + 8,
    }


def class_rows(predictions: Predictions, counts: dict[str, int]) -> list[dict]:
    """A row of the per-class table for each class, the lowest F1 first.

    counts: training images of each class. taken_for: the most frequent wrong prediction, `times` times.
    """
    figures, mistakes = metrics.per_class(predictions.confusion), predictions.mistakes
    rows = [
        {
            "name": name,
            "train": counts.get(name),
            "support": int(figures["support"][i]),
            **{key: float(figures[key][i]) for key in ("precision", "recall", "f1")},
            "taken_for": predictions.classes[mistakes[i].argmax()] if mistakes[i].any() else None,
            "times": int(mistakes[i].max()),
        }
        for i, name in enumerate(predictions.classes)
    ]
    return sorted(rows, key=lambda row: np.nan_to_num(row["f1"], nan=2))


def confused_pairs(mistakes: np.ndarray, limit: int) -> list[tuple[int, int]]:
    "(label, prediction) of the most frequent mistakes, the most frequent first."
    order = np.argsort(-mistakes, axis=None, kind="stable")[:limit]
    return [divmod(int(i), len(mistakes)) for i in order if mistakes.flat[i]]


# Photos


def most_confident_mistakes(predictions: Predictions) -> list[int]:
    "Indices of the GALLERY wrong predictions with the highest confidence, the highest first."
    return _highest(predictions.wrong, predictions.confidence, GALLERY)


def least_certain(predictions: Predictions) -> list[int]:
    "Indices of the GALLERY images with the lowest confidence, right or wrong, the lowest first."
    return _highest(np.ones_like(predictions.wrong), -predictions.confidence, GALLERY)


def _highest(mask: np.ndarray, score: np.ndarray, limit: int) -> list[int]:
    indices = np.flatnonzero(mask)
    return indices[np.argsort(-score[indices], kind="stable")][:limit].tolist()


def on_page(predictions: Predictions) -> list[int]:
    "Indices of all photos that `examples` has, each once."
    pairs = [_pair(predictions, *pair) for pair in confused_pairs(predictions.mistakes, PAIRS)]
    galleries = most_confident_mistakes(predictions) + least_certain(predictions)
    return sorted({*galleries, *(i for pair in pairs for i in pair["taken"] + pair["right"])})


def examples(
    predictions: Predictions, root: Path, heatmaps: Heatmaps | None = None, preprocess: dict | None = None
) -> dict:
    """Photos to look at: examples of the most confused pairs, the most confident mistakes, the least certain images.

    Each photo is a dict: file, pixels (see `thumbnails`; None if unreadable), heat (the cells of its heatmap for the
    prediction; None if there is none), label, prediction, confidence, right.
    """
    files, heatmaps = {predictions.files[i] for i in on_page(predictions)}, heatmaps or Heatmaps()
    small = thumbnails(root, files, preprocess)

    def photos(indices: list[int]) -> list[dict]:
        return [_photo(predictions, i, small, heatmaps) for i in indices]

    pairs = [_pair(predictions, *pair) for pair in confused_pairs(predictions.mistakes, PAIRS)]
    return {
        "found": len(small),
        "wrong": int(predictions.wrong.sum()),
        "pairs": [{**pair, "taken": photos(pair["taken"]), "right": photos(pair["right"])} for pair in pairs],
        "mistakes": photos(most_confident_mistakes(predictions)),
        "uncertain": photos(least_certain(predictions)),
    }


def _pair(predictions: Predictions, label: int, prediction: int) -> dict:
    "A confused pair. taken: photos of `label` predicted as `prediction`; right: photos of `prediction` that are right."
    taken = (predictions.labels == label) & (predictions.predictions == prediction)
    right = (predictions.labels == prediction) & ~predictions.wrong
    return {
        "label": predictions.classes[label],
        "prediction": predictions.classes[prediction],
        "count": int(predictions.confusion[label, prediction]),
        "support": int(predictions.confusion[label].sum()),
        "back": int(predictions.confusion[prediction, label]),
        "taken": _highest(taken, predictions.confidence, EXAMPLES),
        "right": _highest(right, predictions.confidence, EXAMPLES),
    }


def _photo(predictions: Predictions, i: int, small: dict[str, np.ndarray], heatmaps: Heatmaps) -> dict:
    file, prediction = predictions.files[i], predictions.classes[predictions.predictions[i]]
    return {
        "file": file,
        "pixels": small.get(file),
        "heat": heatmaps.of(file, prediction),
        "label": predictions.classes[predictions.labels[i]],
        "prediction": prediction,
        "confidence": float(predictions.confidence[i]),
        "right": not predictions.wrong[i],
    }


def thumbnails(root: Path, files: set[str], preprocess: dict | None = None) -> dict[str, np.ndarray]:
    """file -> uint8 RGB [height, width, 3], at most THUMBNAIL high and wide, for each of `files` that can be read.

    preprocess: of a run. If it fits photos whole, the thumbnails are the squares that its network sees.
    """
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda file: (file, _thumbnail(root / file, preprocess or {})), sorted(files))
        return {file: pixels for file, pixels in made if pixels is not None}


def _thumbnail(path: Path, preprocess: dict) -> np.ndarray | None:
    from PIL import Image

    from toolkit.data.photo import read_photo

    try:
        photo = read_photo(path)
    except (OSError, ValueError):
        return None  # it has moved or is broken now: the page shows its name instead
    if "fit" in preprocess:
        return square(photo, photo.shape[:2], preprocess, THUMBNAIL)
    image = Image.fromarray(photo)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.array(image)  # writable, unlike asarray: torch warns otherwise
