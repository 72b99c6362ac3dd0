"""Photos that the user leaves out of a data set, listed in a CSV."""

import csv
from pathlib import Path

from toolkit.data.dataset import DataSet
from toolkit.errors import first_few

REASON = "listed in --without"


def without_listed(data: DataSet, path: Path) -> DataSet:
    """Return `data` without the photos that the CSV at `path` names. Its `left_out` has them.

    Photos to train and to validate on are left out alike. Raises FileNotFoundError or ValueError as `listed_files`
    does; ValueError if a name is none of these photos, or if a class then has none to train on.
    """
    names = listed_files(path)
    photos = {data.relative(photo): photo for photo in (*data.train, *data.valid)}
    if unknown := [name for name in names if name not in photos]:
        example = next(iter(photos), "")
        raise ValueError(
            f"--without {path}: {len(unknown)} of {len(names)} names are no photo to train or validate on: "
            f"{first_few([repr(name) for name in unknown])}; a name is relative to {data.root}, such as {example!r}"
        )
    if names:
        print(f"left out {len(names)} photos listed in {path}")
    return data.without({photos[name]: REASON for name in names}) if names else data


def listed_files(path: Path) -> list[str]:
    """The names in the column `file` of a CSV, or in its only column, each once, in order.

    A table of one column may have the header `file` or none. Raises FileNotFoundError if there is no such file,
    ValueError if it is no CSV or has several columns and none is `file`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--without {path}: no such file; it takes a CSV with a column file")
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except csv.Error as error:
        raise ValueError(f"--without {path} is not a CSV ({error}): give one with a column file") from error
    header = rows[0] if rows else []
    if "file" in header:
        column, rows = header.index("file"), rows[1:]
    elif all(len(row) == 1 for row in rows):
        column = 0
    else:
        raise ValueError(
            f"--without {path} has the columns {first_few([repr(name) for name in header])}: one must be 'file'"
        )
    return list(dict.fromkeys(row[column] for row in rows if len(row) > column and row[column]))
