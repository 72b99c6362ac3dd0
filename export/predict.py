"""Photos -> predictions.csv, with nothing but a model file.

    python -m export.predict model.onnx photos --out predictions.csv

IMAGES is one of
    a folder      every photo below it; image_name is the path relative to it
    a photo       image_name is its file name
    a glob        quoted, "photos/*/front*.jpg", ** for any depth; image_name is relative to its part without wildcards
    a .txt file   one path a line, relative to the file's own folder (never to where you are); image_name is the path as
                  the line gives it. A line whose file does not exist keeps its row, as an unreadable photo does.

image_name goes without the file's suffix, except where two would then be the same. Rows are in natural order of it.
"""

import contextlib
import csv
import glob
import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import cv2

from export.device import DEVICES, cores
from export.session import Classifier
from toolkit.command import command
from toolkit.photo import SUFFIXES, find_photos, natural_key
from toolkit.run import replacing

CLEAR = "\r\033[K"
"Takes the bar off a terminal's line."


# Which photos, under which names


def named_photos(images: str | Path | dict[str, Path]) -> list[tuple[str, Path]]:
    """(image_name, path) of every photo that `images` stands for, in natural order of the name.

    From Python, `images` may also be the paths themselves by their full names, with suffix.
    Raises FileNotFoundError where there is nothing of that name, ValueError where there is no photo in it.
    """
    found = images if isinstance(images, dict) else _found(Path(images))
    if not found:
        raise ValueError(f"{images}: no images found in it (files ending in {', '.join(sorted(SUFFIXES))})")
    return sorted(zip(_names(list(found)), found.values(), strict=True), key=lambda pair: natural_key(pair[0]))


def _found(images: Path) -> dict[str, Path]:
    "Each photo's path by its full name, the one with the suffix."
    if images.is_dir():
        return {path.relative_to(images).as_posix(): path for path in find_photos(images)}
    if images.suffix.lower() == ".txt" and images.is_file():
        return {_tidy(line): images.parent / line for line in _lines(images)}
    if images.is_file():
        return {images.name: images}
    if glob.has_magic(str(images)):
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), images.parts))
        matches = (Path(match) for match in glob.glob(str(images), recursive=True))
        photos = [path for path in matches if path.suffix.lower() in SUFFIXES and path.is_file()]
        return {path.relative_to(root).as_posix(): path for path in photos}
    raise FileNotFoundError(
        f"{images}: no such file or folder; give a folder, a photo, a quoted glob or a .txt of paths"
    )


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason}): save it as UTF-8, one path a line") from error
    return [line.rstrip("\r") for line in lines if line.strip()]


def _tidy(line: str) -> str:
    return Path(os.path.normpath(line)).as_posix()


def _names(paths: list[str]) -> list[str]:
    "Each path without its suffix; with it where two would be the same."
    names = [os.path.splitext(path)[0] for path in paths]
    while shared := {name for name, count in Counter(names).items() if count > 1}:
        names = [path if name in shared else name for path, name in zip(paths, names, strict=True)]
    return names


# Their predictions


def _table(file, cells: Iterable[str]):
    "A csv writer on `file`. Python 3.11 leaves a lone carriage return unquoted, and then can't read it back."
    quoting = csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL
    return csv.writer(file, lineterminator="\n", quoting=quoting)


def _open_csv(path: Path):
    "For writing; a file name that is not UTF-8 keeps its bytes."
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


def _on_terminal() -> bool:
    return bool(sys.stderr) and sys.stderr.isatty()


def _with_bar(items: Iterable, total: int) -> Iterator:
    "The items, with a bar on stderr while it is a terminal."
    if not _on_terminal():
        yield from items
        return
    started = drawn = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - drawn > 0.1 or done == total:
            filled = 30 * done // total
            rate = done / (now - started)
            bar = f"[{'#' * filled}{'.' * (30 - filled)}] {done}/{total} {rate:.0f} images/s"
            print(CLEAR + (bar if done < total else ""), end="", file=sys.stderr, flush=True)
            drawn = now


