"""Unsure answers: those whose confidence is below the threshold with which a model keeps its promised precision."""

import heapq
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from export.predictions.inputs import Named
from export.predictions.journal import Row, unpacked
from export.runtime.metadata import Card

UNSURE = "unsure"
"The label of an unsure answer in the table, unless --fallback names another."

NO_ANSWER = ""
"Its first label in a journal's row. No class has this name."


def threshold_of(card: Card, answer_all: bool, fallback: str) -> float | None:
    """The confidence below which answers are unsure; None if there is none.

    Raises ValueError if a class has the name that unsure answers would have.
    """
    threshold = None if answer_all else card.threshold
    if threshold is not None and not fallback and UNSURE in card.classes:
        raise ValueError(f"the model has a class {UNSURE!r}: give unsure photos a --fallback, or --answer_all")
    return threshold


def unsure_below(threshold: float | None, keep: Callable) -> Callable:
    "The function `keep` of `Columns`, with NO_ANSWER for the label of an answer that is less certain."

    def keep_sure(label: str, row: np.ndarray) -> tuple[list[str], list[float]]:
        return keep(label if threshold is None or row.max() >= threshold else NO_ANSWER, row)

    return keep_sure


def is_unsure(labels: list[str]) -> bool:
    "True if these are the labels of an unsure answer, as a journal's row has them."
    return labels[:1] == [NO_ANSWER]


def unsure_line(card: Card, unsure: int, read: int) -> str:
    "A line on the unsure ones of `read` photos."
    return (
        f"unsure: {unsure} of {read}, with a confidence below {card.threshold:.4g}; of the others "
        f"{card.promise['promise']} were promised to be right"
    )


def least_certain(rows: Iterable[Row], photos: Named, count: int) -> list[tuple[Path, str, float]]:
    """The `count` photos with the lowest confidence, the lowest first, each with its label and its confidence.

    rows: of a table without columns for probabilities. Photos that can't be read are left out.
    """
    found = (
        (float(unpacked(row.figures)[0]), number, UNSURE if is_unsure(row.labels) else row.labels[0])
        for number, row in enumerate(rows)
        if row.reason is None
    )
    return [(photos[number][1], label, confidence) for confidence, number, label in heapq.nsmallest(count, found)]
