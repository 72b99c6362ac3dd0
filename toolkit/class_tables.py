"""per_class.csv and confusion.csv: figures and mistakes by class, for programs. Classes in index order."""

import csv
import io
from collections.abc import Iterable

import numpy as np

from toolkit import metrics
from toolkit.mistakes import Predictions


def per_class_csv(predictions: Predictions) -> str:
    "class,precision,recall,f1,support; what is undefined is empty."
    figures = metrics.per_class(predictions.confusion)
    rows = zip(predictions.classes, *figures.values(), strict=True)
    cells = ([name, *("" if np.isnan(v) else float(v) for v in values), support] for name, *values, support in rows)
    return _csv(["class", *figures], cells)


def confusion_csv(predictions: Predictions) -> str:
    "A row for each label, a column for each prediction, and in the cell the number of validation images."
    rows = zip(predictions.classes, predictions.confusion.tolist(), strict=True)
    return _csv(["label", *predictions.classes], ([name, *counts] for name, counts in rows))


def _csv(header: list[str], rows: Iterable[list]) -> str:
    text = io.StringIO()
    rows = [header, *rows]
    # Python 3.11 leaves a lone carriage return unquoted, and then can't read it back
    odd = any("\r" in name for name in [*header, *(row[0] for row in rows)])
    quoting = csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(rows)
    return text.getvalue()