def _write(
    out: Path, named: list[tuple[str, Path]], classifier: Classifier, workers: int, probabilities: bool, fallback: str
) -> list[tuple[str, Path, str]]:
    "Streams a row for each photo into `out`, and the photos that can't be read into its errors file; gives the latter."
    classes, unread = classifier.card.classes, []
    header = ["image_name", "pred_label", *(["confidence", *classes] if probabilities else [])]
    answers = classifier.stream((path for _, path in named), workers)
    with _one_thread_each(), replacing(out) as beside:
        with _open_csv(beside) as file, contextlib.closing(answers):
            table = _table(file, [*classes, fallback, *(name for name, _ in named)])
            table.writerow(header)
            for (name, path), answer in zip(named, _with_bar(answers, len(named)), strict=True):
                if isinstance(answer, Exception):
                    unread.append((name, path, _note(path, answer)))
                    table.writerow([name, fallback] + [""] * (len(header) - 2))
                else:
                    label, row = answer
                    figures = (row.max(), *row) if probabilities else ()
                    table.writerow([name, label, *(f"{figure:.7g}" for figure in figures)])
        _write_errors(out.with_name(f"{out.stem}.errors.csv"), unread)
    return unread


def _write_errors(path: Path, unread: list[tuple[str, Path, str]]) -> None:
    "The photos that can't be read; an earlier run's file goes where there are none."
    if not unread:
        path.unlink(missing_ok=True)
        return
    print(f"not read: {len(unread)}; which and why: {path}", file=sys.stderr)
    with replacing(path) as beside, _open_csv(beside) as file:
        table = _table(file, [str(cell) for cells in unread for cell in cells])
        table.writerows([("image_name", "file", "reason"), *unread])


def _note(path: Path, error: Exception) -> str:
    "Why the photo can't be read, in one line, which is shown on stderr."
    reason = " ".join(str(error).removeprefix(f"{path}: ").split())
    print(f"{CLEAR if _on_terminal() else ''}{path}: {reason}", file=sys.stderr)
    return reason


@contextlib.contextmanager
def _one_thread_each():
    "OpenCV's own threads off: the decoding threads already fill the cores."
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _check_out(out: Path, *inputs: Path) -> None:
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder: give the file, as in {out / 'predictions.csv'}")
    for path in inputs:
        if out.resolve() == path.resolve():
            raise FileExistsError(f"--out {out} is what is being read: give another file")


def exit_status(unread: list) -> int:
    "2 where photos could not be read, else 0: what predict, and a recipe that ends with it, exits with."
    return 2 if unread else 0


@command(status=exit_status)
def predict(
    model: Path,  # model.onnx; nothing else is needed
    images: Path,  # a folder, a photo, a quoted glob, or a .txt file of paths
    out: Path = Path("predictions.csv"),  # the CSV to write: image_name,pred_label
    device: Annotated[str, {"choices": DEVICES}] = "auto",  # where the model runs; auto says what it chose
    bs: int = 32,  # images a batch
    workers: int | None = None,  # threads that decode; one a core unless given
    probabilities: bool = False,  # add confidence and a column a class
    fallback: str = "",  # pred_label of a photo that can't be read
) -> list[tuple[str, Path, str]]:
    """Label photos with a model.onnx and write predictions.csv.

    From Python, `images` may be a dict, path by name. Returns the photos that can't be read, as (image_name, path,
    reason): they keep their row, are listed on stderr and in predictions.errors.csv beside it, and make the command's
    exit status 2.
    Raises ValueError or OSError, and leaves `out` as it was, where model, device, images or `out` itself are no good.
    """
    started = time.monotonic()
    model, out = Path(model), Path(out)
    workers = cores() if workers is None else workers
    if bs < 1 or workers < 0:
        raise ValueError(f"--bs {bs} --workers {workers}: give at least 1 image a batch and 0 threads")
    _check_out(out, model, *([] if isinstance(images, dict) else [Path(images)]))
    named = named_photos(images)
    classifier = Classifier(model, device, bs=min(bs, len(named)))
    unread = _write(out, named, classifier, workers, probabilities, fallback)
    seconds = time.monotonic() - started
    print(
        f"{len(named)} images in {seconds:.1f} s, {len(named) / seconds:.0f} a second on {classifier.device} -> {out}"
    )
    return unread
