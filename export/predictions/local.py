"""Predictions on this machine, written as one file: the engine `local` of `export.predict`."""

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from export.ensemble import Ensemble, of_one_size, opened_model
from export.predictions import formats, journal
from export.predictions.columns import Columns
from export.predictions.features import check_finished, with_features
from export.predictions.formats import Unread
from export.predictions.inputs import Named
from export.predictions.journal import Row
from export.predictions.options import PredictOptions
from export.predictions.output_files import clear_leftovers
from export.predictions.request import Request, checked_columns, checked_request, settings_of, texts_of
from export.predictions.resume import continue_run, file_size, finished, record, resumable, start_run
from export.predictions.sort import check_sort, check_sorted, sort_photos
from export.predictions.unsure import is_unsure, threshold_of, unsure_line
from export.reading.readers import Readers, worthwhile
from export.runtime.batch_size import checked_bs
from export.runtime.metadata import Card
from export.runtime.profiler import Stopwatch, Watch, unwatched
from export.runtime.progress import print_line, with_bar
from export.session import Classifier
from toolkit.machine import cores
from toolkit.threads import opencv_in_one_thread


def predict_here(
    models: Sequence[Path],
    images: str | Path | dict[str, Path],
    options: PredictOptions,
    processes: bool | None = None,
    look: Callable[[Iterator[Row], Named], object] = lambda rows, photos: None,
) -> Unread:
    """Do what `export.predict.predict` says, on this machine.

    processes: whether processes read the photos; None lets `export.reading.readers.worthwhile` decide. look: called
    with all rows and the photos when the table is written.
    """
    started, watch = time.monotonic(), Stopwatch() if options.profile else unwatched
    request = checked_request(models, images, options)
    out, partial, photos = request.out, request.partial, request.photos
    with contextlib.ExitStack() as closing:
        # processes take as long to start as the session does to open; a resumed run first learns what is left
        readers = None if options.resume else _readers(request, processes, len(photos), closing)
        threads, given = _threads(len(photos), request.bs, request.workers), options.features is not None
        classifier = opened_model(models, request.device, request.bs, threads, options.tta, given)
        columns = checked_columns(classifier.card, request, options)
        check_sort(options.sort, images, classifier.card.classes, options.resume)
        closing.enter_context(journal.held(partial))
        clear_leftovers(out, request.features)
        settings = settings_of(classifier, request, options)
        table_settings = settings | {"--fallback": options.fallback, "--format": request.kind}
        if options.resume and out.exists() and not partial.exists():
            return _finished(request, table_settings, options)
        photos, done = _begun(request, settings, options)
        if options.resume:
            readers = _readers(request, processes, len(photos) - done, closing)
        readers = readers if of_one_size(classifier) else None
        new_rows = _new_rows(photos[done:], classifier, columns, request.workers, watch, readers)
        with resumable(partial), watch("write"):
            with _all_rows(partial, new_rows, done, len(photos), classifier.bs) as rows:
                quoted = formats.has_return(texts_of(columns, classifier.card.classes, options, photos))
                noted = _with_errors_file(out, photos, rows, unread := [])
                with _with_features(request.features, noted, len(photos), classifier) as table:
                    formats.write_table(out, request.kind, columns, table, quoted, options.fallback)
            if options.zip:
                formats.write_zip(out)
            record(out, table_settings, photos)
            lines = list(_after_the_table(classifier.card, options, partial, photos))
            look(journal.rows(partial), photos)
        partial.unlink()
    _print_summary(out, unread, done, len(photos), time.monotonic() - started, classifier.device)
    print(*lines, sep="\n", end="\n" if lines else "")
    if options.profile:
        _print_profile(watch, classifier, len(photos) - done, request.workers, readers is not None)
    return unread


def _begun(request: Request, settings: dict, options: PredictOptions) -> tuple[Named, int]:
    "The photos of the run, which begins or goes on, and how many of them have their row."
    begin = continue_run if options.resume and request.partial.exists() else start_run
    photos, done = begin(request.partial, settings, request.photos)
    if checked_bs(options.bs) == "auto":
        print_line(f"bs auto: {settings['--bs']}")
    return photos, done


def _threads(photos: int, bs: int | str, workers: int) -> int | None:
    """The threads with which the CPU computes a batch: 1 while every worker has a batch of its own, else one per core.

    On 2 cores an image of an int8 resnet18 took 5.7 ms of processor time in all with 1 thread, 5.9 ms with 2.
    """
    batches = photos / (8 if bs == "auto" else int(bs))
    return 1 if batches >= 4 * workers and workers >= cores() else None


