"""A folder or a CSV of labelled photos -> a checked list of files with labels and splits. Nothing is decoded."""

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.data.photo import find_photos, natural_key

VALID_FRACTION = 0.2  # of each class, where the data does not come split
SPLITS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}


@dataclass(frozen=True)
class DataSet:
    "Photos below `root`, each with its label, in natural order: those to train on, to validate on, and to predict."

    path: Path  # as it was given: the folder, or the CSV
    train: dict[Path, str]
    valid: dict[Path, str]
    test: dict[str, Path] = field(default_factory=dict)  # by the name that a submission gives it
    left_out: dict[Path, str] = field(default_factory=dict)  # what `without` took away, and why

    @property
    def root(self) -> Path:
        "The folder that file names are relative to."
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def classes(self) -> list[str]:
        "Class names in index order: sorted as text, so that '10' stands before '2'."
        return sorted(set(self.train.values()))

    @cached_property
    def counts(self) -> dict[str, int]:
        "Training photos of each class."
        found = Counter(self.train.values())
        return {name: found[name] for name in self.classes}

    def relative(self, path: Path) -> str:
        "`path` as files name it: relative to the root, with forward slashes; whole where it lies outside."
        return _relative(path, self.root)

    @cached_property
    def fingerprint(self) -> str:
        "SHA-256 of every file's split, label, path and size: another when a photo is added, moved, relabelled."
        digest = hashlib.sha256()
        labelled = [("train", *pair) for pair in self.train.items()] + [("valid", *pair) for pair in self.valid.items()]
        for split, path, label in [*labelled, *(("test", path, "") for path in self.test.values())]:
            line = f"{split}\0{label}\0{self.relative(path)}\0{path.stat().st_size}\n"
            digest.update(line.encode(errors="surrogatepass"))  # a file's name need not be unicode
        return digest.hexdigest()

    def without(self, photos: Mapping[Path, str]) -> "DataSet":
        """The data set less `photos`, which are given with the reason; its `left_out` has them.

        Raises ValueError where a class then has no photo to train on, or there is none to validate on.
        """
        train = {path: label for path, label in self.train.items() if path not in photos}
        valid = {path: label for path, label in self.valid.items() if path not in photos}
        test = {name: path for name, path in self.test.items() if path not in photos}
        left = replace(self, train=train, valid=valid, test=test, left_out={**self.left_out, **photos})
        empty = [name for name in self.classes if left.classes and name not in left.counts]
        if empty:
            raise ValueError(f"no photo of class {empty[0]} is left to train on in {self.path} ({len(empty)} such)")
        return _checked(left)


def find_data(data: str | Path, seed: int = 0, lone: bool = False) -> DataSet:
    """The data set at `data`: a folder with train/ and val/ (or valid/) and perhaps a flat test/; a folder of class
    folders, of which a fifth of each class is drawn for validation by `seed`; or a CSV with columns path, label and
    perhaps split (train, val or valid, test), its paths relative to the CSV.

    lone: where a split is drawn, let a class of one photo pass, to be looked at; it can't be validated.
    Raises FileNotFoundError for what is not there, ValueError for what cannot be trained on (says which and why).
    """
    root = Path(data)
    if not root.exists():
        raise FileNotFoundError(
            f"--data {data} does not exist: give a folder of photos or a CSV with columns path,label"
        )
    if root.is_file():
        return _checked(_from_csv(root, seed, lone))
    if (root / "train").is_dir():
        return _checked(_from_split_folders(root))
    labels = _class_folders(root)
    if not labels:
        raise ValueError(f"no photos in class folders below {root}: it takes train/<class>/*, or <class>/*")
    return _checked(DataSet(root, *_stratified(labels, seed, lone)))


