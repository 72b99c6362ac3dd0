"""The predictions of this machine, as one file: what `export.predict` does unless a cluster is asked for."""

import contextlib
import functools
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2

from export.predictions import formats, journal
from export.predictions.columns import Columns, check_distinct, columns_for
from export.predictions.formats import Unread
from export.predictions.inputs import Named, named_photos
from export.predictions.journal import Row
from export.predictions.resume import (
    begun,
    file_size,
    finished,
    gone_on_with,
    record,
    record_of,
    recorded_bs,
    resumable,
)
from export.predictions.sample_submission import in_order, read_sample
from export.reading.readers import Readers, worthwhile
from export.runtime.batch_size import checked_bs
from export.runtime.metadata import check_there
from export.runtime.profiler import Stopwatch, Watch, unwatched
from export.runtime.progress import tell, with_bar
from export.runtime.providers import choose_device
from export.session import Classifier
from toolkit.files import target_of
from toolkit.machine import cores


def _answered(
    photos: Named, classifier: Classifier, columns: Columns, workers: int, watch: Watch, readers: Readers | None
) -> Iterator[Row]:
    "The row of each photo; one that can't be read is told on stderr."
    answers = classifier.stream((path for _, path in photos), workers, watch, readers)
    with contextlib.closing(answers):
        for (name, path), answer in zip(photos, answers, strict=True):
            if isinstance(answer, Exception):
                reason = " ".join(str(answer).removeprefix(f"{path}: ").split())
                tell(f"{path}: {reason}")
                yield Row(name, [], "", file_size(path), reason)
            else:
                labels, figures = columns.keep(*answer)
                yield Row(name, labels, journal.packed(figures), file_size(path), None)


def _photos(images: Path | dict[str, Path], sample: Path | None) -> tuple[list[str], Named]:
    "The sample's header, empty without one, and the photos: in its order, under its ids."
    photos = named_photos(images)
    if sample is None:
        return [], photos
    header, ids = read_sample(Path(sample))
    return header, in_order(photos, ids, Path(sample))


def _write(
    out: Path, kind: str, columns: Columns, photos: Named, rows: Iterator[Row], quoted: bool, fallback: str
) -> Unread:
    "The tables, of the row of each photo."
    unread: Unread = []

    def noted() -> Iterator[Row]:
        for (_, path), row in zip(photos, rows, strict=True):
            if row.reason is not None:
                unread.append((row.name, path, row.reason))
            yield row
        formats.write_errors(out, unread)  # before the table of predictions has its name

    formats.write_table(out, kind, columns, noted(), quoted, fallback)
    return unread


def _texts(columns: Columns, classes: list[str], fallback: str, photos: Named) -> Iterator[str]:
    "All text that the table may hold."
    return itertools.chain(columns.header, classes, [fallback], (name for name, _ in photos))


