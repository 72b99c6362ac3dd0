"""The photos and labels in the rows of a table."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.data.on_disk.photo_files import SUFFIXES, file_bytes
from toolkit.data.sources.columns import Columns, class_names, find_columns
from toolkit.errors import reason_of

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 16  # that are in memory at once


class Opened(NamedTuple):
    "A table that is being read."

    schema: "pa.Schema"
    batches: Callable[[list[str]], "Iterator[pa.RecordBatch | pa.Table]"]  # rows of these columns, ROWS at a time


class PhotoTable(NamedTuple):
    "A table of photos, not opened yet."

    name: str  # for messages
    files: list[Path]
    folder: Path  # that paths in it are relative to
    open: Callable[[], Opened]


class Photo(NamedTuple):
    "A photo in a row."

    content: bytes  # of its file
    name: str | None  # that the table has for it
    label: str | None  # None if labels are not asked for


def photos_of(table: PhotoTable, columns: Columns, labelled: bool) -> Iterator[Photo]:
    "The photos of a table. Raises ValueError for what can't be read, and for a row without a photo or a label."
    opened = _opened(table)
    found = find_columns(opened.schema, columns, labelled, table.name)
    names = class_names(opened.schema, found.label, table.name) if labelled else None
    for number, (image, label) in enumerate(_rows(table, opened, found), start=1):
        where = f"{table.name}, row {number}"
        content, name = _content(image, table.folder, where)
        yield Photo(content, name, _label(label, names, where) if labelled else None)


def _opened(table: PhotoTable) -> Opened:
    try:
        return table.open()
    except ImportError:
        raise
    except Exception as error:  # a damaged file makes libraries raise anything
        raise ValueError(_damaged(table, error)) from error


def _rows(table: PhotoTable, opened: Opened, columns: Columns) -> Iterator[tuple[Any, Any]]:
    "The photo and the label of each row, as Python's values; None as label if there is no column of labels."
    try:
        for batch in opened.batches([name for name in columns if name is not None]):
            images = batch.column(columns.image).to_pylist()
            yield from zip(images, _labels(batch, columns.label), strict=True)
    except Exception as error:
        raise ValueError(_damaged(table, error)) from error


def _labels(batch: Any, column: str | None) -> list[Any]:
    return batch.column(column).to_pylist() if column else [None] * batch.num_rows


def _damaged(table: PhotoTable, error: Exception) -> str:
    return f"{table.name} can't be read ({reason_of(error)}): fetch or write it again"


def _content(image: Any, folder: Path, where: str) -> tuple[bytes, str | None]:
    "The bytes of a photo's file and its name: from the row, or from the file whose path it has."
    held, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
    if isinstance(held, str):
        held, path = None, held
    path = path if isinstance(path, str) else None
    if held is not None:
        return held, path
    if path is None:
        raise ValueError(f"{where}: there is no photo: remove the row")
    if Path(path).suffix.lower() not in SUFFIXES or not (folder / path).is_file():
        raise ValueError(
            f"{where}: it has the path {path} and no bytes, and there is no such photo on this machine: write the "
            "table with the photos in it, as save_to_disk and push_to_hub of `datasets` do"
        )
    return file_bytes(folder / path), path


def _label(value: Any, names: list[str] | None, where: str) -> str:
    "The name of a row's class."
    if names is not None:
        value = names[value] if type(value) is int and 0 <= value < len(names) else None
    if value is None or value == "":
        raise ValueError(f"{where}: there is no label: remove the row, or put it into a test split")
    return str(value)
