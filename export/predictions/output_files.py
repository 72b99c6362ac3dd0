"""The files that a prediction run on one machine writes, and the check that none of them is also read."""

import os
from collections.abc import Iterable
from pathlib import Path

from export.predictions import formats, journal
from export.predictions.resume import record_of
from toolkit.files import target_of


def output_files(out: Path, zipped: bool, features: Path | None = None) -> list[Path]:
    "The files that a run writes. Raises OSError or ValueError if one can't be written, or exists and is no plain file."
    if str(out) == "-":
        raise ValueError("--out -: predictions are a file, since --resume goes on with it; give its name")
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder: give the file, as in {out / 'predictions.csv'}")
    if zipped and out == formats.zip_file(out):
        raise ValueError(f"--out {out} --zip: give the name of the file that is zipped, as in predictions.csv")
    written = [out, journal.partial_of(out), formats.errors_file(out), record_of(out)]
    written += [formats.zip_file(out)] if zipped else []
    if features is not None:
        if _same_name(features, written):
            raise ValueError(f"--features {features}: another file of this run has that name, give another")
        written.append(features)
    for path in written:
        target_of(path)
    return written


def _same_name(path: Path, others: list[Path]) -> bool:
    return os.path.realpath(path) in map(os.path.realpath, others)


def check_not_read(written: list[Path], read: Iterable[Path]) -> None:
    "Raises FileExistsError if a file that is written is also read, under whatever name."
    existing = {identity: path for path in written if (identity := _identity(path))}
    for path in read if existing else ():
        if lost := existing.get(_identity(path)):
            raise FileExistsError(f"--out {written[0]}: {lost} is what is being read: give another file")


def _identity(path: Path) -> tuple[int, int] | None:
    "Device and inode, which all names of one file share; None if there is no such file."
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def clear_leftovers(out: Path, features: Path | None = None) -> None:
    "Remove what a killed run to `out` left half written; for the process that holds the journal."
    paths = [out, journal.partial_of(out), formats.errors_file(out), formats.zip_file(out), record_of(out)]
    journal.clear_half_written(paths + ([features] if features else []))
