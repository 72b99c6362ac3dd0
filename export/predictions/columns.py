"""The columns of a table of predictions, and the part of an answer that is kept for them.

(neither)         image_name, pred_label
--probabilities   image_name, pred_label, confidence, and one named after each class
--top 2           image_name, pred_label, label_1, confidence_1, label_2, confidence_2
--sample FILE     that file's columns: the first for the id, then either one for the label or some named after classes
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Columns(NamedTuple):
    "The columns of a table and the source of each cell."

    header: list[str]
    cells: list[tuple[str, int]]
    'For each column after the first: ("label", i) or ("figure", i), the i-th that `keep` returns.'
    keep: Callable[[str, np.ndarray], tuple[list[str], list[float]]]
    "Returns the labels and figures to keep of an answer, a class name and probabilities [classes]."


def columns_for(classes: list[str], probabilities: bool, top: int, sample: Sequence[str] = ()) -> Columns:
    "The columns that the options ask for; `sample` is a sample's header. Raises ValueError for more than one of them."
    if (top != 0) + probabilities + bool(sample) > 1:
        raise ValueError("--top, --probabilities and --sample each say which columns there are: give one of them")
    if sample:
        return of_sample(list(sample), classes)
    if probabilities:
        return with_probabilities(classes)
    return with_top(classes, top) if top else labels_alone()


def labels_alone() -> Columns:
    "image_name and pred_label. The confidence is kept for `export.predictions.unsure.least_certain`."
    return Columns(["image_name", "pred_label"], [("label", 0)], lambda label, row: ([label], [row.max()]))


def with_probabilities(classes: list[str]) -> Columns:
    "The label, its confidence and the probability of each class."
    header = ["image_name", "pred_label", "confidence", *classes]
    cells = [("label", 0), *(("figure", index) for index in range(1 + len(classes)))]
    return Columns(header, cells, lambda label, row: ([label], [row.max(), *row]))


def with_top(classes: list[str], top: int) -> Columns:
    "The label and the `top` most likely classes. Raises ValueError if there are fewer classes."
    if not 1 <= top <= len(classes):
        raise ValueError(f"--top {top}: the model has {len(classes)} classes; give 1 to {len(classes)}")

    def keep(label, row):
        order = np.argsort(-row, kind="stable")[:top]
        return [label, *(classes[index] for index in order)], row[order]

    ranks = range(1, top + 1)
    header = ["image_name", "pred_label", *(name for rank in ranks for name in (f"label_{rank}", f"confidence_{rank}"))]
    return Columns(
        header, [("label", 0), *(cell for rank in ranks for cell in (("label", rank), ("figure", rank - 1)))], keep
    )


def of_sample(header: list[str], classes: list[str]) -> Columns:
    "A sample's columns. Raises ValueError if they are neither one for the label nor named after classes."
    named, unknown = header[1:], [name for name in header[1:] if name not in classes]
    if len(named) == 1 and unknown:
        return labels_alone()._replace(header=header)
    if unknown or not named:
        raise ValueError(
            f"--sample has the columns {', '.join(header[:6])}: expected an id and then one for the label, or some "
            f"named after the model's classes ({', '.join(classes[:6])}{', ...' if len(classes) > 6 else ''})"
        )
    kept = [classes.index(name) for name in named]
    return Columns(header, [("figure", index) for index in range(len(named))], lambda label, row: ([label], row[kept]))


def check_distinct(columns: Columns, kind: str) -> None:
    "Raises ValueError if two columns have the same name, which only CSV can hold."
    twice = [name for name in columns.header if columns.header.count(name) > 1]
    if twice and kind != "csv":
        raise ValueError(f"--format {kind}: two columns would be called {twice[0]!r}; csv can hold them")
