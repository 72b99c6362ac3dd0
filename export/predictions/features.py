"""Write the features of photos beside the table of predictions, a row for each row of the table, in its order.

.npy       float32 [photos, n], which `numpy.load(FILE, mmap_mode="r")` reads without loading it
.parquet   the columns image_name (string) and features (list of float32)

A photo that can't be read has NaN in every place.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from export.predictions.formats import check_kind
from export.predictions.journal import Row, unpacked
from export.predictions.resume import START_ANEW
from toolkit.files import replacing

SUFFIXES = (".npy", ".parquet")


def check_features(path: Path, names: Iterable[str]) -> None:
    "Raises ValueError for another suffix, or a name that Parquet can't hold; ImportError if pyarrow is missing."
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--features {path}: its name says the format, give a file ending in {' or '.join(SUFFIXES)}")
    if path.suffix.lower() == ".parquet":
        check_kind("parquet", names, f"--features {path}")


def with_features(path: Path, rows: Iterable[Row], count: int, size: int) -> Iterator[Row]:
    """Yield the `count` rows. Their features, `size` each, are in the file `path` after the last one.

    Few are in memory at a time. If it is closed early, no file is written.
    """
    writing = _writing_npy if path.suffix.lower() == ".npy" else _writing_parquet
    missing = np.full(size, np.nan, "<f4")
    with replacing(path) as beside, writing(beside, count, size) as write:
        for row in rows:
            write(row.name, missing if row.reason is not None else unpacked(row.features))
            yield row


@contextlib.contextmanager
def _writing_npy(path: Path, count: int, size: int) -> Iterator[Callable[[str, np.ndarray], None]]:
    with path.open("wb", 2**20) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, size)}
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda name, features: file.write(features)


@contextlib.contextmanager
def _writing_parquet(path: Path, count: int, size: int) -> Iterator[Callable[[str, np.ndarray], None]]:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([("image_name", pyarrow.string()), ("features", pyarrow.list_(pyarrow.float32()))])
    at_once, names, rows = max(1, 2**20 // size), [], []  # about a million numbers in memory

    def write_group() -> None:
        offsets = np.arange(len(names) + 1, dtype=np.int32) * size
        lists = pyarrow.ListArray.from_arrays(offsets, np.concatenate(rows) if rows else np.empty(0, np.float32))
        writer.write_table(pyarrow.Table.from_arrays([pyarrow.array(names, pyarrow.string()), lists], schema=schema))
        names.clear()
        rows.clear()

    def write(name: str, features: np.ndarray) -> None:
        names.append(name)
        rows.append(features)
        if len(names) == at_once:
            write_group()

    with ParquetWriter(path, schema) as writer:
        yield write
        if names:
            write_group()


def check_finished(path: Path, count: int) -> None:
    "Raises ValueError unless the file of a finished run is there with `count` rows."
    try:
        rows = _rows_of(path)
    except (OSError, ValueError, EOFError):  # pyarrow's errors are ValueErrors
        rows = None
    if rows != count:
        found = f"has {rows} rows, not {count}" if rows is not None else "is gone or damaged"
        raise ValueError(f"--features {path} {found}, the table is finished: {START_ANEW}")


def _rows_of(path: Path) -> int:
    if path.suffix.lower() == ".npy":
        return len(np.load(path, mmap_mode="r"))
    from pyarrow import parquet

    return parquet.read_metadata(path).num_rows