def _asked(classifier: Classifier, probabilities: bool, top: int, header: list[str]) -> dict:
    "All that a journal's rows depend on, the photos apart; the table's depend on the fallback and the format too."
    import onnxruntime

    return {
        "model": classifier.checksum,
        "onnxruntime": onnxruntime.__version__,
        "device": classifier.device,
        "--bs": classifier.bs,
        "--tta": classifier.tta,
        "--probabilities": probabilities,
        "--top": top,
        "columns of --sample": header,
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


def _check_out(out: Path, zipped: bool) -> list[Path]:
    "The files that a run writes. Raises OSError or ValueError if one of them can't be written, or is no regular file."
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder: give the file, as in {out / 'predictions.csv'}")
    if zipped and out == formats.zip_file(out):
        raise ValueError(f"--out {out} --zip: give the name of the file that is zipped, as in predictions.csv")
    written = [out, journal.partial_of(out), formats.errors_file(out), record_of(out)]
    written += [formats.zip_file(out)] if zipped else []
    for path in written:
        target_of(path)
    return written


def _check_not_read(written: list[Path], read: Iterable[Path]) -> None:
    "Raises FileExistsError if a file that is written is also read, by whatever name."
    there = {identity: path for path in written if (identity := _identity(path))}
    for path in read if there else ():
        if lost := there.get(_identity(path)):
            raise FileExistsError(f"--out {written[0]}: {lost} is what is being read: give another file")


def _identity(path: Path) -> tuple[int, int] | None:
    "What two names of one file have in common; None if there is none."
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _checked_workers(workers: int | None) -> int:
    if workers is None:
        return cores()
    if workers < 0:
        raise ValueError(f"--workers {workers}: give 0 threads, for none beside the main one, or more")
    return workers


def _threads(photos: int, bs: int | str, workers: int) -> int | None:
    """How many the CPU computes a batch with: one, while every worker has a batch of its own; else one a core.

    On 2 cores one took 5.7 ms of the processor an image of an int8 resnet18 in all, two 5.9.
    """
    batches = photos / (8 if bs == "auto" else int(bs))
    return 1 if batches >= 4 * workers and workers >= cores() else None


@contextlib.contextmanager
def _all_rows(partial: Path, answered: Iterator[Row], done: int, total: int, bs: int) -> Iterator[Iterator[Row]]:
    "Each row, the `done` ones of the journal first; the others are appended to it before they are given."
    new = journal.extended(partial, with_bar(answered, done, total), bs)
    with contextlib.closing(answered), contextlib.closing(new), _one_thread_each():
        yield itertools.chain(journal.rows(partial), new)


def _readers_for(
    device: str, workers: int, processes: bool | None, photos: int, ending: contextlib.ExitStack
) -> Readers | None:
    """Processes that read, which begin to start and which `ending` closes; None if threads read.

    processes: whether they are to; None if that depends on `device`, `workers` and the number of `photos`.
    """
    if not (worthwhile(device, workers, photos) if processes is None else processes):
        return None
    return ending.enter_context(contextlib.closing(Readers(max(workers, 1))))


def _finished(out: Path, kind: str, asked: dict, photos: Named, zipped: bool) -> Unread:
    "The photos that a finished run could not read; its zip is made if it is asked for only now."
    unread = finished(out, kind, asked, photos)
    if zipped:
        formats.write_zip(out)
    return unread


def _tell_profile(watch: Stopwatch, classifier: Classifier, images: int, workers: int, processes: bool) -> None:
    watch.add({"write": -watch.seconds["wait"]})  # whoever writes the rows waits for them meanwhile
    runners = classifier.runners(workers, processes)
    print(watch.report(images, workers, classifier.in_flight(workers), processes, runners))


def _tell(out: Path, unread: Unread, done: int, total: int, seconds: float, device: str) -> None:
    if unread:
        print(f"not read: {len(unread)}; which and why: {formats.errors_file(out)}", file=sys.stderr)
    earlier = f" (and {done} earlier)" if done else ""
    rate = (total - done) / seconds
    print(f"{total - done} images{earlier} in {seconds:.1f} s, {rate:.0f} a second on {device} -> {out}")


def predict_here(
    model: Path,
    images: str | Path | dict[str, Path],
    out: Path,
    *,
    device: str,
    bs: int | str,
    workers: int | None,
    probabilities: bool,
    top: int,
    tta: str,
    fallback: str,
    resume: bool,
    format: str,
    sample: Path | None,
    zipped: bool,
    profile: bool,
    processes: bool | None = None,
) -> Unread:
    """Do what `export.predict.predict` says, by these options.

    processes: whether processes read the photos; None for what `export.reading.readers` chooses.
    """
    begun_at, watch = time.monotonic(), Stopwatch() if profile else unwatched
    bs, workers = checked_bs(bs), _checked_workers(workers)
    written = _check_out(out, zipped)
    _check_not_read(written, [Path(given) for given in (model, images, sample) if isinstance(given, str | Path)])
    kind, partial = formats.kind_of(out, format), journal.partial_of(out)
    header, photos = _photos(images, sample)
    _check_not_read(written, (path for _, path in photos))
    size = recorded_bs(out) if resume and bs == "auto" else bs
    check_there(Path(model))
    place = choose_device(device)
    readers_for = functools.partial(_readers_for, place, workers, processes)
    with contextlib.ExitStack() as ending:
        readers = None if resume else readers_for(len(photos), ending)  # they start while the session is made
        classifier = Classifier(model, place, size, _threads(len(photos), size, workers), tta)
        columns = columns_for(classifier.card.classes, probabilities, top, header)
        check_distinct(columns, kind)
        texts = functools.partial(_texts, columns, classifier.card.classes, fallback)
        formats.check_kind(kind, texts(photos))
        ending.enter_context(journal.held(partial))
        journal.clear_half_written([out, partial, formats.errors_file(out), formats.zip_file(out), record_of(out)])
        asked = _asked(classifier, probabilities, top, header)
        made = asked | {"--fallback": fallback, "--format": kind}
        if resume and out.exists() and not partial.exists():
            return _finished(out, kind, made, photos, zipped)
        begin = gone_on_with if resume and partial.exists() else begun
        photos, done = begin(partial, asked, photos)
        if bs == "auto":
            tell(f"bs auto: {classifier.bs}")
        readers = readers_for(len(photos) - done, ending) if resume else readers
        answered = _answered(photos[done:], classifier, columns, workers, watch, readers)
        with resumable(partial), watch("write"):
            with _all_rows(partial, answered, done, len(photos), classifier.bs) as rows:
                unread = _write(out, kind, columns, photos, rows, formats.has_return(texts(photos)), fallback)
            if zipped:
                formats.write_zip(out)
            record(out, made, photos)
        partial.unlink()
    _tell(out, unread, done, len(photos), time.monotonic() - begun_at, classifier.device)
    if profile:
        _tell_profile(watch, classifier, len(photos) - done, workers, readers is not None)
    return unread
