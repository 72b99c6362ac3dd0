"""The result files of a run, read and checked: history.csv, valid_predictions.csv, lr_finder.csv, model.onnx."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from toolkit.evaluation import metrics
from toolkit.evaluation.best_epoch import history_columns
from toolkit.files import parse_json, read_csv, write_csv
from toolkit.run import Run

PREDICTIONS = "file label prediction confidence".split()  # columns of valid_predictions.csv
FINDER, COLUMNS = "lr_finder.csv", ["lr", "loss", "chosen"]


# Epochs


def read_history(run: Run) -> dict[str, np.ndarray]:
    """Columns of history.csv as float [epochs]; empty before the first epoch has finished.

    Raises ValueError if the file has other columns, or if an epoch or a learning rate is no number.
    """
    path = run.path("history.csv")
    if not path.exists():
        return {}
    header, *rows = read_csv(path, history_columns(chosen_by(run)))
    try:
        columns = [[float(cell or "nan") for cell in column] for column in zip(*rows, strict=True)]
    except ValueError as error:
        raise ValueError(f"{path} has a cell that is no number ({error}): restore it, or start a new run") from error
    history = {name: np.array(column) for name, column in zip(header, columns, strict=False)}
    if history and not np.isfinite([history["epoch"], history["lr"]]).all():
        raise ValueError(f"{path} has an epoch or a learning rate that is no number: restore it, or start a new run")
    return history


def chosen_by(run: Run) -> str:
    "The figure that chooses the best epoch of a run; accuracy in those of versions without --best."
    return run.recipe["options"].get("best", "accuracy")


# Predictions on the validation images


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


def read_predictions(run: Run) -> Predictions | None:
    """valid_predictions.csv, or None if there is no such file.

    Raises ValueError if the file has other columns, a class that recipe.json does not list, or a confidence that is no
    number from 0 to 1.
    """
    path = run.path("valid_predictions.csv")
    return predictions_in(path, run.recipe["classes"]) if path.exists() else None


def predictions_in(path: Path, classes: list[str]) -> Predictions | None:
    "The rows of a file such as valid_predictions.csv, None if there are none. Raises ValueError as `read_predictions`."
    _, *rows = read_csv(path, PREDICTIONS)
    index = {name: i for i, name in enumerate(classes)}
    if unknown := {name for row in rows for name in row[1:3]} - index.keys():
        raise ValueError(
            f"{path} has the class {min(unknown)!r}, which recipe.json does not list: the files are of different runs"
        )
    labels, predictions = (np.array([index[row[column]] for row in rows], int) for column in (1, 2))
    try:
        confidence = np.array([float(row[3]) for row in rows])
        valid = bool(((confidence >= 0) & (confidence <= 1)).all())
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{path} has a confidence that is no number from 0 to 1: restore it, or start a new run")
    return Predictions(classes, [row[0] for row in rows], labels, predictions, confidence) if rows else None


def write_per_class(run: Run, predictions: Predictions) -> None:
    "Write per_class.csv: class,precision,recall,f1,support. Undefined values are empty."
    figures = metrics.per_class(predictions.confusion)
    rows = zip(predictions.classes, *figures.values(), strict=True)
    cells = ([name, *("" if np.isnan(v) else float(v) for v in values), support] for name, *values, support in rows)
    write_csv(run.path("per_class.csv"), ["class", *figures], cells)


def write_confusion(run: Run, predictions: Predictions) -> None:
    "Write confusion.csv: numbers of validation images, with a row for each label and a column for each prediction."
    rows = zip(predictions.classes, predictions.confusion.tolist(), strict=True)
    write_csv(run.path("confusion.csv"), ["label", *predictions.classes], ([name, *counts] for name, counts in rows))


# Learning-rate finder


@dataclass(frozen=True)
class Curve:
    "Learning rates in ascending order, the smoothed training loss at each, and the rate that was chosen."

    lrs: list[float]
    losses: list[float]
    chosen: float


def write_curve(curve: Curve, run: Run) -> None:
    "Write lr_finder.csv: a row for each rate; every row holds the chosen one."
    write_csv(run.path(FINDER), COLUMNS, zip(curve.lrs, curve.losses, [curve.chosen] * len(curve.lrs), strict=True))


def read_curve(run: Run) -> Curve | None:
    "Read lr_finder.csv; None if no rate was searched for. Raises ValueError if the file is damaged."
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


# Exported model


def read_certificate(run: Run) -> dict:
    "The verification in model.onnx's metadata; empty if there is no file or no verification in it."
    if not run.path("model.onnx").exists():
        return {}
    import onnx

    try:
        model = onnx.load(run.path("model.onnx"), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError derives from Exception alone
        return {"model.onnx": f"can't be read: {error}"}
    text = {prop.key: prop.value for prop in model.metadata_props}.get("verification", "{}")
    try:
        certificate = parse_json(text)
    except ValueError as error:
        return {"model.onnx": f"its verification is not JSON: {error}"}
    return certificate if isinstance(certificate, dict) else {"model.onnx": "its verification is no certificate"}
