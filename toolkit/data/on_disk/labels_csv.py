"""Labels in a CSV: path,label and perhaps split, or image_name,label as of test photos -> labels by path."""

import csv
import os
from pathlib import Path

from toolkit.data.on_disk.photo_files import find_photos, natural_key
from toolkit.errors import first_few

SPLITS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}  # by the name of a folder or in a CSV
Rows = list[tuple[int, dict[str, str | None]]]


def read_labels(path: Path) -> dict[Path, str]:
    """The labelled photos of a CSV, in natural order: its validation part if it has a split, else all.

    Columns are those of `read_splits`, or image_name,label: see `_by_name`. Raises what these raise.
    """
    columns, rows = _read_rows(path)
    if "path" not in columns and {"image_name", "label"} <= set(columns):
        return _by_name(path, rows)
    splits = read_splits(path)
    return splits["valid"] or splits["train"]


def read_splits(path: Path) -> dict[str, dict[Path, str]]:
    """The photos of a CSV with columns path, label and perhaps split: {"train", "valid", "test"} -> labels by path.

    Photos are in natural order. Raises ValueError or FileNotFoundError, with the line, for the first fault.
    """
    splits: dict[str, dict[Path, str]] = {"train": {}, "valid": {}, "test": {}}
    columns, rows = _read_rows(path)
    if not {"path", "label"} <= set(columns):
        raise ValueError(f"{path} has columns {', '.join(columns) or 'none'}: it takes path,label and perhaps split")
    for number, row in rows:
        split, photo, label = _checked_row(path, number, row)
        for other, held in splits.items():
            if photo in held and (other, held[photo]) != (split, label):
                raise ValueError(
                    f"{path}, line {number}: {row['path']} stands in it twice, with another label or split"
                )
        splits[split][photo] = label
    return {name: _in_order(held) for name, held in splits.items()}


def _in_order(labels: dict[Path, str]) -> dict[Path, str]:
    return dict(sorted(labels.items(), key=lambda pair: natural_key(str(pair[0]))))


def _by_name(path: Path, rows: Rows) -> dict[Path, str]:
    """The photos that a CSV names as predictions.csv does, with their labels.

    They are looked for in test/ beside the CSV, or, if there is none, in the CSV's own folder. A name may have its
    suffix or not. Photos without a row are left out.
    Raises ValueError, with the line, for a name of no photo or of several, and for a photo with two labels.
    """
    folder = path.parent / "test" if (path.parent / "test").is_dir() else path.parent
    named: dict[str, list[Path]] = {}
    for photo in find_photos(folder):
        relative = photo.relative_to(folder)
        for name in {relative.as_posix(), relative.with_suffix("").as_posix()}:
            named.setdefault(name, []).append(photo)
    labels: dict[Path, str] = {}
    for number, row in rows:
        name, label = _values(path, number, row, "image_name")
        found = named.get(name, [])
        if len(found) != 1:
            fault = (
                f"may be {first_few([str(photo) for photo in found])}: give its suffix"
                if found
                else f"is no photo in {folder}"
            )
            raise ValueError(f"{path}, line {number}: {name} {fault}")
        if labels.setdefault(found[0], label) != label:
            raise ValueError(f"{path}, line {number}: {name} stands in it twice, with another label")
    return _in_order(labels)


def _read_rows(path: Path) -> tuple[list[str], Rows]:
    "The columns, and the rows, each with the number of its last line."
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            rows, columns = [(reader.line_num, row) for row in reader], reader.fieldnames or []
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {reader.line_num + 1} begins no row of a CSV ({error}): is a quote open?"
            ) from error
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not a CSV ({error}): give a folder, a CSV with columns path,label, a zip or Parquet files; "
                "unpack other archives"
            ) from error
    return list(columns), rows


def _checked_row(path: Path, number: int, row: dict[str, str | None]) -> tuple[str, Path, str]:
    "Split, photo and label of one line."
    split = row.get("split") or "train"
    if split not in SPLITS:
        raise ValueError(f"{path}, line {number}: split {split!r}; it takes train, val, valid or test")
    name, label = _values(path, number, row, "path", unlabelled=split == "test")
    photo = path.parent / name
    if ".." in photo.parts and _same_file(photo, plain := path.parent / os.path.normpath(name)):
        photo = plain
    if not photo.is_file():
        raise FileNotFoundError(f"{path}, line {number}: no file {photo}; paths are relative to the CSV's folder")
    return SPLITS[split], photo, label


def _values(
    path: Path, number: int, row: dict[str, str | None], column: str, unlabelled: bool = False
) -> tuple[str, str]:
    "The photo's name, in `column`, and the label of one line. Raises ValueError if one is empty."
    if any(row.get(None, ())):  # DictReader's key of values without a column
        raise ValueError(
            f"{path}, line {number}: {len(row) - 1 + len(row[None])} values for {len(row) - 1} columns; a value with a "
            "comma stands in quotes"
        )
    name, label = row[column], row["label"] or ""
    if not name or not (label or unlabelled):
        raise ValueError(f"{path}, line {number}: the {'label' if name else column} is empty")
    return name, label


def _same_file(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.samefile(other)