def recorded_dataset(recipe: dict[str, Any]) -> tuple[DataSet, str | None]:
    """Return the data set that a run was trained on, and None, if its photos are still as they were.

    recipe: the run's recipe.json. If the photos are gone or have changed, return a DataSet without photos, and the
    reason, in words that go on from "the photos".
    """
    recorded = recipe["data"]
    try:
        data = find_data(recorded["path"], recipe["options"]["seed"])
        reasons = recorded.get("left_out", {})
        photos = {data.relative(photo): photo for photo in (*data.train, *data.valid)}
        data = data.without({photo: reasons[name] for name, photo in photos.items() if name in reasons})
        fault = None if data.fingerprint == recorded["fingerprint"] else "have changed since"
    except (OSError, ValueError) as error:
        fault = f"can't be used ({error})"
    return (DataSet(Path(recorded["path"]), {}, {}), fault) if fault else (data, None)


def keep_apart(data: str | Path, places: Mapping[str, str | Path | None]) -> None:
    """Raises ValueError for a place to write to, by the option that names it, that lies where `find_data` looks for
    photos: pictures, and folders, that are written there would be photos and classes the next time. None is no place.
    """
    searched = _searched(Path(data))
    for option, place in places.items():
        for folder in searched if place is not None else []:
            if _is_looked_at(Path(place).resolve(), folder.resolve()):
                raise ValueError(
                    f"{option} {place} lies in {folder}, where photos are looked for, and what is written there would "
                    f"be among them: give {option} a folder outside of it"
                )


def _searched(root: Path) -> list[Path]:
    "The folders below which photos are looked for, there already or not, and those that are linked into them."
    if not root.is_dir():
        return []
    folders = [root / name for name in SPLITS] if (root / "train").is_dir() else [root]
    inside = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return folders + [path for path in inside if path.is_symlink() and path.is_dir() and path.name[0] != "."]


def _is_looked_at(place: Path, folder: Path) -> bool:
    "Whether photos below `folder` are found at `place`: names that start with a dot are left out."
    below = place.is_relative_to(folder)
    return below and not any(name.startswith(".") for name in place.relative_to(folder).parts)


def labelled(data: str | Path) -> dict[Path, str]:
    """The photos at `data` with their labels, in natural order: of what comes split the validation part, else all.

    Raises FileNotFoundError for what is not there, ValueError where no photo in it has a label.
    """
    root = Path(data)
    if root.is_file():
        splits = _csv_splits(root)
        labels = splits["valid"] or splits["train"]
    else:
        labels = _held_out(root) if _is_split(root) else _class_folders(root)
    if not labels:
        raise ValueError(f"no labelled photos in {root}: it takes <class>/*, val/<class>/*, or a CSV with path,label")
    return labels


def _is_split(folder: Path) -> bool:
    "Whether the folder holds parts of a data set, and not its classes."
    names = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    return "train" in names or (bool(names) and names <= set(SPLITS))


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _from_split_folders(root: Path) -> DataSet:
    valid = _held_out(root)
    photos = find_photos(root / "test") if (root / "test").is_dir() else []
    test = {path.relative_to(root / "test").as_posix(): path for path in photos}
    return DataSet(root, _class_folders(root / "train"), valid, test)


def _held_out(root: Path) -> dict[Path, str]:
    "Of a folder with train/, the photos in val/ or valid/."
    held_out = [root / name for name in ("val", "valid") if (root / name).is_dir()]
    if len(held_out) != 1:
        trouble = "both val/ and valid/: remove one" if held_out else "train/ but neither val/ nor valid/: add one"
        raise ValueError(f"{root} has {trouble}, or give --data {root / 'train'} to have a fifth of it held out")
    return _class_folders(held_out[0])


def _class_folders(folder: Path) -> dict[Path, str]:
    "Every photo below folder/<class>/ with its class."
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


def _from_csv(path: Path, seed: int, lone: bool) -> DataSet:
    splits = _csv_splits(path)
    train, valid = splits["train"], splits["valid"]
    if not valid:
        train, valid = _stratified(train, seed, lone)
    return DataSet(path, train, valid, {_relative(photo, path.parent): photo for photo in splits["test"]})


