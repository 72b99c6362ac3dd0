"""What a prediction run has done so far, in FILE.partial beside its output; a run that was killed goes on from it.

Lines of JSON, so that a kill at any moment costs a part of the last line:
    what was asked for   {"model": sha256 of the file, "device": ..., ..., "images": how many}
    each photo           [image_name, path], in the order of the rows
    each row             [image_name, labels, figures, bytes of the photo's file, reason], see `Row`
All but the rows is there at once or not at all. Rows are appended a batch at a time, and on disk 5 seconds later.
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
"Seconds after which rows are safe from a power cut; from a kill they are after each batch."


class Row(NamedTuple):
    "What became of one photo."

    name: str
    labels: list[str]
    "Class names, the likeliest first; none where the photo can't be read."
    figures: str
    "float32, little-endian, base64: 0.1 s for 10^6 of them, where text takes 2."
    size: int | None
    "Of its file, in bytes, after it was read."
    reason: str | None
    "Why it can't be read."


def packed(figures: np.ndarray) -> str:
    return base64.b64encode(np.asarray(figures, "<f4").tobytes()).decode()


def unpacked(figures: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(figures), "<f4")


def partial_of(out: Path) -> Path:
    "Where the journal of a run to `out` stands."
    return out.with_name(f"{out.name}.partial")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds `path`, a journal or another file that is written, for this process alone.

    The system lets go of it however the process ends.
    Raises FileExistsError where another process holds it, OSError where its folder can't be written to.
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
        if os.name != "nt":  # where filelock does so
            os.unlink(lock.lock_file)
        lock.release()


def clear_half_written(paths: list[Path]) -> None:
    "What `replacing` was writing beside these files when it was killed; for whoever holds them or their journal."
    for path in (Path(os.path.realpath(each)) for each in paths):
        for beside in path.parent.glob(f".{glob.escape(path.name)}.*"):
            if re.fullmatch(r"[a-z0-9_]{8}", beside.name.removeprefix(f".{path.name}.")):
                beside.unlink()


def begin(path: Path, asked: dict, photos: Named) -> None:
    "A journal without rows, in place of any earlier one."
    with replacing(path) as beside, beside.open("w", encoding="ascii") as file:
        file.write(json.dumps({**asked, "images": len(photos)}) + "\n")
        file.writelines(json.dumps([name, str(photo)]) + "\n" for name, photo in photos)


def read_head(path: Path) -> tuple[dict, Named]:
    "What was asked for, and the photos. Raises ValueError where `path` is no journal."
    try:
        with path.open("rb") as file:
            asked = json.loads(next(file))
            count = asked.pop("images")
            pairs = [json.loads(line) for line in itertools.islice(file, count)]
            photos = [(name, Path(photo)) for name, photo in pairs]
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
        raise _not_ours(path) from error
    return asked, photos


def read_bs(path: Path) -> int:
    "How many images a batch has. Raises ValueError where `path` is no journal."
    try:
        with path.open("rb") as file:
            return checked_bs(json.loads(next(file))["--bs"])
    except (ValueError, TypeError, KeyError, StopIteration) as error:
        raise _not_ours(path) from error


def _not_ours(path: Path) -> ValueError:
    return ValueError(f"{path} was not begun by this version: remove it, or leave out --resume")


def rows(path: Path) -> Iterator[Row]:
    "Each whole row, in order."
    return (row for row, _ in _rows_and_ends(path))


def cut(path: Path, bs: int) -> int:
    """Cuts the journal off after its last whole batch, and tells how many rows it has then.

    Batches begin where those of an unbroken run do: what a model computes may depend, in the last bit, on the batch.
    """
    total, (kept, end) = _size(path), (0, _head_length(path))
    for count, (_, row_end) in enumerate(_rows_and_ends(path), 1):
        if count % bs == 0 or count == total:
            kept, end = count, row_end
    with path.open("r+b") as file:
        file.truncate(end)
    return kept


def extended(path: Path, rows: Iterator[Row], bs: int) -> Iterator[Row]:
    """Appends the rows, `bs` at a time, and then gives them.

    Raises OSError, naming the journal, where it can't append: the disk is full.
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
        if error.errno is not None:  # of the system; else it is a message of ours, from `rows`
            error.filename = error.filename or str(path)
        raise


def _size(path: Path) -> int:
    with path.open("rb") as file:
        return json.loads(next(file))["images"]


def _head_length(path: Path) -> int:
    with path.open("rb") as file:
        return sum(map(len, itertools.islice(file, 1 + _size(path))))


def _rows_and_ends(path: Path) -> Iterator[tuple[Row, int]]:
    "Each row with where it ends in the file, up to the first that is not whole: a power cut may leave more than one."
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
    try:  # json.loads takes bytes too, but tries their encodings: a quarter of its time
        return Row(*json.loads(line.decode())) if line.endswith(b"\n") else None
    except (ValueError, TypeError):
        return None
