"""Layouts of labelled photos on disk, in folders or a CSV -> labels by path; the split into training and validation."""

import csv
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from toolkit.data.on_disk.photo_files import find_photos, natural_key

VALID_FRACTION = 0.2  # of each class, if the data does not come split
SPLITS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}  # by the name of a folder or in a CSV


def labelled_photos(data: str | Path) -> dict[Path, str]:
    """The photos at `data` with their labels, in natural order: the validation part if `data` comes split, else all.

    Raises FileNotFoundError for what is not there, ValueError if no photo in it has a label.
    """
    root = Path(data)
    if root.is_file():
        splits = read_splits(root)
        labels = splits["valid"] or splits["train"]
    else:
        labels = held_out_photos(root) if is_split(root) or _is_part(root) else class_folders(root)
    if not labels:
        raise ValueError(f"no labelled photos in {root}: it takes <class>/*, val/<class>/*, or a CSV with path,label")
    return labels


def is_split(root: Path) -> bool:
    """True if the folder `root` has a train/ with classes in it.

    A train/ beside folders of other names, with photos in itself, is a class.
    """
    train, names = root / "train", {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
    if not names - set(SPLITS) or {"val", "valid"} & names:
        return "train" in names
    return "train" in names and not any(path.parent == train for path in find_photos(train))


def _is_part(folder: Path) -> bool:
    "True if all folders in `folder` are named like parts of a data set."
    names = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    return bool(names) and names <= set(SPLITS)


def class_folders(folder: Path) -> dict[Path, str]:
    """Every photo below folder/<class>/ with its class, in natural order.

    Raises ValueError for photos outside the class folders and for a class folder without photos.
    """
    photos = find_photos(folder)
    loose = [path.name for path in photos if path.parent == folder]
    if loose:
        raise ValueError(f"{len(loose)} photos lie in {folder} itself ({loose[0]} …): move them into class folders")
    labels = {path: path.relative_to(folder).parts[0] for path in photos}
    names = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    empty = sorted(names - set(labels.values()))
    if empty and labels:
        raise ValueError(f"no photos in {folder / empty[0]}: remove that class folder, or fill it")
    return labels


def held_out_photos(root: Path) -> dict[Path, str]:
    "The photos in val/ or valid/, with their classes, of a folder with train/. Raises ValueError for both or neither."
    held_out = [root / name for name in ("val", "valid") if (root / name).is_dir()]
    if len(held_out) != 1:
        trouble = "both val/ and valid/: remove one" if held_out else "train/ but neither val/ nor valid/: add one"
        raise ValueError(f"{root} has {trouble}, or give --data {root / 'train'} to have a fifth of it held out")
    return class_folders(held_out[0])


def read_splits(path: Path) -> dict[str, dict[Path, str]]:
    """The photos of a CSV with columns path, label and perhaps split: {"train", "valid", "test"} -> labels by path.

    Photos are in natural order. Raises ValueError or FileNotFoundError, with the line, for the first fault.
    """
    splits: dict[str, dict[Path, str]] = {"train": {}, "valid": {}, "test": {}}
    for number, row in _read_rows(path):
        split, photo, label = _checked_row(path, number, row)
        for other, held in splits.items():
            if photo in held and (other, held[photo]) != (split, label):
                raise ValueError(
                    f"{path}, line {number}: {row['path']} stands in it twice, with another label or split"
                )
        splits[split][photo] = label
    return {
        name: dict(sorted(held.items(), key=lambda pair: natural_key(str(pair[0])))) for name, held in splits.items()
    }


def _read_rows(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    "The rows, each with the number of its last line."
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
    if not {"path", "label"} <= set(columns):
        raise ValueError(f"{path} has columns {', '.join(columns) or 'none'}: it takes path,label and perhaps split")
    return rows


def _checked_row(path: Path, number: int, row: dict[str, str | None]) -> tuple[str, Path, str]:
    "Split, photo and label of one line."
    if any(row.get(None, ())):  # DictReader's key of values without a column
        raise ValueError(
            f"{path}, line {number}: {len(row) - 1 + len(row[None])} values for {len(row) - 1} columns; a value with a "
            "comma stands in quotes"
        )
    name, label, split = row["path"], row["label"] or "", row.get("split") or "train"
    if split not in SPLITS:
        raise ValueError(f"{path}, line {number}: split {split!r}; it takes train, val, valid or test")
    if not name or (not label and split != "test"):
        raise ValueError(f"{path}, line {number}: the {'label' if name else 'path'} is empty")
    photo = path.parent / name
    if ".." in photo.parts and _same_file(photo, plain := path.parent / os.path.normpath(name)):
        photo = plain
    if not photo.is_file():
        raise FileNotFoundError(f"{path}, line {number}: no file {photo}; paths are relative to the CSV's folder")
    return SPLITS[split], photo, label


def _same_file(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.samefile(other)


def stratified_split(
    labels: dict[Path, str], seed: int, allow_single: bool = False
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Training and validation part of `labels`. Validation is a fifth of each class, rounded, drawn by `seed` alone.

    allow_single: put a class of one photo into the training part, instead of raising ValueError.
    """
    from sklearn.model_selection import StratifiedShuffleSplit  # a second to import

    single = [name for name, count in Counter(labels.values()).items() if count < 2]
    if single and not allow_single:
        raise ValueError(f"class {single[0]} has 1 photo: one to train on and one to validate on is the least")
    singles = {photo: name for photo, name in labels.items() if name in single}
    photos = [photo for photo in labels if photo not in singles]
    names = [labels[photo] for photo in photos]
    if not photos:
        return singles, {}
    held_out = max(round(len(photos) * VALID_FRACTION), len(set(names)))
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=held_out, random_state=seed)
    parts = next(splitter.split(photos, names))
    train, valid = ({photos[i]: names[i] for i in sorted(part)} for part in parts)
    return train | singles, valid


def check_outside_data(data: str | Path, outputs: Mapping[str, str | Path | None]) -> None:
    """Raise ValueError if an output would be written among the photos of `data`: pictures and folders there would be
    photos and classes the next time.

    outputs: paths to write to, or None, by the option that names them.
    """
    searched = _searched_folders(Path(data))
    for option, output in outputs.items():
        for folder in searched if output is not None else []:
            if _is_searched(Path(output).resolve(), folder.resolve()):
                raise ValueError(
                    f"{option} {output} lies in {folder}, where photos are looked for, and what is written there would "
                    f"be among them: give {option} a folder outside of it"
                )


def _searched_folders(root: Path) -> list[Path]:
    "The folders below which photos are searched for, whether they exist or not, and those linked into them."
    if not root.is_dir():
        return []
    folders = [root / name for name in SPLITS] if is_split(root) else [root]
    inside = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return folders + [path for path in inside if path.is_symlink() and path.is_dir() and path.name[0] != "."]


def _is_searched(path: Path, folder: Path) -> bool:
    "True if a search for photos in `folder` finds those at `path`. It skips names that start with a dot."
    below = path.is_relative_to(folder)
    return below and not any(name.startswith(".") for name in path.relative_to(folder).parts)