def _csv_splits(path: Path) -> dict[str, dict[Path, str]]:
    "Photos with their labels by split, each in natural order."
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            rows, columns = list(reader), reader.fieldnames or []
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"{path} is not a CSV ({error}): give a folder, or a CSV with columns path,label"
            ) from error
    if not {"path", "label"} <= set(columns):
        raise ValueError(f"{path} has columns {', '.join(columns) or 'none'}: it takes path,label and perhaps split")
    splits: dict[str, dict[Path, str]] = {"train": {}, "valid": {}, "test": {}}
    for number, row in enumerate(rows, start=2):
        split, photo, label = _csv_row(path, number, row)
        for other, held in splits.items():
            if photo in held and (other, held[photo]) != (split, label):
                raise ValueError(
                    f"{path}, line {number}: {row['path']} stands in it twice, with another label or split"
                )
        splits[split][photo] = label
    return {
        name: dict(sorted(held.items(), key=lambda pair: natural_key(str(pair[0])))) for name, held in splits.items()
    }


def _csv_row(path: Path, number: int, row: dict[str, str | None]) -> tuple[str, Path, str]:
    "split, photo and label of one line."
    name, label, split = row["path"], row["label"] or "", row.get("split") or "train"
    if split not in SPLITS:
        raise ValueError(f"{path}, line {number}: split {split!r}; it takes train, val, valid or test")
    if not name or (not label and split != "test"):
        raise ValueError(f"{path}, line {number}: the {'label' if name else 'path'} is empty")
    photo = path.parent / name
    if not photo.is_file():
        raise FileNotFoundError(f"{path}, line {number}: no file {photo}; paths are relative to the CSV's folder")
    return SPLITS[split], photo, label


def _stratified(labels: dict[Path, str], seed: int, lone: bool) -> tuple[dict[Path, str], dict[Path, str]]:
    "Train and validation parts: a fifth of each class, rounded (of two photos perhaps none), drawn by `seed` alone."
    from sklearn.model_selection import StratifiedShuffleSplit  # a second to import

    few = [name for name, count in Counter(labels.values()).items() if count < 2]
    if few and not lone:
        raise ValueError(f"class {few[0]} has 1 photo: one to train on and one to validate on is the least")
    alone = {photo: name for photo, name in labels.items() if name in few}
    photos = [photo for photo in labels if photo not in alone]
    names = [labels[photo] for photo in photos]
    if not photos:
        return alone, {}
    held_out = max(round(len(photos) * VALID_FRACTION), len(set(names)))
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=held_out, random_state=seed)
    parts = next(splitter.split(photos, names))
    train, valid = ({photos[i]: names[i] for i in sorted(part)} for part in parts)
    return train | alone, valid


def _checked(data: DataSet) -> DataSet:
    "`data`, if a classifier can be trained and validated on it."
    for photos, use in ((data.train, "train"), (data.valid, "validate")):
        if not photos:
            raise ValueError(
                f"no photos to {use} on in {data.path}: it takes photos in class folders, or a CSV that names some"
            )
    if fault := classes_fault(data.classes):
        raise ValueError(f"{data.path} can't be trained on: {fault}")
    unknown = sorted(set(data.valid.values()) - set(data.classes))
    if unknown:
        raise ValueError(
            f"class {unknown[0]} is in the validation set of {data.root} but not in train "
            f"({len(unknown)} such): move photos of it to train, or remove it"
        )
    if len(data.classes) < 2:
        raise ValueError(f"{data.root} has one class, {data.classes[0]}: a classifier needs two or more")
    return data


def classes_fault(classes: Any) -> str | None:
    "What keeps `classes` from being the names of a model's classes, None where nothing does."
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) and name for name in classes):
        return "its classes are not a list of names"
    if len(classes) > CLASSES:
        return f"it names {len(classes):,} classes, at most {CLASSES:,} are read"
    if len(set(classes)) < len(classes):
        return "two of its classes have one name"
    if any("\ud800" <= letter <= "\udfff" for letter in "".join(classes)):
        return "a name of its classes is not Unicode text"
    return None


CLASSES = 100_000  # ImageNet's largest edition has 21,841
