"""A zip of photos in folders, from anyone: unpacked only if none of its names leads elsewhere or is ambiguous."""

import lzma
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from toolkit.data.on_disk.labels_csv import SPLITS
from toolkit.data.on_disk.photo_files import MAX_BYTES, SUFFIXES
from toolkit.data.sources.unpacked import Unpacking
from toolkit.errors import reason_of
from toolkit.files import size_text

PIECE = 2**20  # bytes in memory at once
BOMB, SMALL = 100, 10**9  # a larger zip inside is refused if it grows this many times; photos hardly do
ENCRYPTED = 1  # of an entry's flags
DEEPEST, LONGEST = 50, 255  # folders, and bytes of a name, as file systems take them

Parts = tuple[str, ...]


def unpack(path: Path, into: Unpacking) -> None:
    """Write the photos in a zip, with their folders; a single folder around them all is left out.

    Hidden names and what macOS adds are ignored, and so is what is no photo. Raises ValueError for a zip that is
    damaged, encrypted or a decompression bomb, and for an entry that is a link, leads out of the folder or has the name
    of another one.
    """
    with _reading(path), _opened(path) as archive:
        entries = {parts: entry for entry in archive.infolist() if (parts := _parts(path, entry))}
        _check_names(path, archive)
        photos = [parts for parts, entry in entries.items() if is_photo(parts, entry)]
        _check_size(path, [entries[parts] for parts in photos], into)
        inside = _inside(photos)
        for parts, entry in entries.items():
            folders = parts[inside:] if entry.is_dir() else parts[inside:-1]
            into.make_folder("/".join(folders))  # an empty class folder is found, as on disk
        for parts in photos:
            with archive.open(entries[parts]) as file:
                into.add("/".join(parts[inside:]), iter(partial(file.read, PIECE), b""))


def is_photo(parts: Parts, entry: zipfile.ZipInfo) -> bool:
    "True for a file with the suffix of a photo."
    return not entry.is_dir() and Path(parts[-1]).suffix.lower() in SUFFIXES


def _opened(path: Path) -> zipfile.ZipFile:
    "The zip. Names are UTF-8, also where it does not say so, as macOS writes it; else by the standard code page 437."
    try:
        return zipfile.ZipFile(path, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    "Raise ValueError in place of what zipfile and its decompressors raise for a zip that they can't read."
    try:
        yield
    except NotImplementedError as error:  # a method of compression, or a version of the format
        raise ValueError(
            f"{path} can't be unpacked here ({reason_of(error)}): unpack it, and give the folder"
        ) from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{path} is no zip, or damaged ({reason_of(error)}): fetch or pack it again") from error


def _parts(path: Path, entry: zipfile.ZipInfo) -> Parts:
    "The folders and the name of an entry; empty if it is to be ignored. Raises ValueError if it can't be unpacked."
    name = entry.filename.replace("\\", "/")  # as some programs on Windows separate folders
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or (parts and parts[0][1:2] == ":"):
        raise ValueError(f"{path} would write elsewhere, to {entry.filename!r:.120}: it is not unpacked")
    if len(parts) > DEEPEST or any(len(part.encode()) > LONGEST for part in parts):
        raise ValueError(f"{path} holds {entry.filename!r:.120}, too deep or long a name for a photo: pack it again")
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return ()
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f"{path} holds {entry.filename!r:.120}, a link or a device: pack the files themselves")
    if entry.flag_bits & ENCRYPTED:
        raise ValueError(f"{path} is encrypted ({entry.filename!r:.120}): unpack it, and give the folder")
    return parts


def _check_names(path: Path, archive: zipfile.ZipFile) -> None:
    "Raises ValueError if two files have one name, or if names of files or folders differ in case alone."
    entries, seen = [(parts, entry) for entry in archive.infolist() if (parts := _parts(path, entry))], {}
    if twice := next(
        (parts for parts, count in Counter(p for p, e in entries if not e.is_dir()).items() if count > 1), None
    ):
        raise ValueError(f"{path} holds {'/'.join(twice)!r:.120} twice: pack it again")
    for name in {"/".join(parts[:depth]) for parts, _ in entries for depth in range(1, len(parts) + 1)}:
        first = seen.setdefault(name.casefold(), name)
        if first != name:
            first, second = sorted((first, name))
            raise ValueError(
                f"{path} holds {first!r:.120} and {second!r:.120}, which are one name on disks that ignore case: "
                "rename one, or unpack it and give the folder"
            )


def _check_size(path: Path, photos: list[zipfile.ZipInfo], into: Unpacking) -> None:
    "Raises ValueError for a decompression bomb, OSError if the disk has no room. zipfile reads no more than declared."
    total, packed = sum(entry.file_size for entry in photos), path.stat().st_size
    if total > SMALL and total > BOMB * packed:
        raise ValueError(
            f"{path}: {size_text(packed)} would unpack into {size_text(total)}, as a decompression bomb does: if it is "
            "none, unpack it, and give the folder"
        )
    if large := next((entry for entry in photos if entry.file_size > MAX_BYTES), None):
        raise ValueError(f"{path} holds {large.filename!r:.120} of {size_text(large.file_size)}, which is no photo")
    into.expect(total)


def _inside(photos: list[Parts]) -> int:
    "1 if a single folder is around all photos and holds folders of them, as around the folder of a data set; else 0."
    tops = {parts[0] for parts in photos}
    return int(len(tops) == 1 and not tops & set(SPLITS) and any(len(parts) > 2 for parts in photos))
