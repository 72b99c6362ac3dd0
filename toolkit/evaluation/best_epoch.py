"""The epoch whose weights a run keeps: the best one by the validation figure of --best.

Figures, of the validation photos: accuracy; balanced_accuracy (mean recall of the classes); macro_f1 (mean F1 of the
classes); loss, the lower the better.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from toolkit.evaluation import metrics

HISTORY = "epoch train_loss valid_loss accuracy lr seconds".split()  # columns of history.csv
FROM_CONFUSION = {"balanced_accuracy": metrics.balanced_accuracy, "macro_f1": metrics.macro_f1}
"Figures of a confusion matrix [classes, classes] that history.csv has only if they choose the best epoch."


def history_columns(best: str) -> list[str]:
    "The columns of history.csv of a run with this --best."
    return [*HISTORY, *([best] if best in FROM_CONFUSION else [])]


def best_row(rows: Iterable[Sequence[float]], best: str) -> dict[str, float]:
    """The best one of the rows of history.csv, by column. Raises ValueError if there is none.

    Ties go to the higher accuracy, then to the lower loss, then to the earlier epoch. A figure that is no number is the
    worst.
    """
    by_column = [dict(zip(history_columns(best), row, strict=True)) for row in rows]
    return max(by_column, key=lambda row: _rank(row, best))


def _rank(row: dict[str, float], best: str) -> list[float]:
    first = -row["valid_loss"] if best == "loss" else row[best]
    return [-math.inf if math.isnan(each) else each for each in (first, row["accuracy"], -row["valid_loss"])]


def best_epoch(figures: dict, history: dict[str, np.ndarray], best: str) -> int | None:
    """The best epoch in metrics.json (`figures`), else the best one so far; None before the first.

    history: columns of history.csv, float [epochs]. None too if no epoch's figure is a number.
    """
    if "best_epoch" in figures or not history:
        return figures.get("best_epoch")
    row = best_row(zip(*history.values(), strict=True), best)
    return int(row["epoch"]) if _rank(row, best)[0] > -math.inf else None


def out_of_patience(epochs: int, best_epoch: int, patience: int | None) -> bool:
    "True if the last `patience` of `epochs` epochs were not better than an earlier one."
    return patience is not None and epochs - best_epoch >= patience
