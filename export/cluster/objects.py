"""Photos and results by path or by URI: s3://bucket/photos, gs://, https://, whatever fsspec opens.

A path is a file on a disk that every node sees under the same name; a text with "://" is a URI. Objects are read and
written whole, never in ranges: one request each. Each library finds its credentials by itself on the node.
"""

import glob
import os
import posixpath
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from export.predictions.inputs import named_photos, tidy
from toolkit.data.on_disk.photo_files import SUFFIXES
from toolkit.errors import first_line
from toolkit.files import write_atomic

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Objects = list[tuple[str, str]]
"(image_name, path or URI) of each photo."

PAUSES = (0.5, 2.0)
"Seconds before the second and the third try of a request that failed."

LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"Errors that a second request will not mend."

AT_ONCE = 16
"Requests in parallel in one process: an object store takes tens of milliseconds for each, however small."


def is_uri(where: object) -> bool:
    return "://" in str(where)


def named_objects(images: str | Path | dict[str, str | Path]) -> Objects:
    """(image_name, path or URI) of each photo, named and sorted as `export.predictions.inputs.named_photos` does.

    images: the same as there, or the URI of a prefix, a photo, a glob or a .txt of paths and URIs. A path in a .txt is
    relative to the .txt; a URI is its own name.
    Raises FileNotFoundError or ValueError if there is no photo, ImportError if the library for a URI is missing.
    """
    if isinstance(images, str | Path) and str(images).lower().endswith(".txt"):
        images = _in_list(str(images)) if is_uri(images) or Path(images).is_file() else images
    elif is_uri(images):
        images = _below(str(images))
    photos = named_photos(images)
    objects = [(name, str(where)) for name, where in photos]
    for one in {where.partition("://")[0]: where for _, where in objects if is_uri(where)}.values():
        opened(one)  # a missing library is reported before anything starts
    return objects


def opened(where: str) -> "tuple[AbstractFileSystem, str]":
    "The file system of a path or URI, and the path in it. Raises ImportError or ValueError if there is none for it."
    if not is_uri(where):
        return LocalFileSystem(), os.path.abspath(where)
    protocol = where.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(where)
    except ImportError as error:
        module = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
        package = f"'fsspec[{protocol}]'" if module in ("", "fsspec") else module
        raise ImportError(f"{where}: {protocol}:// needs a library: pip install {package}") from error
    except ValueError as error:
        raise ValueError(f"{where}: can't be opened ({first_line(error)}); give a path, s3://, gs://, ...") from error


def read_object(where: str) -> bytes:
    "The whole content, by one request. Raises OSError, naming the object, if the third try fails too."
    fs, path = opened(where)
    return _patiently(where, lambda: fs.cat_file(path))


def write_object(where: str, data: bytes) -> None:
    "Write `data` whole or not at all: on a disk beside the target and renamed, in an object store by one PUT."
    fs, path = opened(where)
    if isinstance(fs, LocalFileSystem):
        write_atomic(Path(path), data)
    else:
        _patiently(where, lambda: fs.pipe_file(path, data))


def remove_object(where: str) -> None:
    fs, path = opened(where)
    _patiently(where, lambda: fs.rm_file(path))


def names_in(folder: str) -> list[str]:
    "The names of the files in a folder, sorted; none if there is no folder."
    fs, path = opened(folder)
    fs.invalidate_cache()
    found = _patiently(folder, lambda: fs.ls(path, detail=True) if fs.isdir(path) else [])
    return sorted(posixpath.basename(entry["name"]) for entry in found if entry["type"] == "file")


def at_once(function: Callable, items: Iterable) -> list:
    "function(item) of each item, in order, AT_ONCE at a time."
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(function, items))


def _patiently(where: str, request: Callable):
    "The result of `request`, tried up to three times. Raises OSError, naming `where`."
    for pause in (*PAUSES, None):
        try:
            return request()
        except FileNotFoundError:
            raise FileNotFoundError(f"{where}: no such file") from None
        except Exception as error:  # every store's library has exceptions of its own
            refused = 400 <= (getattr(error, "status", None) or 0) < 429  # by HTTP, and for good
            if pause is None or refused or isinstance(error, LASTING):
                raise OSError(f"{where}: can't be reached ({type(error).__name__}: {first_line(error)})") from error
            time.sleep(pause)


def _below(images: str) -> dict[str, str]:
    "The URI of each photo below a prefix, or that a glob matches, by its full name."
    fs, path = opened(images)
    is_glob = glob.has_magic(path) and not _patiently(images, lambda: fs.exists(path))
    if is_glob:
        root = path[: glob.magic_check.search(path).start()].rpartition("/")[0]
        paths = _patiently(images, lambda: fs.glob(path))
    elif _patiently(images, lambda: fs.isfile(path)) and not images.endswith("/"):
        return {posixpath.basename(path): images}
    else:
        root, paths = path.rstrip("/"), _patiently(images, lambda: fs.find(path))
    if not paths and not is_glob:
        raise FileNotFoundError(f"{images}: nothing is there; give a prefix, a photo, a glob or a .txt of URIs")
    names = {each: each[len(root) :].lstrip("/") for each in paths}
    chain = images[len(images.partition("::")[0]) :]  # the URI that a zip:// refers to
    found = {name: fs.unstrip_protocol(each) + chain for each, name in names.items() if _is_photo(name)}
    if not found:
        raise ValueError(f"{images}: no images found in it (files ending in {', '.join(sorted(SUFFIXES))})")
    return found


def _is_photo(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return posixpath.splitext(name)[1].lower() in SUFFIXES and not hidden


def _in_list(listing: str) -> dict[str, str]:
    "The path or URI of each line of a .txt, by its full name."
    try:
        lines = read_object(listing).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{listing} is not UTF-8 text ({error.reason}): save it as UTF-8, one path a line") from error
    lines = [line.rstrip("\r") for line in lines if line.strip()]
    folder = posixpath.dirname(listing)
    if not lines:
        raise ValueError(f"{listing}: no images found in it, one path or URI a line")
    return {
        line if is_uri(line) else tidy(line): line if is_uri(line) else os.path.join(folder, line) for line in lines
    }