def _readers(request: Request, processes: bool | None, photos: int, closing: contextlib.ExitStack) -> Readers | None:
    """Processes that read photos, which begin to start now and which `closing` ends; None if threads read.

    processes: whether to use them; None if that depends on device, workers and the number of `photos`.
    """
    if not (worthwhile(request.device, request.workers, photos) if processes is None else processes):
        return None
    return closing.enter_context(contextlib.closing(Readers(max(request.workers, 1))))


def _after_the_table(card: Card, options: PredictOptions, partial: Path, photos: Named) -> Iterator[str]:
    "With --sort, sort the photos; yield the lines on them and on unsure answers."
    if options.sort:
        count = sort_photos(Path(options.sort), journal.rows(partial), photos, options.sort_as)
        yield f"sorted {count} photos into {options.sort}; `python -m export.unsort {options.sort}` undoes it"
    if threshold_of(card, options.answer_all, options.fallback) is not None:
        unsure = [is_unsure(row.labels) for row in journal.rows(partial) if row.reason is None]
        yield unsure_line(card, sum(unsure), len(unsure))


def _finished(request: Request, settings: dict, options: PredictOptions) -> Unread:
    "The photos that a finished run could not read. Its zip is written if it is asked for only now."
    unread = finished(request.out, request.kind, settings, request.photos)
    if request.features:
        check_finished(request.features, len(request.photos))
    if options.zip:
        formats.write_zip(request.out)
    if options.sort:
        check_sorted(Path(options.sort))
    return unread


def _new_rows(
    photos: Named,
    classifier: Classifier | Ensemble,
    columns: Columns,
    workers: int,
    watch: Watch,
    readers: Readers | None,
) -> Iterator[Row]:
    "The row of each photo. A photo that can't be read also gets a line on stderr."
    answers = classifier.stream((path for _, path in photos), workers, watch, readers)
    with contextlib.closing(answers):
        for (name, path), answer in zip(photos, answers, strict=True):
            if isinstance(answer, Exception):
                reason = " ".join(str(answer).removeprefix(f"{path}: ").split())
                print_line(f"{path}: {reason}")
                yield Row(name, [], "", file_size(path), reason)
            else:
                labels, figures = columns.keep(*answer[:2])
                features = [journal.packed(each) for each in answer[2:]]  # one, with --features
                yield Row(name, labels, journal.packed(figures), file_size(path), None, *features)


def _with_features(
    path: Path | None, rows: Iterator[Row], count: int, classifier: Classifier | Ensemble
) -> contextlib.AbstractContextManager[Iterator[Row]]:
    "The `count` rows; with --features their features are written to `path` as they pass."
    if path is None:
        return contextlib.nullcontext(rows)
    return contextlib.closing(with_features(path, rows, count, classifier.feature_size))


@contextlib.contextmanager
def _all_rows(partial: Path, new_rows: Iterator[Row], done: int, total: int, bs: int) -> Iterator[Iterator[Row]]:
    "Every row: first the `done` ones of the journal, then the new ones, each appended to the journal first."
    appended = journal.extended(partial, with_bar(new_rows, done, total), bs)
    with contextlib.closing(new_rows), contextlib.closing(appended), opencv_in_one_thread():
        yield itertools.chain(journal.rows(partial), appended)


def _with_errors_file(out: Path, photos: Named, rows: Iterator[Row], unread: Unread) -> Iterator[Row]:
    "The rows. Photos that can't be read are added to `unread`, and listed in the errors file after the last row."
    for (_, path), row in zip(photos, rows, strict=True):
        if row.reason is not None:
            unread.append((row.name, path, row.reason))
        yield row
    formats.write_errors(out, unread)  # before the table of predictions gets its name


def _print_summary(out: Path, unread: Unread, done: int, total: int, seconds: float, device: str) -> None:
    if unread:
        print(f"not read: {len(unread)}; which and why: {formats.errors_file(out)}", file=sys.stderr)
    earlier = f" (and {done} earlier)" if done else ""
    rate = (total - done) / seconds
    print(f"{total - done} images{earlier} in {seconds:.1f} s, {rate:.0f} a second on {device} -> {out}")


def _print_profile(
    watch: Stopwatch, classifier: Classifier | Ensemble, images: int, workers: int, processes: bool
) -> None:
    watch.add({"write": -watch.seconds["wait"]})  # the thread that writes the rows waits for them in between
    runners = classifier.runners(workers, processes)
    print(watch.report(images, workers, classifier.in_flight(workers), processes, runners))
