"""The journal of a prediction run, FILE.partial beside its output: a run that was killed continues from it.

Lines of JSON, so that a kill at any moment costs at most a part of the last line:
    the settings   {"model": sha256 of the file, "device": ..., ..., "images": how many}
    each photo     [image_name, path], in the order of the rows
    each row       [image_name, labels, figures, bytes of the photo's file, reason, features], see `Row`
Settings and photos are written at once or not at all. Rows are appended a batch at a time, and synced every 5 seconds.
"""

import base64
import glob
import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import Timeout

from export.predictions.inputs import Named
from export.runtime.batch_size import checked_bs
from toolkit.files import file_lock, replacing

SYNCED_EVERY = 5.0
"Seconds after which rows survive a power cut. They survive a kill after each batch."


class Row(NamedTuple):
    "The outcome of one photo."

    name: str
    labels: list[str]
    "Class names, the most likely first; empty if the photo can't be read. See `export.predictions.unsure` too."
    figures: str
    "float32, little-endian, base64: 0.1 s for 10^6 of them; text takes 2 s."
    size: int | None
    "Bytes of its file, after it was read."
    reason: str | None
    "The reason why it can't be read, or None."
    features: str = ""
    "As the figures, with --features; else empty."


def packed(figures: np.ndarray) -> str:
    "Figures as `Row.figures` holds them."
    return base64.b64encode(np.asarray(figures, "<f4").tobytes()).decode()


def unpacked(figures: str) -> np.ndarray:
    "float32 [n] of `Row.figures`."
    return np.frombuffer(base64.b64decode(figures), "<f4")


def partial_of(out: Path) -> Path:
    "The path of the journal of a run to `out`."
    return out.with_name(f"{out.name}.partial")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock `path`, a journal or another file that is written, for this process.

    The system releases the lock however the process ends.
    Raises FileExistsError if another process holds it, OSError if its folder can't be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = file_lock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FileExistsError(f"{path} is being written by another process: give another --out, or wait") from error
    try:
        yield
    finally:
        if os.name != "nt":  # on Windows filelock removes it
            os.unlink(lock.lock_file)
        lock.release()


def clear_half_written(paths: list[Path]) -> None:
    "Remove what `replacing` had half written beside these files when it was killed. The caller holds their lock."
    for path in (Path(os.path.realpath(each)) for each in paths):
        for beside in path.parent.glob(f".{glob.escape(path.name)}.*"):
            if re.fullmatch(r"[a-z0-9_]{8}", beside.name.removeprefix(f".{path.name}.")):
                beside.unlink()


def begin(path: Path, settings: dict, photos: Named) -> None:
    "Write a journal without rows; it replaces an earlier one."
    with replacing(path) as beside, beside.open("w", encoding="ascii") as file:
        file.write(json.dumps({**settings, "images": len(photos)}) + "\n")
        file.writelines(json.dumps([name, str(photo)]) + "\n" for name, photo in photos)


def read_head(path: Path) -> tuple[dict, Named]:
    "The settings and the photos. Raises ValueError if `path` is no journal."
    try:
        with path.open("rb") as file:
            settings = json.loads(next(file))
            count = settings.pop("images")
            pairs = [json.loads(line) for line in itertools.islice(file, count)]
            photos = [(name, Path(photo)) for name, photo in pairs]
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
        raise _not_ours(path) from error
    return settings, photos


def read_bs(path: Path) -> int:
    "The batch size. Raises ValueError if `path` is no journal."
    try:
        with path.open("rb") as file:
            return checked_bs(json.loads(next(file))["--bs"])
    except (ValueError, TypeError, KeyError, StopIteration) as error:
        raise _not_ours(path) from error


def _not_ours(path: Path) -> ValueError:
    return ValueError(f"{path} was not written by this version: remove it, or leave out --resume")


def rows(path: Path) -> Iterator[Row]:
    "Yield each whole row, in order."
    return (row for row, _ in _rows_and_ends(path))


def cut(path: Path, bs: int) -> int:
    """Truncate the journal after its last whole batch; return how many rows are left.

    Batches then start where those of an unbroken run do: the last bit of a probability may depend on the batch.
    """
    total, (kept, end) = _size(path), (0, _head_length(path))
    for count, (_, row_end) in enumerate(_rows_and_ends(path), 1):
        if count % bs == 0 or count == total:
            kept, end = count, row_end
    with path.open("r+b") as file:
        file.truncate(end)
    return kept


def extended(path: Path, rows: Iterator[Row], bs: int) -> Iterator[Row]:
    """Append the rows, `bs` at a time, and yield them afterwards.

    Raises OSError, naming the journal, if it can't be appended to, as on a full disk.
    """
    synced = time.monotonic()
    try:
        with path.open("ab") as file:
            while batch := list(itertools.islice(rows, bs)):
                file.write(b"".join(json.dumps(row).encode() + b"\n" for row in batch))
                file.flush()
                if time.monotonic() - synced > SYNCED_EVERY:
                    os.fsync(file.fileno())
                    synced = time.monotonic()
                yield from batch
    except OSError as error:
        if error.errno is not None:  # else it is a message of ours, from `rows`
            error.filename = error.filename or str(path)
        raise


def _size(path: Path) -> int:
    "The number of photos."
    with path.open("rb") as file:
        return json.loads(next(file))["images"]


def _head_length(path: Path) -> int:
    "Bytes before the first row."
    with path.open("rb") as file:
        return sum(map(len, itertools.islice(file, 1 + _size(path))))


def _rows_and_ends(path: Path) -> Iterator[tuple[Row, int]]:
    "Each row and the offset of its end, up to the first row that is not whole: a power cut may leave several."
    end = _head_length(path)
    with path.open("rb") as photos, path.open("rb") as lines:
        next(photos)
        lines.seek(end)
        for photo, line in zip(itertools.islice(photos, _size(path)), lines, strict=False):
            end += len(line)
            if (row := _row(line)) is None or row.name != json.loads(photo.decode())[0]:
                return
            yield row, end


def _row(line: bytes) -> Row | None:
    "The row of a line; None if the line is not whole."
    try:  # json.loads takes bytes too, but guessing the encoding is a quarter of its time
        return Row(*json.loads(line.decode())) if line.endswith(b"\n") else None
    except (ValueError, TypeError):
        return None
