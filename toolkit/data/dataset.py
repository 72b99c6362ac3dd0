"""A data set: photos with labels and splits, found in a folder or a CSV and checked. Nothing is decoded."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.data.on_disk.class_names import classes_fault
from toolkit.data.on_disk.labels_csv import read_splits
from toolkit.data.on_disk.layouts import class_folders, held_out_photos, is_split, stratified_split
from toolkit.data.on_disk.photo_files import find_photos, root_of
from toolkit.data.sources.source import Columns, open_source
from toolkit.options import missing_data


@dataclass(frozen=True)
class DataSet:
    "The photos to train on, to validate on and to predict, each with its label, in natural order."

    path: Path  # the folder, or the CSV
    train: dict[Path, str]
    valid: dict[Path, str]
    test: dict[str, Path] = field(default_factory=dict)  # by the name that a submission gives it
    left_out: dict[Path, str] = field(default_factory=dict)  # photos that `without` removed, with the reason
    held_out: dict[Path, str] = field(default_factory=dict)  # photos of a fold, which `holding_out` took from `train`
    squareness: float | None = field(default=None, compare=False)  # mean of shorter / longer side, once decoded
    source: str | None = None  # what `path` was unpacked or fetched from: a zip, tables, hf://USER/NAME@COMMIT

    @property
    def name(self) -> str:
        "The data set for messages and commands: what it was unpacked from, or its path."
        return self.source or str(self.path)

    @property
    def root(self) -> Path:
        "The folder that file names are relative to."
        return root_of(self.path)

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
        "`path` as a file names it: relative to the root, with forward slashes; unchanged if it lies outside."
        return _relative(path, self.root)

    @property
    def fingerprint(self) -> str:
        "SHA-256 of each labelled photo's split, label, path and size: it changes if one is added, moved or relabelled."
        return self.fingerprints[0]

    @cached_property
    def fingerprints(self) -> tuple[str, str]:
        "The fingerprint, and the same of these photos and those to predict."
        parts = {"train": self.train, "valid": self.valid, "held_out": self.held_out}
        labelled = [(split, *pair) for split, part in parts.items() for pair in part.items()]
        digest = self._digest(hashlib.sha256(), labelled)
        to_predict = [("test", path, "") for path in self.test.values()]
        return digest.hexdigest(), self._digest(digest.copy(), to_predict).hexdigest()

    def _digest(self, digest: Any, photos: list[tuple[str, Path, str]]) -> Any:
        for split, path, label in photos:
            line = f"{split}\0{label}\0{self.relative(path)}\0{path.stat().st_size}\n"
            digest.update(line.encode(errors="surrogatepass"))  # a file's name need not be unicode
        return digest

    def is_recorded(self, fingerprint: str) -> bool:
        "True if a run that recorded this fingerprint has these labelled photos. Older runs recorded that with test."
        return fingerprint in self.fingerprints

    def without(self, photos: Mapping[Path, str]) -> "DataSet":
        """The data set without `photos`. Its `left_out` has them.

        photos: the reason by path. Raises ValueError if a class then has no photo to train on, or no photo is left to
        validate on.
        """
        train = {path: label for path, label in self.train.items() if path not in photos}
        valid = {path: label for path, label in self.valid.items() if path not in photos}
        test = {name: path for name, path in self.test.items() if path not in photos}
        return self._complete(replace(self, train=train, valid=valid, test=test, left_out={**self.left_out, **photos}))

    def holding_out(self, photos: Collection[Path]) -> "DataSet":
        """The data set that does not train on `photos`. Its `held_out` has them, with their labels.

        Raises ValueError if a class then has no photo to train on.
        """
        held_out = {path: label for path, label in self.train.items() if path in photos}
        train = {path: label for path, label in self.train.items() if path not in photos}
        return self._complete(replace(self, train=train, held_out={**self.held_out, **held_out}))

    def _complete(self, left: "DataSet") -> "DataSet":
        "Return `left`, a part of this data set. Raises ValueError if it lacks a class, or photos to validate on."
        if empty := [name for name in self.classes if left.classes and name not in left.counts]:
            raise ValueError(f"no photo of class {empty[0]} is left to train on in {self.name} ({len(empty)} such)")
        return _checked(left)


def find_data(
    data: str | Path, seed: int = 0, allow_single: bool = False, columns: Columns | None = None, download: bool = True
) -> DataSet:
    """The data set at `data`, which is one of three, or what `open_source` makes one of these:

    - a folder with train/ and val/ (or valid/), and perhaps a flat test/;
    - a folder of class folders, of which `seed` draws a fifth of each class for validation;
    - a CSV with columns path, label and perhaps split (train, val or valid, test). Paths are relative to the CSV.

    allow_single: accept a class of one photo if a split is drawn, to look at it; it can't be validated.
    columns, download: see `open_source`, whose errors are raised too. Raises FileNotFoundError if nothing is there,
    ValueError, with the reason, if it can't be trained on.
    """
    root, source = open_source(data, columns, download)
    if not root.exists():
        raise FileNotFoundError(missing_data(data))
    if root.is_file():
        found = _from_csv(root, seed, allow_single)
    elif is_split(root):
        found = _from_split_folders(root)
    elif labels := class_folders(root):
        found = DataSet(root, *stratified_split(labels, seed, allow_single))
    else:
        raise ValueError(f"no photos in class folders below {source or root}: it takes train/<class>/*, or <class>/*")
    return _checked(replace(found, source=source))


def recorded_dataset(recipe: dict[str, Any]) -> tuple[DataSet, str | None]:
    """Return the data set that a run was trained on, and None, if its photos are still as they were.

    recipe: the run's recipe.json. If the photos are gone or have changed, return a DataSet without photos, and the
    reason, in words that go on from "the photos". Gone photos are unpacked again, but none are fetched from the hub.
    """
    recorded = recipe["data"]
    for place in (recorded["path"], *filter(None, [recorded.get("source")])):
        try:
            data = _recorded_at(place, recipe)
            if data.is_recorded(recorded["fingerprint"]):
                return data, None
            fault = "have changed since"
        except (OSError, ValueError, ImportError) as error:
            fault = f"can't be used ({error})"
    return DataSet(Path(recorded["path"]), {}, {}), fault


def _recorded_at(place: str, recipe: dict[str, Any]) -> DataSet:
    "The data set at `place` without the photos that the run left out or held out."
    recorded, options = recipe["data"], recipe["options"]
    columns = Columns(options.get("image_column"), options.get("label_column")) if place != recorded["path"] else None
    data = find_data(place, options["seed"], columns=columns, download=False)
    reasons, held_out = recorded.get("left_out", {}), set(recorded.get("held_out") or ())
    photos = {data.relative(photo): photo for photo in (*data.train, *data.valid)}
    data = data.without({photo: reasons[name] for name, photo in photos.items() if name in reasons})
    return data.holding_out({photo for name, photo in photos.items() if name in held_out}) if held_out else data


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _from_split_folders(root: Path) -> DataSet:
    valid = held_out_photos(root)
    photos = find_photos(root / "test") if (root / "test").is_dir() else []
    test = {path.relative_to(root / "test").as_posix(): path for path in photos}
    return DataSet(root, class_folders(root / "train"), valid, test)


def _from_csv(path: Path, seed: int, allow_single: bool) -> DataSet:
    splits = read_splits(path)
    train, valid = splits["train"], splits["valid"]
    if not valid:
        train, valid = stratified_split(train, seed, allow_single)
    return DataSet(path, train, valid, {_relative(photo, path.parent): photo for photo in splits["test"]})


def _checked(data: DataSet) -> DataSet:
    "Return `data` if a classifier can be trained and validated on it; raise ValueError if not."
    for photos, use in ((data.train, "train"), (data.valid, "validate")):
        if not photos:
            raise ValueError(
                f"no photos to {use} on in {data.name}: it takes photos in class folders, or a CSV that names some"
            )
    if fault := classes_fault(data.classes):
        raise ValueError(f"{data.name} can't be trained on: {fault}")
    unknown = sorted(set(data.valid.values()) - set(data.classes))
    if unknown:
        raise ValueError(
            f"class {unknown[0]} is in the validation set of {data.source or data.root} but not in train "
            f"({len(unknown)} such): move photos of it to train, or remove it"
        )
    if len(data.classes) < 2:
        raise ValueError(f"{data.source or data.root} has one class, {data.classes[0]}: a classifier needs two or more")
    return data
