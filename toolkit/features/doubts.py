"""Doubts about photos, as a table that a person can edit: near-duplicates, suspected labels, odd ones out."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from toolkit.files import read_csv, write_csv

FILE = "data_doubts.csv"  # in a run folder: of the training photos
KINDS = {
    "leak": "nearly the same photo is in another split",
    "conflict": "nearly the same photo is under another class",
    "label": "the label is probably wrong",
    "duplicate": "nearly the same photo is in the same split and class",
    "odd": "the photo is unlike all others",
}
"The kind of each doubt and its meaning, the most urgent first."


class Doubt(NamedTuple):
    "A row of the table. The names are its columns."

    file: str  # relative to the data set's root
    split: str  # train or valid; of a photo to predict nothing is doubted
    label: str
    finding: str  # a key of KINDS
    suggestion: str  # the class that a suspected photo looks like, or the one its near-duplicate has; else empty
    score: str  # similarity, probability of the suggestion, or deviations from the median distance
    other: str  # the file of the near-duplicate; else empty


def write_doubts(path: Path, doubts: Iterable[Doubt]) -> None:
    "Write the table as a CSV, whole or not at all."
    write_csv(path, Doubt._fields, doubts)


def read_doubts(path: Path) -> list[Doubt]:
    "The rows of a table that `write_doubts` wrote; none if there is no file. Raises ValueError for another table."
    return [Doubt(*row) for row in read_csv(path, list(Doubt._fields))[1:]] if path.is_file() else []
