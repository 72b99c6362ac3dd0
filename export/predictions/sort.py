"""Photos put into a folder for each label, as links or copies, with a list by which this is undone.

    DIR/<class>/<photo>    DIR/unsure/<photo>    DIR/unreadable/<photo>    DIR/sorted.csv

A photo keeps its name and its folders below IMAGES. sorted.csv is written first, so that a sorting that was killed can
be undone, or done again.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from export.predictions.formats import read_csv
from export.predictions.inputs import Named, without_wildcards
from export.predictions.journal import Row
from export.predictions.unsure import is_unsure
from toolkit.files import FULL, write_csv

LIST, COLUMNS = "sorted.csv", ["placed", "file", "pred_label"]
UNSURE, UNREADABLE = "unsure", "unreadable"
AS = ["link", "copy"]
NOT_IN_NAMES = re.compile(r'[<>:"|?*\\/\x00-\x1f]')  # of folders, on one of the systems


def check_sort(folder: Path | None, images: object, classes: Iterable[str], resume: bool) -> None:
    """Raises ValueError or OSError if photos can't be sorted into `folder`: it is not empty, it lies where the photos
    are looked for, or a class has a name that can't be a folder's.

    folder: None if they are not to be sorted. resume: an earlier sorting into it may go on.
    """
    if folder is None:
        return
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (resume and (folder / LIST).is_file()):
        raise FileExistsError(f"--sort {folder} is not empty: give a new folder, or `python -m export.unsort {folder}`")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--sort {folder} is a file: give a folder")
    if isinstance(images, str | Path) and folder.resolve().is_relative_to(without_wildcards(Path(images)).resolve()):
        raise ValueError(f"--sort {folder} lies in {images}, where its links would be photos: give a folder outside")
    lower = [name.lower() for name in classes]
    for name in classes:
        if NOT_IN_NAMES.search(name) or name.strip(". ") != name or len(name.encode()) > 255:
            raise ValueError(f"--sort: the class {name!r:.80} can't be the name of a folder")
        if name.lower() in (UNSURE, UNREADABLE, LIST) or lower.count(name.lower()) > 1:
            raise ValueError(f"--sort: the folder of the class {name!r} would be another one's too")


def sort_photos(folder: Path, rows: Iterable[Row], photos: Named, way: str) -> int:
    """Put a link to each photo, or a copy, into the folder of its label; return how many.

    A photo that is there already is left. What is no file that can be read is linked, and not copied. Raises OSError if
    a link or a copy can't be made.
    """
    placed, left = list(_places(rows, photos)), 0
    write_csv(folder / LIST, COLUMNS, placed)
    for place, file, _ in placed:
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if way == "link":
            _link(Path(file), target)
        elif not os.path.isfile(file) or not os.access(file, os.R_OK):
            left += 1
        elif not _is_copy(target, Path(file)):
            _copy(file, target)
    return len(placed) - left


def _places(rows: Iterable[Row], photos: Named) -> Iterator[tuple[str, str, str]]:
    "(place in the folder, absolute path of the photo, label) of each photo."
    taken: set[str] = set()
    for row, (name, path) in zip(rows, photos, strict=True):
        unsure = is_unsure(row.labels)
        label = UNREADABLE if row.reason is not None else UNSURE if unsure else row.labels[0]
        place = f"{label}/{_name_in(name, path)}"
        stem, suffix = os.path.splitext(place)
        number = 1
        while place.lower() in taken:
            number += 1
            place = f"{stem}-{number}{suffix}"
        taken.add(place.lower())
        yield place, os.path.abspath(path), label


def _name_in(name: str, path: Path) -> str:
    "The photo's name with its suffix and its folders below IMAGES. A name that leads elsewhere is the file's alone."
    parts = PurePosixPath(name).parts
    if not parts or os.path.isabs(name) or ".." in parts:
        return path.name
    return name if parts[-1] == path.name else name + path.suffix


def _link(file: Path, target: Path) -> None:
    if target.is_symlink() and os.readlink(target) == str(file):
        return
    try:
        target.symlink_to(file)
    except FileExistsError:
        raise
    except OSError as error:  # Windows asks for a right that few users have; some disks have no links
        reason = error.strerror or error
        raise OSError(f"--sort: {target.parent} can't hold links ({reason}): give --sort_as copy") from error


def _copy(file: str, target: Path) -> None:
    "Copy the file with its time. An error names the target if its disk is full; shutil names the file."
    try:
        shutil.copy2(file, target)
    except OSError as error:
        if error.errno in FULL:
            error.filename = str(target)
        raise


def _is_copy(target: Path, file: Path) -> bool:
    "True if the file at `target` has the size and the time of `file`."
    if target.is_symlink() or not target.is_file():
        return False
    one, other = target.stat(), file.stat()
    return (one.st_size, int(one.st_mtime)) == (other.st_size, int(other.st_mtime))


def check_sorted(folder: Path) -> None:
    "Raises ValueError if a run that is finished did not sort its photos into `folder`."
    if not (folder / LIST).is_file():
        raise ValueError(f"--sort {folder}: the run is finished, and did not sort its photos; leave out --resume")


def undo(folder: Path) -> tuple[int, list[str]]:
    """Remove what `sort_photos` put into `folder`; return how many links and copies, and the places that were left.

    Left are files that are no longer what was put there, such as a copy that was changed or whose photo is gone, and
    files that were added. Raises FileNotFoundError without a list, ValueError if the list is no list of ours.
    """
    path = folder / LIST
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a folder that `export.predict --sort` made")
    header, *rows = read_csv(path) or [[]]
    if header != COLUMNS or any(len(row) != len(COLUMNS) or not _is_inside(row[0]) for row in rows):
        raise ValueError(f"{path} is not the list of a --sort: nothing is removed")
    removed = sum(_removed(folder / place, Path(file)) for place, file, _ in rows)
    _remove_empty(folder)
    left = [place for place, *_ in rows if os.path.lexists(folder / place)]
    if not left:
        path.unlink()
        _remove_empty(folder)
    return removed, left


def _is_inside(place: str) -> bool:
    parts = PurePosixPath(place).parts
    return len(parts) > 1 and not os.path.isabs(place) and ".." not in parts


def _removed(target: Path, file: Path) -> bool:
    "Remove the link or the copy if it is still that of `file`."
    linked = target.is_symlink() and os.readlink(target) == str(file)
    if not linked and not (file.is_file() and _is_copy(target, file)):
        return False
    target.unlink()
    return True


def _remove_empty(folder: Path) -> None:
    "Remove the folders in `folder` that hold nothing, and itself."
    for root, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(root)
        except OSError:
            continue  # something is in it
