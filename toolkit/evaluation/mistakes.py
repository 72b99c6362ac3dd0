"""Where a model is wrong: classes side by side with those they are taken for, confused pairs, photos worth a look.

Made from a run's valid_predictions.csv; shapes as in `toolkit.evaluation.metrics`.
"""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from toolkit.evaluation import metrics
from toolkit.evaluation.results import Predictions

PAIRS, EXAMPLES, GALLERY = 12, 3, 24  # confused pairs, photos on each side of one, photos in a gallery
THUMBNAIL = 160  # pixels of the longer side


# Classes


def similarity_order(confusion: np.ndarray) -> list[int]:
    "Class indices with classes that are taken for each other side by side, by average-linkage clustering."
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(confusion) < 3:
        return list(range(len(confusion)))
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    distance = 1 - (share + share.T) / 2
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average")).tolist()


def confusion_cells(predictions: Predictions) -> dict:
    """The matrix to draw: names and support in similarity order, (row, column, count, share of the row) of its cells.

    Cells of 0 are left out. cell and margin are pixels, from which the page's script starts to fit the window.
    """
    order = similarity_order(predictions.confusion)
    matrix = predictions.confusion[np.ix_(order, order)]
    support = matrix.sum(1)
    places = zip(*(axis.tolist() for axis in np.nonzero(matrix)), strict=True)
    return {
        "names": [predictions.classes[i] for i in order],
        "support": support.tolist(),
        "cells": [
            (row, column, int(matrix[row, column]), matrix[row, column] / support[row]) for row, column in places
        ],
        "cell": min(34, max(10, 720 // len(order))),
        "margin": 7 * min(24, max(map(len, predictions.classes))) + 8,
    }


def class_rows(predictions: Predictions, counts: dict[str, int]) -> list[dict]:
    "A row of the per-class table for each class, the hardest first, with the class it is most often taken for."
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


def top(chosen: np.ndarray, score: np.ndarray, limit: int) -> list[int]:
    "Indices where `chosen` holds, of the largest score first."
    indices = np.flatnonzero(chosen)
    return indices[np.argsort(-score[indices], kind="stable")][:limit].tolist()


def examples(predictions: Predictions, root: Path) -> dict:
    "Photos to look at: both sides of the most confused pairs, the most confident mistakes, the least certain images."
    pairs = [_pair(predictions, *pair) for pair in confused_pairs(predictions.mistakes, PAIRS)]
    mistakes = top(predictions.wrong, predictions.confidence, GALLERY)
    uncertain = top(np.ones_like(predictions.wrong), -predictions.confidence, GALLERY)
    shown = {*mistakes, *uncertain, *(i for pair in pairs for i in pair["taken"] + pair["right"])}
    small = thumbnails(root, {predictions.files[i] for i in shown})

    def photos(indices: list[int]) -> list[dict]:
        return [_photo(predictions, i, small) for i in indices]

    return {
        "found": len(small),
        "wrong": int(predictions.wrong.sum()),
        "pairs": [{**pair, "taken": photos(pair["taken"]), "right": photos(pair["right"])} for pair in pairs],
        "mistakes": photos(mistakes),
        "uncertain": photos(uncertain),
    }


def _pair(predictions: Predictions, label: int, prediction: int) -> dict:
    "A confused pair, with indices of photos: of `label` taken for `prediction`, and of `prediction` recognised."
    taken = (predictions.labels == label) & (predictions.predictions == prediction)
    right = (predictions.labels == prediction) & ~predictions.wrong
    return {
        "label": predictions.classes[label],
        "prediction": predictions.classes[prediction],
        "count": int(predictions.confusion[label, prediction]),
        "support": int(predictions.confusion[label].sum()),
        "back": int(predictions.confusion[prediction, label]),
        "taken": top(taken, predictions.confidence, EXAMPLES),
        "right": top(right, predictions.confidence, EXAMPLES),
    }


def _photo(predictions: Predictions, i: int, small: dict[str, str]) -> dict:
    return {
        "file": predictions.files[i],
        "src": small.get(predictions.files[i]),
        "label": predictions.classes[predictions.labels[i]],
        "prediction": predictions.classes[predictions.predictions[i]],
        "confidence": float(predictions.confidence[i]),
        "right": not predictions.wrong[i],
    }


def thumbnails(root: Path, files: set[str]) -> dict[str, str]:
    "file -> data URI of a small JPEG, for those of `files` below `root` that can be read."
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda file: (file, _thumbnail(root / file)), sorted(files))
        return {file: uri for file, uri in made if uri}


def _thumbnail(path: Path) -> str | None:
    from PIL import Image

    from toolkit.data.photo import read_photo

    try:
        image = Image.fromarray(read_photo(path))
    except (OSError, ValueError):
        return None  # moved or broken since: the page shows the name in its place
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
