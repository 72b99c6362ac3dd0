"""A folder that a command writes, and writes again, without touching a file of somebody else."""

from collections.abc import Iterable
from pathlib import Path


def check_free(folder: Path, marked: str, mark: str, ours: Iterable[str], command: str) -> None:
    """Raises NotADirectoryError if `folder` is a file, FileExistsError if it holds a file that `command` did not write.

    ours: the names that the command writes. They are its own if the file `marked`, one of them, holds the line `mark`.
    Names with a leading dot, such as git's, are ignored.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give a folder, new or empty")
    names = sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))
    first = folder / marked
    known = set(ours) if first.is_file() and mark in first.read_text(encoding="utf-8", errors="replace") else set()
    if others := [name for name in names if name not in known]:
        raise FileExistsError(f"{folder} holds {others[0]}, which {command} did not write: give a new or empty folder")
