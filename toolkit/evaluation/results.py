"""The result files of a run, read and checked: history.csv, valid_predictions.csv, lr_finder.csv."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from toolkit.evaluation import metrics
from toolkit.files import csv_text, read_csv, write_csv
from toolkit.run import Run

HISTORY = "epoch train_loss valid_loss accuracy lr seconds".split()  # columns of history.csv


PREDICTIONS = "file label prediction confidence".split()  # of valid_predictions.csv


@dataclass(frozen=True)
class Predictions:
    "valid_predictions.csv: labels and predictions int [n] are class indices, confidence float [n]."

    classes: list[str]
    files: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray

    @cached_property
    def wrong(self) -> np.ndarray:
        "bool [n]"
        return self.labels != self.predictions

    @cached_property
    def confusion(self) -> np.ndarray:
        "int [classes, classes], label by prediction"
        return metrics.confusion_matrix(self.labels, self.predictions, len(self.classes))

    @cached_property
    def mistakes(self) -> np.ndarray:
        "The confusion matrix without its diagonal."
        return self.confusion - np.diag(np.diag(self.confusion))


def read_history(run: Run) -> dict[str, np.ndarray]:
    """Columns of history.csv as float [epochs]; empty before the first epoch has finished.

    Raises ValueError for a file with other columns, or with an epoch or learning rate that is no number.
    """
    path = run.path("history.csv")
    if not path.exists():
        return {}
    header, *rows = read_csv(path, HISTORY)
    try:
        columns = [[float(cell or "nan") for cell in column] for column in zip(*rows, strict=True)]
    except ValueError as error:
        raise ValueError(f"{path} holds what is no number ({error}): restore it, or start a new run") from error
    history = {name: np.array(column) for name, column in zip(header, columns, strict=False)}
    if history and not np.isfinite([history["epoch"], history["lr"]]).all():
        raise ValueError(f"{path} has an epoch or a learning rate that is no number: restore it, or start a new run")
    return history


def best_epoch(figures: dict, history: dict[str, np.ndarray]) -> int | None:
    "As metrics.json has it, or the most accurate one so far; of equals that with the lowest validation loss."
    if "best_epoch" in figures:
        return figures["best_epoch"]
    if history and np.isfinite(history["accuracy"]).any():
        return int(history["epoch"][np.lexsort((history["valid_loss"], -history["accuracy"]))[0]])  # NaN comes last
    return None


FINDER, COLUMNS = "lr_finder.csv", ["lr", "loss", "chosen"]


@dataclass(frozen=True)
class Curve:
    "Rates from the smallest, the smoothed training loss at each, and the rate that was chosen."

    lrs: list[float]
    losses: list[float]
    chosen: float


def write_curve(curve: Curve, run: Run) -> None:
    "lr_finder.csv: a row for each rate; the chosen one stands in every row."
    write_csv(run.path(FINDER), COLUMNS, zip(curve.lrs, curve.losses, [curve.chosen] * len(curve.lrs), strict=True))


def read_curve(run: Run) -> Curve | None:
    "What `write_curve` wrote; None where no rate was searched for. Raises ValueError for a file that is not that."
    path = run.path(FINDER)
    if not path.exists():
        return None
    _, *rows = read_csv(path, COLUMNS)
    try:
        lrs, losses, chosen = np.array(rows, dtype=float).T
    except ValueError:
        lrs = losses = chosen = np.array([np.nan])
    if not (np.isfinite([lrs, losses, chosen]).all() and min(lrs.min(), chosen.min()) > 0):
        raise ValueError(f"{path} holds no rates above 0 with their losses: restore it, or remove it")
    return Curve(lrs.tolist(), losses.tolist(), float(chosen[0]))


def per_class_csv(predictions: Predictions) -> str:
    "class,precision,recall,f1,support; what is undefined is empty."
    figures = metrics.per_class(predictions.confusion)
    rows = zip(predictions.classes, *figures.values(), strict=True)
    cells = ([name, *("" if np.isnan(v) else float(v) for v in values), support] for name, *values, support in rows)
    return csv_text(["class", *figures], cells)


def confusion_csv(predictions: Predictions) -> str:
    "A row for each label, a column for each prediction, and in the cell the number of validation images."
    rows = zip(predictions.classes, predictions.confusion.tolist(), strict=True)
    return csv_text(["label", *predictions.classes], ([name, *counts] for name, counts in rows))


def read_predictions(run: Run) -> Predictions | None:
    """valid_predictions.csv, or None where there is none.

    Raises ValueError for a file with other columns, a class that recipe.json does not name, a confidence that is none.
    """
    path, classes = run.path("valid_predictions.csv"), run.recipe["classes"]
    if not path.exists():
        return None
    _, *rows = read_csv(path, PREDICTIONS)
    index = {name: i for i, name in enumerate(classes)}
    if unknown := {name for row in rows for name in row[1:3]} - index.keys():
        raise ValueError(
            f"{path} has the class {min(unknown)!r}, which recipe.json does not list: the files are of different runs"
        )
    labels, predictions = (np.array([index[row[column]] for row in rows], int) for column in (1, 2))
    try:
        confidence = np.array([float(row[3]) for row in rows])
        sound = bool(((confidence >= 0) & (confidence <= 1)).all())
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"{path} has a confidence that is no number from 0 to 1: restore it, or start a new run")
    return Predictions(classes, [row[0] for row in rows], labels, predictions, confidence) if rows else None
