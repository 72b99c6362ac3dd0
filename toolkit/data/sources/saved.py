"""Folders that `datasets` saved by `save_to_disk`: a data set, or one for each split."""

from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.data.sources.rows import ROWS, Opened, PhotoTable
from toolkit.data.sources.tables import Splits, check_train, split_in
from toolkit.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

SEVERAL, ONE = "dataset_dict.json", "state.json"


def is_saved(path: Path) -> bool:
    "True if `path` is a folder that `save_to_disk` wrote."
    return (path / SEVERAL).is_file() or (path / ONE).is_file()


def tables_in(folder: Path) -> Splits:
    "The tables of a folder by split. Raises ValueError for a split whose name stands for none."
    if not (folder / SEVERAL).is_file():
        return {"train": [_saved(folder, folder.name)]}
    listed = read_json(folder / SEVERAL)
    names = listed.get("splits") if isinstance(listed, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{folder / SEVERAL} does not list splits: save the data set again")
    splits: Splits = {}
    for name in names:
        split = split_in(name)
        if split is None or split in splits or not (folder / name / ONE).is_file():
            raise ValueError(
                f"{folder} has the split {name!r}; train, validation and test are read: give the folder of one split, "
                "or save the data set with those"
            )
        splits[split] = [_saved(folder / name, f"{folder.name}/{name}")]
    return check_train(splits, folder)


def _saved(folder: Path, name: str) -> PhotoTable:
    def opened() -> Opened:
        try:
            import datasets
        except ImportError as error:
            raise ImportError(f"{folder} needs datasets: pip install -c constraints.txt -e '.[hf]'") from error
        table = datasets.load_from_disk(str(folder))

        def batches(columns: list[str]) -> "Iterator[pa.Table]":
            yield from table.select_columns(columns).with_format("arrow").iter(ROWS)

        return Opened(table.features.arrow_schema, batches)

    files = sorted(path for path in folder.iterdir() if path.suffix in (".arrow", ".json"))
    return PhotoTable(name, files, folder, opened)
