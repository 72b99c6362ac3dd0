"""Files that are written whole or not at all, locks, and strict JSON and CSV."""

import csv
import errno
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock

FULL = {errno.ENOSPC, errno.EDQUOT}  # a full disk, which the system reports with the name of the file that is read
DEPTH = 20  # levels of a JSON file; our own have at most 5


def target_of(path: Path) -> Path:
    """The file that a write to `path` replaces: the one a symbolic link leads to, else `path` itself. It may be new.

    Raises IsADirectoryError or FileExistsError if something else is there: a device or a pipe would be lost.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file")
    if (path.exists() or os.path.lexists(target)) and not path.is_file():  # or a link to itself
        raise FileExistsError(f"{path} is no regular file, and would be replaced by one: give another name")
    return target


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`. After the block the file is flushed to disk and renamed to `path`.

    A symbolic link stays, and the file that it leads to is replaced. If the block raises, `path` is unchanged and the
    temporary file is deleted. Raises OSError (disk full, read-only folder) and as `target_of` does.
    """
    path = target_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    longest = path.name if len(os.fsencode(path.name)) <= 245 else path.name[:50]  # 255 bytes with what is added
    handle, name = tempfile.mkstemp(prefix=f".{longest}.", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except OSError as error:
        if error.errno in FULL or error.errno is not None and error.filename in (None, str(beside)):
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def file_lock(path: Path, **options: Any) -> FileLock:
    """A lock of the file `path`, by filelock, which takes a file that it can't make for locked.

    options: filelock's. Raises OSError if the file can't be made. It is not made here: on a disk without locks, such as
    some network file systems, filelock locks by the file's presence.
    """
    try:
        path.touch() if path.exists() else tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise type(error)(f"{path.parent} can't be written to ({error.strerror}): give another folder") from error
    return FileLock(path, **options)


def size_text(count: int) -> str:
    "A number of bytes in GB or MB."
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    "Flush a folder to disk, which a rename needs to be safe. Windows can't open a folder and does not need it."
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`, whole or not at all.

    Text is written as UTF-8, its newlines unchanged. File names in it that are not UTF-8 keep their bytes.
    """
    with replacing(path) as beside:
        beside.write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    "Write `value` as indented JSON, whole or not at all. Raises ValueError for NaN and infinity, which are not JSON."
    write_atomic(path, json_text(value, indent=2) + "\n")


def json_text(value: Any, indent: int | None = None) -> str:
    "`value` as JSON that is Unicode text. Raises ValueError for NaN and infinity, which are not JSON."
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    if not is_unicode(text):  # escapes keep it
        text = json.dumps(value, indent=indent, allow_nan=False)
    return text


def is_unicode(text: str) -> bool:
    "False if the text holds letters of a file name that is not UTF-8."
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    "Write a CSV, whole or not at all, as Python's csv module reads it back."
    write_atomic(path, csv_text(header, rows))


def csv_text(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    "The text of a CSV, with \\n at the end of each line."
    table, text = [list(row) for row in (header, *rows)], io.StringIO()
    csv_writer(text, has_return(str(cell) for row in table for cell in row)).writerows(table)
    return text.getvalue()


def csv_writer(file: TextIO, quote_all: bool) -> Any:
    "A writer of Python's csv module, with \\n at the end of each line. quote_all: see `has_return`."
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)


def has_return(cells: Iterable[str]) -> bool:
    "True if all cells must be quoted: Python 3.11 leaves a lone carriage return bare, and then can't read it back."
    return any("\r" in cell for cell in cells)


def parse_json(text: str) -> Any:
    """The value of JSON `text`, by https://www.rfc-editor.org/rfc/rfc8259.

    Raises ValueError if it is not JSON, has a number that is no finite float64 or int64, or more than DEPTH levels.
    """
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_int64)
    except RecursionError as error:
        raise ValueError(f"nested more than {DEPTH} deep") from error
    level = [value]
    for _ in range(DEPTH + 1):
        level = [part for whole in level if isinstance(whole, dict | list) for part in _parts(whole)]
    if level:
        raise ValueError(f"nested more than {DEPTH} deep")
    return value


def _parts(whole: dict | list) -> Iterable[Any]:
    return whole.values() if isinstance(whole, dict) else whole


def _no_number(text: str) -> float:
    raise ValueError(f"{text:.20} is no number that is read")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _no_number(text)


def _int64(text: str) -> int:
    return value if len(text) < 21 and -(2**63) <= (value := int(text)) < 2**63 else _no_number(text)


def read_json(path: Path) -> Any:
    "The content of a JSON file. Raises FileNotFoundError, or ValueError naming a file that is not JSON."
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): restore it, or start a new run") from error


def read_csv(path: Path, header: list[str]) -> list[list[str]]:
    """The rows of a CSV, with the header as the first one. File names that are not UTF-8 keep their bytes.

    Raises ValueError if it is no CSV, has another header, or a row is not of the header's length.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.reader(file, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV ({error}): restore it, or start a new run") from error
    if not rows or rows[0] != header or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path} is not a table of {','.join(header)}: restore it, or start a new run")
    return rows
