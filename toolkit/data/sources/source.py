"""The one place where what `--data` names becomes a folder or a CSV of photo files.

A zip, Parquet files and a folder that `datasets` saved are unpacked, once, the bytes of each photo unchanged, as
toolkit/data/sources/unpacked.py says. After that they are a folder like any other.
"""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.data.on_disk.photo_files import photo_names
from toolkit.data.sources import hub, saved, tables, zip_archive
from toolkit.data.sources.columns import Columns
from toolkit.data.sources.unpacked import unpacked
from toolkit.options import is_on_hub


class Source(NamedTuple):
    "Photos on this machine, and where they come from."

    path: Path  # a folder of photos, or a CSV that names some
    given: str | None  # the absolute path of the zip or the tables, or hf://USER/NAME@COMMIT; None for photos as given


def open_source(data: str | Path, columns: Columns | None = None, download: bool = True) -> Source:
    """Return the folder or CSV of the photos at `data`. What is no such thing is unpacked, unless it is already.

    columns: the names of the columns of tables, for those that their types leave open.
    download: fetch a data set of the hub; otherwise it must be in the hub's cache.
    A path that does not exist is returned as it is. Raises ValueError for a source that is damaged, holds no labelled
    photos or would write elsewhere; OSError for a cache folder that can't be written to or has too little room;
    ConnectionError if the hub is out of reach; ImportError if a library is missing.
    """
    columns = columns or Columns()
    if is_on_hub(data):
        folder, given = hub.snapshot(data, download)
        return Source(_photos_of(folder, given, columns), given)
    path = Path(data)
    found = _photos_of(path, str(data), columns)
    return Source(found, None if found is path else str(path.resolve()))


def _photos_of(path: Path, given: str, columns: Columns) -> Path:
    "Return `path` itself if it is a folder or a CSV of photos, else the folder or the CSV of what it is unpacked into."
    if path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)):
        columns.refuse(f"{given} is a zip")
        return unpacked(given, [path], path.stem, lambda into: zip_archive.unpack(path, into))
    splits = saved.tables_in(path) if saved.is_saved(path) else _parquet(path)
    if not splits:
        columns.refuse(f"{given} holds no table")
        return path
    files = [file for found in splits.values() for table in found for file in table.files]
    return unpacked(given, files, path.stem, lambda into: tables.unpack(splits, columns, into), columns)


def _parquet(path: Path) -> tables.Splits:
    "The Parquet file, or those in a folder without folders of photos, by split. Empty if there is none."
    if path.is_file():
        return tables.parquet_file(path) if path.suffix.lower() == ".parquet" else {}
    return {} if not path.is_dir() or _has_folders_of_photos(path) else tables.parquet_folder(path)


def _has_folders_of_photos(path: Path) -> bool:
    "True if photos lie in two folders below `path`. A picture beside tables, such as a README's, is no data set."
    folders: set[str] = set()
    for name in photo_names(path):
        folders |= {name.rpartition("/")[0]} - {""}
        if len(folders) > 1:
            return True
    return False


def same_source(source: Source, recorded: dict[str, Any]) -> bool:
    "True if `source` is the data set that the `data` of a recipe.json names."
    same_path = source.path.resolve() == Path(recorded["path"]).resolve()
    return same_path or (source.given is not None and source.given == recorded.get("source"))
