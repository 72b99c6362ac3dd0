"""Photo files: find them below a folder, sort their names, read their bytes, notice their changes."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

MAX_PIXELS = 178_956_970
"""The most pixels, height times width, that are decoded: Pillow's limit against decompression bombs; 512 MiB as RGB."""

MAX_BYTES = 8 * MAX_PIXELS
"""The largest file that is opened: MAX_PIXELS of four channels of 16 bits, uncompressed."""

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .j2k".split()
)
"""The suffixes, in lower or upper case, of the files that `find_photos` returns."""

NO_SUFFIX, BROKEN = "no suffix", "broken link"
UNSUPPORTED = frozenset(".heic .heif .jxl .svg .psd .raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .tga .exr .ico".split())
"Suffixes of photos that are not read."

OF_SYSTEMS = ("thumbs.db", "desktop.ini")
"Files that Windows puts beside photos."


def root_of(data: str | Path) -> Path:
    "The folder that the names of a data set's files are relative to. data: its folder, or its CSV."
    path = Path(data)
    return path.parent if path.is_file() else path


def find_photos(root: str | Path) -> list[Path]:
    """Every file below `root` with one of SUFFIXES, in natural order of its path relative to `root`.

    Names that start with a dot are left out, folders too. Linked folders are followed, but not back into themselves.
    Raises FileNotFoundError or NotADirectoryError if `root` is no folder.
    """
    root = Path(root)
    return [root / name for name in sorted(photo_names(root), key=natural_key)]


def photo_names(root: Path) -> Iterator[str]:
    "The paths of `find_photos`, relative to `root`, with slashes, in any order. They are text: a Path costs more."
    return (name for name, entry in _entries_below(os.fspath(root), "", ()) if _is_photo(entry))


def other_files(root: Path) -> list[str]:
    "The files below `root` that `photo_names` leaves out, in natural order, without hidden ones."
    names = (name for name, entry in _entries_below(os.fspath(root), "", ()) if not _is_photo(entry))
    return sorted((name for name in names if name.rpartition("/")[2].lower() not in OF_SYSTEMS), key=natural_key)


def unsupported(root: Path) -> list[str]:
    "Those of `other_files` that may be photos: of a format that is not read, without a suffix, or links to nothing."
    return [name for name in other_files(root) if _kind(root / name) in UNSUPPORTED | {NO_SUFFIX, BROKEN}]


def by_kind(root: Path, names: Iterable[str]) -> str:
    "Words on how many of these files there are of each kind: a suffix, none, or a link that leads nowhere."
    kinds = Counter(_kind(root / name) for name in names)
    return ", ".join(f"{kind}: {count}" for kind, count in kinds.most_common())


def natural_key(text: str) -> tuple:
    'Sort key that puts "2" before "10", folder by folder: runs of digits compare as numbers, all else as text.'
    return [_numbers_apart(part) for part in text.split("/")], text  # the text settles ties such as "01" and "1"


def file_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises FileNotFoundError if there is none, ValueError if it is too large, can't be read or is not a regular file.
    """
    if not path.is_file():  # reading a named pipe would wait for ever
        if path.exists():
            raise ValueError(f"{path}: not a file, where one photo is needed")
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{path}: not a readable photo ({size:,} bytes; at most {MAX_BYTES:,} are read)")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror})") from error


def file_states(paths: Iterable[Path]) -> bytes:
    "SHA-256 of each file's path, size and times: it changes when one of them is written, replaced or moved."
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        line = f"{path.absolute()}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n"
        digest.update(line.encode(errors="surrogatepass"))  # a file's name need not be Unicode
    return digest.digest()


def _numbers_apart(part: str) -> list[str | int]:
    pieces: list[str | int] = re.split("([0-9]+)", part)
    pieces[1::2] = [int(digits[:4000]) for digits in pieces[1::2]]  # Python refuses more than 4,300
    return pieces


def _kind(path: Path) -> str:
    return (path.suffix.lower() or NO_SUFFIX) if path.exists() else BROKEN


def _is_photo(entry: os.DirEntry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file()


def _entries_below(folder: str, before: str, above: tuple[str, ...]) -> Iterator[tuple[str, os.DirEntry]]:
    """The files below `folder`, with their names, each with `before` in front. above: the real paths of the folders
    that it is in.
    """
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _entries_below(entry.path, f"{before}{entry.name}/", (*above, real))
            else:
                yield before + entry.name, entry
