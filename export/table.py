"The table of predictions and the one of photos that can't be read, from the rows of a journal."

import csv
from collections.abc import Iterable
from pathlib import Path

from export.journal import Row, unpacked
from toolkit.run import replacing

Unread = list[tuple[str, Path, str]]
"(image_name, path, reason) of each photo that can't be read."


def columns(classes: list[str], probabilities: bool) -> list[str]:
    return ["image_name", "pred_label", *(["confidence", *classes] if probabilities else [])]


def write_table(out: Path, header: list[str], rows: Iterable[Row], quoted: bool, fallback: str) -> None:
    "The predictions: a row for each photo, the label `fallback` and the figures empty where it can't be read."
    with replacing(out) as beside, _open_csv(beside) as file:
        table = _csv_writer(file, quoted)
        table.writerow(header)
        for row in rows:
            figures = [f"{figure:.7g}" for figure in unpacked(row.figures).tolist()] or [""] * (len(header) - 2)
            table.writerow([row.name, *(row.labels or [fallback]), *figures])


def read_names(out: Path) -> tuple[list[str], list[str]]:
    "The header of a table of predictions, and the first cell of each row."
    header, *rows = _read_csv(out) or [[]]
    return header, [row[0] for row in rows]


def errors_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}.errors.csv")


def write_errors(out: Path, unread: Unread) -> None:
    "The photos that can't be read, in a file beside `out`; an earlier run's goes where there are none."
    path = errors_file(out)
    if not unread:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as beside, _open_csv(beside) as file:
        table = _csv_writer(file, has_return(str(cell) for cells in unread for cell in cells))
        table.writerows([("image_name", "file", "reason"), *unread])


def read_errors(out: Path) -> Unread:
    path = errors_file(out)
    return [(name, Path(file), reason) for name, file, reason in _read_csv(path)[1:]] if path.exists() else []


def has_return(cells: Iterable[str]) -> bool:
    "Whether all cells must be quoted: Python 3.11 leaves a lone carriage return bare, and then can't read it back."
    return any("\r" in cell for cell in cells)


def _csv_writer(file, quoted: bool):
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)


def _open_csv(path: Path, mode: str = "w"):
    "A file name that is not UTF-8 keeps its bytes."
    return path.open(mode, newline="", encoding="utf-8", errors="surrogateescape")


def _read_csv(path: Path) -> list[list[str]]:
    with _open_csv(path, "r") as file:
        return list(csv.reader(file))
