"""Tables of photos and labels: Parquet files by split, and how tables are unpacked.

Photos keep the name that the table has for them, where it is one of a photo and taken once; others are numbered. They
lie in class folders, below train/, val/ and test/ if there are several splits. photos.csv names them instead if a class
has a name that no folder can have, or if there is a test split and none to validate on.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.data.on_disk.labels_csv import SPLITS
from toolkit.data.on_disk.photo_files import natural_key
from toolkit.data.sources.columns import Columns
from toolkit.data.sources.names import FolderNames, PhotoNames
from toolkit.data.sources.rows import ROWS, Opened, PhotoTable, photos_of
from toolkit.data.sources.unpacked import TABLE, Unpacking
from toolkit.errors import first_few
from toolkit.files import write_csv

if TYPE_CHECKING:
    import pyarrow as pa

WORDS = {  # of `datasets`, https://huggingface.co/docs/hub/datasets-file-names-and-splits
    "train": {"train", "training"},
    "valid": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}
FOLDERS = {"train": "train/", "valid": "val/", "test": "test/"}


Splits = dict[str, list[PhotoTable]]
"The tables of each split: train, valid, test."


def unpack(splits: Splits, columns: Columns, into: Unpacking) -> None:
    """Write the photos of `splits` into class folders, and photos.csv if folders can't hold them.

    The photos of a single split are all labelled, whatever its name; those of `test` beside others need no labels.
    Raises ValueError for a table that is damaged or lacks a column, and for a row without a photo or a label.
    """
    into.expect(sum(file.stat().st_size for tables in splits.values() for table in tables for file in table.files))
    rows: list[tuple[str, str, str]] = []
    folders, names = FolderNames(), PhotoNames()
    for split, tables in splits.items():
        before, labelled = ("", True) if len(splits) == 1 else (FOLDERS[split], split != "test")
        for table in tables:
            for photo in photos_of(table, columns, labelled):
                folder = before + (folders.of(photo.label) + "/" if labelled else "")
                name = folder + names.of(folder, photo.name, photo.content)
                into.add(name, [photo.content])
                rows.append((name, photo.label or "", split if len(splits) > 1 else "train"))
    like_splits = len(splits) == 1 and folders.taken & set(SPLITS)
    if folders.renamed or like_splits or set(splits) == {"train", "test"}:
        write_csv(into.folder / TABLE, ("path", "label", "split"), rows)


def parquet_file(path: Path) -> Splits:
    "A single Parquet file: all its photos are labelled."
    return {"train": [_parquet(path, path.name)]}


def parquet_folder(folder: Path) -> Splits:
    """The Parquet files below `folder` by the split in their names or in those of their folders.

    Raises ValueError for a file whose split can't be told, for several data sets, for a missing part of several and for
    a folder that has other splits, but none to train on.
    """
    found = [path.relative_to(folder) for path in folder.rglob("*.parquet")]
    found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    found.sort(key=lambda path: natural_key(path.as_posix()))
    splits: Splits = {}
    for path in found:
        split = split_in(path.with_suffix("").as_posix())
        splits.setdefault(split or "", []).append(_parquet(folder / path, path.as_posix()))
    if unknown := splits.get(""):
        if len(splits) > 1:
            raise ValueError(
                f"{folder / unknown[0].name}: the split is not in its name, as in train-00000-of-00001.parquet, "
                f"validation.parquet or test/0.parquet ({len(unknown)} such): rename it, or give a folder without it"
            )
        splits = {"train": unknown}
    _check_one_data_set(folder, found)
    _check_parts(folder, found)
    return check_train(splits, folder)


def check_train(splits: Splits, folder: Path) -> Splits:
    "Return `splits`, in the order train, valid, test. Raises ValueError if there are several, and none to train on."
    if len(splits) > 1 and "train" not in splits:
        raise ValueError(
            f"{folder} has splits to validate and to test on, and none to train on: give one of its tables"
        )
    return {split: splits[split] for split in WORDS if split in splits}


def split_in(name: str) -> str | None:
    "The split that words in a name stand for: train, valid or test. None if no word does, or words of several do."
    words = set(re.split(r"[^a-z]+", name.lower()))
    found = [split for split, accepted in WORDS.items() if words & accepted]
    return found[0] if len(found) == 1 else None


def _check_one_data_set(folder: Path, files: list[Path]) -> None:
    "Files of one data set lie in one folder, but for a folder of each split."
    homes = dict.fromkeys(
        Path(*(part for part in path.parts[:-1] if split_in(part) is None)).as_posix() for path in files
    )
    if len(homes) > 1:
        raise ValueError(
            f"{folder} holds Parquet files of several data sets: give one of its folders, {first_few([*homes])}"
        )


def _check_parts(folder: Path, files: list[Path]) -> None:
    "All parts are there of a table in several files, by names as train-00000-of-00002.parquet."
    there = {path.as_posix() for path in files}
    for path in sorted(there):
        if part := re.fullmatch(r"(.*-)(\d{5})-of-(\d{5})(\D.*)", path):
            before, _, count, after = part.groups()
            names = (f"{before}{number:05d}-of-{count}{after}" for number in range(int(count)))
            if missing := next((name for name in names if name not in there), None):
                raise ValueError(
                    f"{folder / missing} is missing, a part of {int(count)}: fetch it, or give single files"
                )


def _parquet(path: Path, name: str) -> PhotoTable:
    def opened() -> Opened:
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise ImportError(f"{path} needs pyarrow: pip install -c constraints.txt -e '.[parquet]'") from error

        def batches(columns: list[str]) -> "Iterator[pa.RecordBatch]":
            with parquet.ParquetFile(path) as file:
                for group in range(file.num_row_groups):  # at once, pyarrow 26 keeps each group until the last is read
                    yield from file.iter_batches(ROWS, row_groups=[group], columns=columns, use_threads=False)

        return Opened(parquet.read_schema(path), batches)

    return PhotoTable(name, [path], path.parent, opened)
