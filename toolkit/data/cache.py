"""Decoded photos in one memory-mapped file, which the workers and runs of a machine share: `--cache DIR`.

A photo is kept whole where a crop can need that, else reduced by libjpeg to 1/2, 1/4 or 1/8, as `read_reduced` reduces:
to train with a shorter side of TRAINED * the image size or more, and to validate to the very pixels that `read_reduced`
gives `prepare`. Where these are two versions of a photo, both are kept. The file is for every photo to train or to
validate on, whichever part a seed draws it for.

    header    64 bytes: "photos", version; digest of what the pixels follow from; digest and place of the index
    pixels    uint8 RGB, photo after photo
    index     int64 [photos, 8]: place, height, width to train on; the same to validate; height and width of the whole
"""

import hashlib
import shutil
import struct
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import PIL
from filelock import Timeout
from tqdm import tqdm

import toolkit.data.photo
from toolkit.data.dataset import DataSet
from toolkit.data.decode_check import cores
from toolkit.data.layouts import check_outside_data
from toolkit.data.photo import likely_size, read_reduced
from toolkit.data.preprocess import smallest_side
from toolkit.files import file_lock, replacing, target_of

TRAINED = 4
"""The times the image size that a reduced photo's shorter side keeps: then a crop of 8 % of its area, the smallest that
recipes draw, is no smaller than the image. Crops of photos as sharp as pixels can be, reduced to 3.9 times it, came
within 1.07 grey levels on average of torchvision's from the whole photo; at 3.5 times within 1.17, at 3.1 1.28."""

KEPT_FREE = 0.05  # of the disk
HEADER = struct.Struct("<6sH32s8s16x")
MAGIC, VERSION = b"photos", 1


class PhotoCache:
    "An open cache: pixels by path. A copy in another process, forked or spawned, maps the same file again."

    def __init__(self, file: Path, paths: list[Path], state: bytes):
        self.file, self.state = file, state
        self.numbers = {path: number for number, path in enumerate(paths)}
        self.pixels, self.index = _opened(file, state, len(paths))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"pixels": None, "index": None}

    def read(self, path: Path, valid: bool) -> tuple[np.ndarray, tuple[int, int]] | None:
        """The photo, uint8 [height, width, 3] RGB (writing to it changes this process alone), and the height and width
        of the whole of it; None where it is not in the cache.
        valid: as `read_reduced` gives it for `prepare`; else to train on.
        """
        number = self.numbers.get(path)
        if number is None:
            return None
        if self.pixels is None:
            self.pixels, self.index = _opened(self.file, self.state, len(self.numbers))
        row = self.index[number].tolist()
        place, height, width = row[3:6] if valid else row[:3]
        return self.pixels[place : place + height * width * 3].reshape(height, width, 3), (row[6], row[7])

    def reduces(self, paths: Iterable[Path]) -> bool:
        "Whether any of these photos is reduced to train on."
        rows = self.index[[self.numbers[path] for path in paths]]
        return bool((rows[:, 1:3] != rows[:, 6:8]).any())


def open_cache(folder: str | Path, data: DataSet, preprocess: dict[str, Any], workers: int | None = None) -> PhotoCache:
    """The cache in `folder` of the photos to train and validate on, at that size; built first where there is none, or
    one that is damaged or of other photos, by `workers` threads (default: one a core).

    Where another run is building it, this one waits. Raises ValueError, naming the file, for a photo that can't be
    read, and for a folder in which photos are looked for; OSError where the folder can't be written or 5 % of its disk
    would not stay free.
    """
    folder, paths = Path(folder), sorted({*data.train, *data.valid})
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--cache {folder} is a file: give a folder, on a fast disk of this machine")
    check_outside_data(data.path, {"--cache": folder})
    sides = TRAINED * preprocess["crop"], smallest_side(preprocess)
    name = hashlib.sha256(f"{data.path.resolve()} {sides}".encode(errors="surrogatepass")).hexdigest()[:16]
    file, state = target_of(folder / f"{name}.photos"), _state(paths, sides)
    if not (cache := _usable(file, paths, state)):
        folder.mkdir(parents=True, exist_ok=True)
        with _held(file):
            if not (cache := _usable(file, paths, state)):  # another run may have built it meanwhile
                _build(file, paths, state, sides, workers or cores())
                cache = PhotoCache(file, paths, state)
    print(f"cache: {len(paths):,} photos, {_size(file.stat().st_size)} in {file}", flush=True)
    return cache


def _state(paths: list[Path], sides: tuple[int, int]) -> bytes:
    "SHA-256 of all that the file follows from: another when a photo, the sizes, the decoders or our reader change."
    digest = hashlib.sha256(f"{VERSION} {sides} {cv2.__version__} {PIL.__version__}".encode())
    digest.update(Path(toolkit.data.photo.__file__).read_bytes())
    for path in paths:
        stat = path.stat()
        line = f"{path.absolute()}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n"
        digest.update(line.encode(errors="surrogatepass"))
    return digest.digest()


