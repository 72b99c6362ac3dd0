"""Files written whole or not at all, and strict JSON and CSV read back."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    pass


def target_of(path: Path) -> Path:
    """The file that is written for `path`: the one a symbolic link leads to, else `path` itself; it may be new.

    Raises IsADirectoryError or FileExistsError if something else is there: a device or a pipe would be lost.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file")
    if os.path.lexists(target) and not target.is_file():  # a link is still one here if it leads to itself
        raise FileExistsError(f"{path} is no regular file, and would be replaced by one: give another name")
    return target


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; after the block it is flushed to disk and takes the name `path` at once.

    A symbolic link stays, and the file that it leads to is replaced. If the block raises, `path` is as it was and the
    temporary file gone. Raises OSError (disk full, read-only folder) and as `target_of` does.
    """
    path = target_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(beside)):  # a full disk says so without a name
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def file_lock(path: Path, **options: Any) -> FileLock:
    """filelock's lock of the file `path`, which is made first: one that it can't make it takes for another's.

    Raises OSError where it can't be made. options: filelock's.
    """
    try:
        path.touch()
    except OSError as error:
        raise type(error)(f"{path.parent} can't be written to ({error.strerror}): give another folder") from error
    return FileLock(path, **options)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    "A rename is on disk only when its folder is; Windows cannot open a folder and needs no such thing."
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`, whole or not at all. Text is written as UTF-8 with its newlines as they are; a file
    name in it that is not UTF-8 keeps its bytes.
    """
    with replacing(path) as beside:
        beside.write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    "Write `value` as indented JSON, whole or not at all. Raises ValueError for NaN and infinity, which are not JSON."
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # of a file name that is not UTF-8: escapes keep it
        text = json.dumps(value, indent=2, allow_nan=False)
    write_atomic(path, text + "\n")


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    "Write a CSV, whole or not at all, as Python's csv module reads it back."
    table, text = [list(row) for row in (header, *rows)], io.StringIO()
    # Python 3.11 leaves a lone carriage return unquoted, and then can't read it back
    quoting = csv.QUOTE_ALL if any("\r" in str(cell) for row in table for cell in row) else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(table)
    write_atomic(path, text.getvalue())


def parse_json(text: str) -> Any:
    """The value of `text`. Raises ValueError where it is not JSON (https://www.rfc-editor.org/rfc/rfc8259), or holds a
    number that is no float64 or int64, or more than DEPTH levels.
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


DEPTH = 20  # of our own files at most 5


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
    """Rows of a CSV, its header first. Raises ValueError where it is none, or a row is not of the header's length.

    A file name that is not UTF-8 keeps its bytes as Python's file functions take them.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.reader(file, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV ({error}): restore it, or start a new run") from error
    if not rows or rows[0] != header or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path} is not a table of {','.join(header)}: restore it, or start a new run")
    return rows
