"""Photos -> predictions.csv, with nothing but a model file.

    python -m export.predict model.onnx photos --out predictions.csv

IMAGES is a folder, a photo, a quoted glob or a .txt file of paths; `export.photos` says how each photo is named. Rows
are in natural order of the name.

While it runs, what is done stands in predictions.csv.partial: killed at any moment, the same command with --resume goes
on from there, and ends with the same files, byte for byte, as a run that was not. predictions.csv appears whole, at the
end. Without --resume an unfinished run's partial is replaced, and a line says so.
"""

import contextlib
import hashlib
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cv2

from export import journal, table
from export.bar import tell, with_bar
from export.device import DEVICES, cores
from export.journal import Row
from export.photos import Named, named_photos
from export.resume import START_ANEW, check_asked, check_unchanged, file_size, same_photos, some
from export.session import Classifier
from toolkit.command import command


def _answered(photos: Named, classifier: Classifier, workers: int, probabilities: bool) -> Iterator[Row]:
    "The row of each photo; one that can't be read is told on stderr."
    answers = classifier.stream((path for _, path in photos), workers)
    with contextlib.closing(answers):
        for (name, path), answer in zip(photos, answers, strict=True):
            if isinstance(answer, Exception):
                reason = " ".join(str(answer).removeprefix(f"{path}: ").split())
                tell(f"{path}: {reason}")
                yield Row(name, [], "", file_size(path), reason)
            else:
                label, figures = answer
                kept = journal.packed([figures.max(), *figures]) if probabilities else ""
                yield Row(name, [label], kept, file_size(path), None)


def _begun(partial: Path, before: dict, asked: dict, photos: Named, bs: int) -> int:
    "How many rows the journal has: those of the run `before`, if it was asked for the same; else a new one's, none."
    if before:
        check_asked(before, asked, partial)
        check_unchanged(photos, partial)
        return journal.cut(partial, bs)
    if partial.exists():
        tell(f"{partial}, of a run that was not finished, is replaced: --resume would have gone on with it")
    journal.begin(partial, asked, photos)
    return 0


@contextlib.contextmanager
def _resumable(partial: Path) -> Iterator[None]:
    "Whatever ends the block before its time tells how to go on."
    goes_on = f"what is done is in {partial}: the same command with --resume goes on from there"
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"{str(interrupt) or 'interrupted'}; {goes_on}") from None
    except (OSError, ValueError) as error:
        error.add_note(goes_on)
        raise


def _write(out: Path, partial: Path, photos: Named, header: list[str], fallback: str) -> table.Unread:
    "The tables, from a journal that is complete, which then goes."
    unread = [
        (row.name, path, row.reason)
        for (_, path), row in zip(photos, journal.rows(partial), strict=True)
        if row.reason is not None
    ]
    quoted = table.has_return(itertools.chain(header, [fallback], (name for name, _ in photos)))
    table.write_errors(out, unread)
    table.write_table(out, header, journal.rows(partial), quoted, fallback)
    partial.unlink()
    return unread


def _finished(out: Path, model: Path, photos: Named, probabilities: bool) -> table.Unread:
    "The photos that a finished run could not read. Raises ValueError where `out` can't be what was asked for."
    header, names = table.read_names(out)
    if model.stat().st_mtime > out.stat().st_mtime:
        raise ValueError(f"{out} is finished, but {model} is newer: {START_ANEW}")
    if new := set(dict(photos)) - set(names):
        raise ValueError(f"{out} is finished, but of other images: it lacks {some(sorted(new))}; {START_ANEW}")
    if (len(header) > 2) != probabilities:
        raise ValueError(f"{out} is finished, but with the columns {some(header)}; {START_ANEW}")
    print(f"{out} is finished already, {len(names)} images: nothing is left to do ({START_ANEW})")
    return table.read_errors(out)


def _asked(model: Path, classifier: Classifier, probabilities: bool) -> dict:
    "All that the rows depend on, the photos apart. The fallback is not among it: a journal holds none."
    with model.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    import onnxruntime

    return {
        "model": checksum,
        "onnxruntime": onnxruntime.__version__,
        "device": classifier.device,
        "--bs": classifier.bs,
        "--probabilities": probabilities,
    }


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
    resume: bool = False,  # go on with a run that was killed; the file becomes the same
) -> list[tuple[str, Path, str]]:
    """Label photos with a model.onnx and write predictions.csv.

    From Python, `images` may be a dict, path by name. Returns the photos that can't be read, as (image_name, path,
    reason): they keep their row, are listed on stderr and in predictions.errors.csv beside it, and make the command's
    exit status 2.
    Raises ValueError or OSError, and leaves `out` as it was, where model, device, images or `out` itself are no good,
    and where `resume` finds the work of another model, other images or other options, which it names.
    """
    started = time.monotonic()
    model, out = Path(model), Path(out)
    workers = cores() if workers is None else workers
    if bs < 1 or workers < 0:
        raise ValueError(f"--bs {bs} --workers {workers}: give at least 1 image a batch and 0 threads")
    _check_out(out, model, *([] if isinstance(images, dict) else [Path(images)]))
    photos, partial = named_photos(images), out.with_name(f"{out.name}.partial")
    with journal.held(partial):
        journal.clear_half_written([out, partial, table.errors_file(out)])
        if resume and out.exists() and not partial.exists():
            return _finished(out, model, photos, probabilities)
        before, recorded = journal.read_head(partial) if resume and partial.exists() else ({}, [])
        photos = same_photos(recorded, photos, partial) if before else photos
        classifier = Classifier(model, device, bs=min(bs, len(photos)))
        asked = _asked(model, classifier, probabilities)
        done = _begun(partial, before, asked, photos, classifier.bs)
        with _resumable(partial):
            rows = _answered(photos[done:], classifier, workers, probabilities)
            with contextlib.closing(rows), _one_thread_each():
                journal.extend(partial, with_bar(rows, done, len(photos)), classifier.bs)
            unread = _write(out, partial, photos, table.columns(classifier.card.classes, probabilities), fallback)
    seconds, count = time.monotonic() - started, len(photos) - done
    if unread:
        print(f"not read: {len(unread)}; which and why: {table.errors_file(out)}", file=sys.stderr)
    earlier = f" (and {done} earlier)" if done else ""
    print(f"{count} images{earlier} in {seconds:.1f} s, {count / seconds:.0f} a second on {classifier.device} -> {out}")
    return unread
