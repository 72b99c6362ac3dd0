"""Decoded photos in one memory-mapped file, which the workers and runs of a machine share: `--cache DIR`.

A photo is kept whole if a crop can need that, else reduced by libjpeg to 1/2, 1/4 or 1/8, as `read_reduced` does. For
training its shorter side keeps TRAINED * the image size or more. For validation it has the very pixels that
`read_reduced` gives `prepare`. If the two versions differ, both are kept. The file is for every photo to train or to
validate on, whichever part the seed draws it for and whichever fold holds it out.

    header    64 bytes: "photos", version; digest of what the pixels depend on; digest and offset of the index
    pixels    uint8 RGB, photo after photo
    index     int64 [photos, 8]: offset, height, width for training; the same for validation; height, width of the whole
"""

import hashlib
import shutil
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import Timeout
from tqdm import tqdm

from toolkit.data.dataset import DataSet
from toolkit.data.on_disk.free_space import check_disk_space
from toolkit.data.on_disk.layouts import check_outside_data
from toolkit.data.on_disk.photo_files import file_states
from toolkit.data.photo import decoder_digest, likely_size, read_reduced
from toolkit.data.preprocess import smallest_side
from toolkit.files import file_lock, replacing, size_text, target_of
from toolkit.machine import cores
from toolkit.threads import in_order

TRAINED = 4
"""The times the image size that a reduced photo's shorter side keeps: then a crop of 8 % of its area, the smallest that
recipes draw, is no smaller than the image. Crops of photos as sharp as pixels can be, reduced to 3.9 times it, came
within 1.07 grey levels on average of torchvision's from the whole photo; at 3.5 times within 1.17, at 3.1 1.28."""

HEADER = struct.Struct("<6sH32s8s16x")
MAGIC, VERSION = b"photos", 1


class PhotoCache:
    "An open cache: pixels by path. A copy in another process, forked or spawned, maps the same file again."

    def __init__(self, file: Path, paths: list[Path], state: bytes):
        self.file, self.state = file, state
        self.numbers = {path: number for number, path in enumerate(paths)}
        self.pixels, self.index = _open_file(file, state, len(paths))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"pixels": None, "index": None}

    def read(self, path: Path, valid: bool) -> tuple[np.ndarray, tuple[int, int]] | None:
        """Return the photo, uint8 [height, width, 3] RGB, and height and width of the whole photo; None if it is not in
        the cache. Writing to the photo changes this process alone.

        valid: the version for validation, as `read_reduced` gives it to `prepare`; else the one for training.
        """
        number = self.numbers.get(path)
        if number is None:
            return None
        if self.pixels is None:
            self.pixels, self.index = _open_file(self.file, self.state, len(self.numbers))
        row = self.index[number].tolist()
        offset, height, width = row[3:6] if valid else row[:3]
        return self.pixels[offset : offset + height * width * 3].reshape(height, width, 3), (row[6], row[7])

    def reduces(self, paths: Iterable[Path]) -> bool:
        "True if any of these photos is reduced for training."
        rows = self.index[[self.numbers[path] for path in paths]]
        return bool((rows[:, 1:3] != rows[:, 6:8]).any())


def open_cache(folder: str | Path, data: DataSet, preprocess: dict[str, Any], workers: int | None = None) -> PhotoCache:
    """Open the cache in `folder` of the photos to train and validate on, for the sizes of `preprocess`.

    It is built first, by `workers` threads (default: one per core), if there is none, or one that is damaged or of
    other photos. If another run is building it, wait. Raises ValueError for a photo that can't be read, by name, and
    for a folder in which photos are looked for; OSError if the folder can't be written to or 5 % of its disk would not
    stay free.
    """
    folder, paths = Path(folder), sorted({*data.train, *data.valid, *data.held_out})  # all folds share a cache
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--cache {folder} is a file: give a folder, on a fast disk of this machine")
    check_outside_data(data.path, {"--cache": folder})
    sides = TRAINED * preprocess["crop"], smallest_side(preprocess)
    name = hashlib.sha256(f"{data.path.resolve()} {sides}".encode(errors="surrogatepass")).hexdigest()[:16]
    file = target_of(folder / f"{name}.photos")
    state = hashlib.sha256(f"{VERSION} {sides} {decoder_digest()}".encode() + file_states(paths)).digest()
    if not (cache := _usable(file, paths, state)):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(file):
            if not (cache := _usable(file, paths, state)):  # another run may have built it meanwhile
                _build(file, paths, state, sides, workers or cores())
                cache = PhotoCache(file, paths, state)
    print(f"cache: {len(paths):,} photos, {size_text(file.stat().st_size)} in {file}", flush=True)
    return cache


