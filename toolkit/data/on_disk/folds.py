"""The files of `--folds`: which training photos each fold holds out, and what a folder of folds holds.

OUT/folds.json            how the folds were made, and by which command
OUT/folds.csv             file,label,fold,group: each training photo, its fold, its group of near-duplicates
OUT/fold-1/held_out.csv   file,label: the photos of fold 1, in the run folder that is trained without them
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from toolkit.files import read_csv, write_csv

FOLDS, ABOUT, HELD_OUT = "folds.csv", "folds.json", "held_out.csv"
COLUMNS, HELD_COLUMNS = "file label fold group".split(), "file label".split()

FoldRow = tuple[str, str, int, int]
"File, label, fold (from 1; 0 if no fold holds the photo out), group (from 0)."


def fold_folder(out: Path, fold: int) -> Path:
    "The run folder of a fold."
    return out / f"fold-{fold}"


def holds_folds(folder: Path) -> bool:
    "True if `folder` is the folder of --folds, above the run folders of the single folds."
    return (folder / ABOUT).is_file()


def is_fold(folder: Path) -> bool:
    "True if `folder` is the run folder of one fold."
    return (folder / HELD_OUT).is_file()


def write_folds(out: Path, rows: Iterable[FoldRow]) -> None:
    "Write folds.csv."
    write_csv(out / FOLDS, COLUMNS, rows)


def read_folds(out: Path) -> list[FoldRow]:
    "The rows of folds.csv. Raises FileNotFoundError, or ValueError if it is damaged."
    _, *rows = read_csv(out / FOLDS, COLUMNS)
    try:
        return [(file, label, int(fold), int(group)) for file, label, fold, group in rows]
    except ValueError as error:
        raise ValueError(f"{out / FOLDS} has a fold or a group that is no number: give another --out") from error


def write_held_out(folder: Path, labels: Mapping[str, str]) -> None:
    "Write held_out.csv. labels: the label of each file."
    write_csv(folder / HELD_OUT, HELD_COLUMNS, labels.items())


def read_held_out(folder: Path) -> dict[str, str]:
    "The label of each file in held_out.csv. Raises FileNotFoundError, or ValueError if it is damaged."
    return {file: label for file, label in read_csv(folder / HELD_OUT, HELD_COLUMNS)[1:]}


def check_out(folder: Path, folds: int | None) -> None:
    "Raises ValueError if `folder` has folds and none are asked for, if it has another run, or a fold that never began."
    begun = (folder / "recipe.json").is_file()
    if holds_folds(folder) and not folds:
        raise ValueError(f"--out {folder} was begun with --folds: add --folds to go on with it, or give another --out")
    if is_fold(folder) and not begun:
        raise ValueError(f"--out {folder} is a fold whose training has not begun: give --out {folder.parent}")
    if folds and begun and not is_fold(folder):
        raise ValueError(f"--out {folder} was begun without --folds {folds}: leave it out, or give another --out")
