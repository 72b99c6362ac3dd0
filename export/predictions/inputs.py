"""The photos that a command is given, and the name of each in the table.

    a folder      every photo below it; image_name is the path relative to it
    a photo       image_name is its file name
    a glob        quoted, "photos/*/front*.jpg", ** for any depth; image_name is relative to its part without wildcards
    a .txt file   one path per line, relative to the file's own folder (never to the current one); image_name is the
                  path as the line gives it. A line whose file does not exist keeps its row, like an unreadable photo.

image_name has no suffix, except if two names would then be the same.
"""

import glob
import itertools
import os
import sys
from collections import Counter
from pathlib import Path

from toolkit.data.on_disk.photo_files import SUFFIXES, by_kind, natural_key, photo_names, unsupported

ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}

Named = list[tuple[str, Path]]
"(image_name, path) of each photo."


def named_photos(images: str | Path | dict[str, Path]) -> Named:
    """Return (image_name, path) of every photo in `images`, in natural order of the name.

    From Python, `images` may also be a dict of paths by their full names, with suffix.
    A line on stderr counts the files of a folder that may be photos and are not read.
    Raises FileNotFoundError if there is no such file or folder, ValueError if there is no photo in it.
    """
    found = images if isinstance(images, dict) else _found(Path(images))
    if not found:
        raise ValueError(f"{images}: no images found in it (files ending in {', '.join(sorted(SUFFIXES))})")
    if not isinstance(images, dict) and Path(images).is_dir() and (others := unsupported(Path(images))):
        print(f"{images}: files in it that are not read: {by_kind(Path(images), others)}", file=sys.stderr)
    return sorted(zip(_names(list(found)), found.values(), strict=True), key=lambda pair: natural_key(pair[0]))


def _found(images: Path) -> dict[str, Path]:
    "The path of each photo by its full name, with suffix."
    if images.is_dir():
        return {name: images / name for name in photo_names(images)}
    if images.suffix.lower() == ".txt" and images.is_file():
        lines = _lines(images)
        found = {tidy(line): images.parent / line for line in lines}
        if again := len(lines) - len(found):
            print(f"{images}: a photo that is named twice has one row; lines left out: {again}", file=sys.stderr)
        return found
    if images.suffix.lower() in ARCHIVES and images.is_file():
        raise ValueError(f"{images} is an archive: unpack it, and give the folder")
    if images.is_file():
        return {images.name: images}
    if glob.has_magic(str(images)):
        root = without_wildcards(images)
        matches = (Path(match) for match in glob.glob(str(images), recursive=True))
        photos = [path for path in matches if path.suffix.lower() in SUFFIXES and path.is_file()]
        return {path.relative_to(root).as_posix(): path for path in photos}
    raise FileNotFoundError(
        f"{images}: no such file or folder; give a folder, a photo, a quoted glob or a .txt of paths"
    )


def without_wildcards(images: Path) -> Path:
    "The part of a path or a glob in which photos are looked for."
    if images.exists():
        return images
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), images.parts))


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason}): save it as UTF-8, one path a line") from error
    if any("\0" in line for line in lines):
        raise ValueError(f"{file} holds NUL bytes, as UTF-16 does: save it as UTF-8, one path a line")
    return [line.rstrip("\r") for line in lines if line.strip()]


def tidy(line: str) -> str:
    "The path without `.`, `..` in the middle and doubled slashes."
    return Path(os.path.normpath(line)).as_posix()


def _names(paths: list[str]) -> list[str]:
    "Each path without its suffix; with it if two would be the same."
    names = [os.path.splitext(path)[0] for path in paths]
    while shared := {name for name, count in Counter(names).items() if count > 1}:
        names = [path if name in shared else name for path, name in zip(paths, names, strict=True)]
    return names
