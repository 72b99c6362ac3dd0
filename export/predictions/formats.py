"""Write a journal's rows as a table of predictions (CSV, JSON or Parquet), and the table of photos that can't be read.

JSON is a list of objects, one per line. In Parquet labels are strings and figures float32. A photo that can't be read
has null for the values it lacks; in CSV they are empty.
"""

import csv
import itertools
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from export.predictions.columns import Columns
from export.predictions.journal import Row, unpacked
from export.predictions.unsure import UNSURE, is_unsure
from toolkit.files import csv_writer, has_return, is_unicode, replacing

Unread = list[tuple[str, Path, str]]
"(image_name, path, reason) of each photo that can't be read."

KINDS = ["csv", "json", "parquet"]


def kind_of(out: Path, kind: str) -> str:
    """csv, json or parquet: `kind`, or for auto by the suffix, csv without one or for .txt.

    Raises ValueError if suffix and `kind` differ, and for auto if the suffix is of no format that is written.
    """
    suffix = out.suffix[1:].lower()
    if kind != "auto" and suffix in KINDS and suffix != kind:
        raise ValueError(f"--out {out} --format {kind}: name the file {out.with_suffix('.' + kind)}, or leave one out")
    if kind != "auto":
        return kind
    if suffix not in (*KINDS, "", "txt"):
        raise ValueError(f"--out {out}: give a name that ends in .csv, .json or .parquet, or a --format")
    return suffix if suffix in KINDS else "csv"


def check_kind(kind: str, texts: Iterable[str], flag: str = "--format parquet") -> None:
    "Raises ImportError if a library is missing, ValueError for one of `texts` that the file could not hold."
    if kind != "parquet":
        return
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ImportError(f"{flag} needs pyarrow: pip install pyarrow") from None
    for text in texts:
        if not text.isascii() and not is_unicode(text):
            raise ValueError(f"{flag}: the name {text!r} is not Unicode; only csv keeps its bytes")


def write_table(out: Path, kind: str, columns: Columns, rows: Iterable[Row], quoted: bool, fallback: str) -> None:
    """Write the predictions, a row per photo. A photo that can't be read has the label `fallback` and no figures.

    An unsure answer has the label `fallback`, or the word unsure if that is empty.

    quoted: see `has_return`.
    """
    cells = (cells_of(row, columns, fallback) for row in rows)
    with replacing(out) as beside:
        if kind == "csv":
            _write_csv(beside, columns.header, cells, quoted)
        elif kind == "json":
            _write_json(beside, columns.header, cells)
        else:
            write_parquet(beside, columns, cells)


def cells_of(row: Row, columns: Columns, fallback: str) -> list[str | float | None]:
    "The cells of a row of the table, its name first."
    labels = [fallback or UNSURE, *row.labels[1:]] if is_unsure(row.labels) else row.labels or [fallback or None]
    kept = {"label": labels, "figure": unpacked(row.figures).tolist()}
    return [row.name, *(kept[kind][index] if index < len(kept[kind]) else None for kind, index in columns.cells)]


def _write_csv(path: Path, header: list[str], rows: Iterable[list], quoted: bool) -> None:
    with _open_csv(path) as file:
        table = csv_writer(file, quoted)
        table.writerow(header)
        table.writerows([_text(cell) for cell in row] for row in rows)


def _text(cell: str | float | None) -> str:
    return f"{cell:.7g}" if isinstance(cell, float) else cell or ""


def _write_json(path: Path, header: list[str], rows: Iterable[list]) -> None:
    with path.open("w", encoding="ascii") as file:
        for number, row in enumerate(rows):
            values = [float(_text(cell)) if isinstance(cell, float) else cell for cell in row]
            file.write((",\n" if number else "[\n") + json.dumps(dict(zip(header, values, strict=True))))
        file.write("\n]\n")


def write_parquet(
    file: Path | BinaryIO, columns: Columns, rows: Iterator[list], note: dict[str, str] | None = None
) -> None:
    "Write the table as Parquet, with `note` in its footer."
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    kinds = ["label", *(kind for kind, _ in columns.cells)]
    types = [pyarrow.string() if kind == "label" else pyarrow.float32() for kind in kinds]
    schema = pyarrow.schema(list(zip(columns.header, types, strict=True)), note)
    at_once = max(1, 2**20 // len(types))  # rows in memory: about a million cells
    with ParquetWriter(file, schema) as writer:
        while some := list(itertools.islice(rows, at_once)):
            arrays = [pyarrow.array(values, kind) for values, kind in zip(zip(*some, strict=True), types, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def read_names(out: Path, kind: str) -> list[str]:
    "The first cell of each row of a table of predictions."
    if kind == "csv":
        return [row[0] for row in read_csv(out)[1:]]
    if kind == "json":
        return [next(iter(each.values())) for each in json.loads(out.read_text(encoding="ascii"))]
    from pyarrow import parquet

    first = parquet.read_schema(out).names[0]
    return parquet.read_table(out, columns=[first]).column(0).to_pylist()


def write_zip(out: Path) -> None:
    "Write a zip of `out` beside it; its bytes do not depend on the time."
    with replacing(zip_file(out)) as beside, zipfile.ZipFile(beside, "w") as archive:
        entry = zipfile.ZipInfo(out.name)  # dated 1980
        entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        with out.open("rb") as source, archive.open(entry, "w", force_zip64=out.stat().st_size > 2**31) as target:
            while block := source.read(2**20):
                target.write(block)


def zip_file(out: Path) -> Path:
    return _beside(out, ".zip")


def errors_file(out: Path) -> Path:
    return _beside(out, ".errors.csv")


def _beside(out: Path, suffix: str) -> Path:
    "p.errors.csv beside p.csv, and p.json.errors.csv beside p.json: two tables have two of them."
    return out.with_name((out.stem if out.suffix.lower() == ".csv" else out.name) + suffix)


def write_errors(out: Path, unread: Unread) -> None:
    "The photos that can't be read, in a file beside `out`; an earlier run's goes where there are none."
    path = errors_file(out)
    if not unread:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as beside, _open_csv(beside) as file:
        table = csv_writer(file, has_return(str(cell) for cells in unread for cell in cells))
        table.writerows([("image_name", "file", "reason"), *unread])


def read_errors(out: Path) -> Unread:
    path = errors_file(out)
    return [(name, Path(file), reason) for name, file, reason in read_csv(path)[1:]] if path.exists() else []


def _open_csv(path: Path, mode: str = "w", encoding: str = "utf-8"):
    "Open a CSV file; a file name that is not UTF-8 keeps its bytes."
    return path.open(mode, newline="", encoding=encoding, errors="surrogateescape")


def read_csv(path: Path) -> list[list[str]]:
    with _open_csv(path, "r", "utf-8-sig") as file:
        return list(csv.reader(file))
