"""The folder of unpacked data sets: each source once, whole or not at all.

$XDG_CACHE_HOME/rapid-finetune/data/NAME-KEY/    (by default below ~/.cache) the photos of one source
    .unpacked.json                               the source, and the number and bytes of its photos

KEY changes if a file of the source is changed, replaced or moved. A folder in which photos are missing or changed in
size is made again. Nothing refers to these folders but recipe.json, which names the source too: they may be deleted.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastcore.xdg import xdg_cache_home
from filelock import Timeout
from tqdm import tqdm

from toolkit import ranks
from toolkit.data.on_disk.free_space import KEPT_FREE
from toolkit.data.on_disk.photo_files import file_states, photo_names
from toolkit.data.sources.columns import Columns
from toolkit.files import file_lock, read_json, size_text, write_json

ABOUT, TABLE = ".unpacked.json", "photos.csv"
VERSION = 1  # of how sources are unpacked
MOVE = "set XDG_CACHE_HOME to another folder"


class Unpacking:
    "A new folder that photos are written into, as long as its disk has room for them."

    def __init__(self, given: str, folder: Path):
        self.given, self.folder = given, folder
        disk = shutil.disk_usage(folder.parent)
        self.room = max(disk.free - int(disk.total * KEPT_FREE), 0)
        self.photos = self.bytes = 0
        self.made: set[Path] = set()
        silent = not (sys.stderr and sys.stderr.isatty())
        self.bar = tqdm(desc="unpacking", unit=" photos", disable=silent, leave=False)

    def expect(self, size: int) -> None:
        "Raise OSError if the disk has no room for `size` bytes of photos."
        if size > self.room:
            raise OSError(
                f"{self.given}: its photos take {size_text(size)}, and {size_text(self.room)} are free for "
                f"them in {self.folder.parent} (5 % of the disk stay free): {MOVE}, on a larger disk"
            )

    def make_folder(self, name: str) -> Path:
        "Make the folder `name`, relative to the new one, if it is missing; return its path."
        folder = self.folder / name
        if folder not in self.made:
            folder.mkdir(parents=True, exist_ok=True)
            self.made.add(folder)
        return folder

    def add(self, name: str, content: Iterable[bytes]) -> None:
        "Write a photo to `name`, a new file relative to the new folder. Raises OSError if there is no room for it."
        before, _, last = name.rpartition("/")
        with (self.make_folder(before) / last).open("xb") as file:
            for piece in content:
                self.bytes += len(piece)
                self.expect(self.bytes)
                file.write(piece)
        self.photos += 1
        self.bar.update()


@ranks.first_here()
def unpacked(
    given: str, files: Sequence[Path], name: str, write: Callable[[Unpacking], None], columns: Columns | None = None
) -> Path:
    """Return the folder, or the CSV in it, of the photos of a source: as it is, or written now.

    given: the source, for messages. files: the files it consists of. write: writes its photos.
    """
    key = hashlib.sha256(f"{VERSION} {tuple(columns or ())}".encode() + file_states(files)).hexdigest()[:16]
    folder = _cache_folder() / f"{name[:60].lstrip('.') or 'data'}-{key}"
    if not _is_whole(folder):
        with _locked(given, folder):
            if not _is_whole(folder):  # another process may have written it meanwhile
                _write(given, folder, write)
    return folder / TABLE if (folder / TABLE).is_file() else folder


def _cache_folder() -> Path:
    try:
        return xdg_cache_home() / "rapid-finetune" / "data"
    except RuntimeError as error:  # the system does not know this user, as in a container
        raise OSError(f"this user has no home folder to unpack a data set into: {MOVE}") from error


def _is_whole(folder: Path) -> bool:
    "True if all photos that were unpacked into `folder` are there, by their number and bytes."
    about = _about(folder)
    if about is None:
        return False
    sizes = [(folder / name).stat().st_size for name in photo_names(folder)]
    return (len(sizes), sum(sizes)) == (about.get("photos"), about.get("bytes"))


def _about(folder: Path) -> dict | None:
    "The content of .unpacked.json; None if it is missing or damaged."
    try:
        about = read_json(folder / ABOUT)
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


@contextmanager
def _locked(given: str, folder: Path) -> Iterator[None]:
    "Lock `folder`, which may not exist, for one process; others print that they wait."
    path = folder.with_name(f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(
            f"{given} is unpacked into {folder.parent}, which can't be written to ({reason}): {MOVE}"
        ) from (error)
    lock = file_lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process, which unpacks {given}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(given: str, folder: Path, write: Callable[[Unpacking], None]) -> None:
    "Write the photos beside `folder`, flush them to disk and rename; if that fails, nothing is left."
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    into = Unpacking(given, beside)
    try:
        beside.mkdir()
        write(into)
        if not into.photos:
            raise ValueError(f"{given} holds no photos: docs/data.md has the layouts that are read")
        write_json(beside / ABOUT, {"source": given, "photos": into.photos, "bytes": into.bytes})
        if hasattr(os, "sync"):
            os.sync()  # once for all files
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk says so without a name
            error.filename = str(folder.parent)
        raise
    finally:
        into.bar.close()
        shutil.rmtree(beside, ignore_errors=True)
    print(
        f"{given}: {into.photos:,} photos, {size_text(into.bytes)}, unpacked into {folder}", file=sys.stderr, flush=True
    )