def _usable(file: Path, paths: list[Path], state: bytes) -> PhotoCache | None:
    "The cache in `file`; None if there is none, and, with a line on stderr, if it can't be used."
    try:
        return PhotoCache(file, paths, state)
    except FileNotFoundError:
        return None
    except ValueError as error:
        print(f"{error}: it is built again", file=sys.stderr)
        return None


def _open_file(file: Path, state: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """All bytes of `file`, mapped, and its index. The pixels are not checked: they were on disk before it was renamed.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or of another state.
    """
    with file.open("rb") as opened:
        head = opened.read(HEADER.size)
        length = opened.seek(0, 2)
        if len(head) < HEADER.size or (parts := HEADER.unpack(head))[:2] != (MAGIC, VERSION):
            raise ValueError(f"{file} is not a cache of this version")
        if parts[2] != state:
            raise ValueError(f"{file} is of photos, or a version of the toolkit, that have changed since")
        offset = length - count * 64
        opened.seek(max(offset, 0))
        index = opened.read()
        pixels = np.asarray(np.memmap(opened, np.uint8, "c"))
    if offset < HEADER.size or _index_digest(index, offset) != parts[3]:
        raise ValueError(f"{file} is cut short or damaged")
    return pixels, np.frombuffer(index, "<i8").reshape(count, 8)


def _index_digest(index: bytes, offset: int) -> bytes:
    return hashlib.sha256(b"%d " % offset + index).digest()[:8]


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    "Lock `file` for one builder; others print that they wait. Delete what a killed builder left half written."
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
    "Write the cache. Threads are enough: decoders release Python's lock, and `readable` left out files that kill one."
    file.unlink(missing_ok=True)  # it is of no use any more, and its room may be needed
    silent = not (sys.stderr and sys.stderr.isatty())
    sizes = in_order(partial(_likely_bytes, sides=sides), paths, workers, ahead=len(paths))
    needed = sum(sizes) + HEADER.size + 64 * len(paths)
    check_disk_space(file.parent, needed, "--cache")
    free = size_text(shutil.disk_usage(file.parent).free)
    print(f"cache: photos of {size_text(needed)} are decoded into {file.parent}, {free} free", flush=True)
    photos = in_order(partial(_versions, sides=sides), paths, workers, ahead=2 * workers)
    with replacing(file) as beside, beside.open("wb") as written, closing(photos):
        _write(written, tqdm(photos, total=len(paths), disable=silent, leave=False, unit=" photos"), state)


def _write(written: BinaryIO, photos: Iterable[tuple[np.ndarray, np.ndarray, tuple[int, int]]], state: bytes) -> None:
    "Header, pixels and index; the header last."
    written.write(bytes(HEADER.size))
    rows, offset = [], HEADER.size
    for train, valid, whole in photos:
        row = []
        for version in [train] if valid is train else [train, valid]:
            row += [offset, *version.shape[:2]]
            written.write(np.ascontiguousarray(version).data)
            offset += version.size
        rows.append([*row[:3], *row[-3:], *whole])
    index = np.array(rows, "<i8").tobytes()
    written.write(index)
    written.seek(0)
    written.write(HEADER.pack(MAGIC, VERSION, state, _index_digest(index, offset)))


def _versions(path: Path, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    "The photo for training, for validation (the same array if they are equal), and the height and width of the whole."
    train, whole = read_reduced(path, sides[0])
    if min(train.shape[:2]) < 2 * sides[1]:  # not to be reduced further
        return train, train, whole
    valid, _ = read_reduced(path, sides[1])
    return train, train if valid.shape == train.shape else valid, whole


def _likely_bytes(path: Path, sides: tuple[int, int]) -> int:
    sizes = {likely_size(path, side) for side in sides}
    return sum(height * width * 3 for height, width in sizes)