def _usable(file: Path, paths: list[Path], state: bytes) -> PhotoCache | None:
    "The cache in `file`; None, with a line on stderr, for one not to be used, and None where there is none."
    try:
        return PhotoCache(file, paths, state)
    except FileNotFoundError:
        return None
    except ValueError as error:
        print(f"{error}: it is built again", file=sys.stderr)
        return None


def _opened(file: Path, state: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """All bytes of `file`, mapped, and its index. Raises FileNotFoundError where there is none, ValueError where it is
    damaged or not of this state. The pixels themselves are not gone through: it was renamed once they were on disk.
    """
    with file.open("rb") as opened:
        head = opened.read(HEADER.size)
        length = opened.seek(0, 2)
        if len(head) < HEADER.size or (parts := HEADER.unpack(head))[:2] != (MAGIC, VERSION):
            raise ValueError(f"{file} is not a cache of this version")
        if parts[2] != state:
            raise ValueError(f"{file} is of photos, or a version of the toolkit, that have changed since")
        place = length - count * 64
        opened.seek(max(place, 0))
        index = opened.read()
        pixels = np.asarray(np.memmap(opened, np.uint8, "c"))
    if place < HEADER.size or _digest(index, place) != parts[3]:
        raise ValueError(f"{file} is cut short or damaged")
    return pixels, np.frombuffer(index, "<i8").reshape(count, 8)


def _digest(index: bytes, place: int) -> bytes:
    "Of an index and where it stands, which is where the pixels end."
    return hashlib.sha256(b"%d " % place + index).digest()[:8]


@contextmanager
def _held(file: Path) -> Iterator[None]:
    "Hold `file` for one builder; another waits, saying so. What a killed one left half written is cleared."
    lock = file_lock(file.with_name(f".{file.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"cache: waiting for another run, which builds {file}", flush=True)
        lock.acquire()
    try:
        for left in file.parent.glob(f".{file.name}.{'?' * 8}"):
            left.unlink()
        yield
    finally:
        lock.release()


def _build(file: Path, paths: list[Path], state: bytes, sides: tuple[int, int], workers: int) -> None:
    "Write the cache. Threads will do: decoders run beside one another, and `readable` left out files that kill one."
    file.unlink(missing_ok=True)  # of no use any more, and its room may be needed
    silent = not (sys.stderr and sys.stderr.isatty())
    pool = ThreadPoolExecutor(workers)
    try:
        _check_room(file, sum(pool.map(partial(_likely_bytes, sides=sides), paths)) + HEADER.size + 64 * len(paths))
        with replacing(file) as beside, beside.open("wb") as written:
            photos = _in_order(pool, partial(_versions, sides=sides), paths, ahead=2 * workers)
            _write(written, tqdm(photos, total=len(paths), disable=silent, leave=False, unit=" photos"), state)
    finally:
        pool.shutdown(cancel_futures=True)


def _write(written: BinaryIO, photos: Iterable[tuple[np.ndarray, np.ndarray, tuple[int, int]]], state: bytes) -> None:
    "Header, pixels and index; the header last."
    written.write(bytes(HEADER.size))
    rows, place = [], HEADER.size
    for train, valid, whole in photos:
        row = []
        for version in [train] if valid is train else [train, valid]:
            row += [place, *version.shape[:2]]
            written.write(np.ascontiguousarray(version).data)
            place += version.size
        rows.append([*row[:3], *row[-3:], *whole])
    index = np.array(rows, "<i8").tobytes()
    written.write(index)
    written.seek(0)
    written.write(HEADER.pack(MAGIC, VERSION, state, _digest(index, place)))


def _versions(path: Path, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    "The photo to train on, to validate on (the same array where it is the same), and its whole height and width."
    train, whole = read_reduced(path, sides[0])
    if min(train.shape[:2]) < 2 * sides[1]:  # not to be reduced further
        return train, train, whole
    valid, _ = read_reduced(path, sides[1])
    return train, train if valid.shape == train.shape else valid, whole


def _likely_bytes(path: Path, sides: tuple[int, int]) -> int:
    sizes = {likely_size(path, side) for side in sides}
    return sum(height * width * 3 for height, width in sizes)


def _in_order(pool: ThreadPoolExecutor, function: Any, items: Iterable[Any], ahead: int) -> Iterator[Any]:
    "What `function` gives for each of `items`, at most `ahead` of them waiting: a slow disk must not fill the memory."
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _check_room(file: Path, needed: int) -> None:
    disk = shutil.disk_usage(file.parent)
    kept = int(disk.total * KEPT_FREE)
    if needed > disk.free - kept:
        raise OSError(
            f"--cache {file.parent}: the photos take {_size(needed)}, {_size(disk.free)} are free there and "
            f"{_size(kept)} (5 % of the disk) stay so; give a folder on a larger disk, or leave --cache out"
        )
    print(f"cache: photos of {_size(needed)} are decoded into {file.parent}, {_size(disk.free)} free", flush=True)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
