"""The rows of `export.predict` from a Ray cluster, as a folder of Parquet shards: `--engine ray`.

The photos are split into shards, which flow through a Ray Data pipeline of actors. Each actor has its share of a node's
CPUs or GPUs. It writes a shard as one file, whose name and content depend on nothing but the run: a shard that is
written twice, because an actor or a node died, replaces itself. The machine that started the run holds the list of
photos and one line per shard, never a row.
"""

import contextlib
import hashlib
import json
import math
import os
import posixpath
import sys
import tempfile
import time
from pathlib import Path

from export.cluster import shards
from export.cluster.labeller import Job
from export.cluster.nodes import Share, connected, resources, share_of
from export.cluster.objects import Objects, is_uri, named_objects, names_in, remove_object, write_object
from export.cluster.pipeline import label_shards
from export.predictions import formats, journal
from export.predictions.columns import check_distinct, columns_for
from export.predictions.options import PredictOptions
from export.predictions.resume import resumable
from export.predictions.unsure import UNSURE, threshold_of, unsure_line
from export.runtime.batch_size import checked_bs
from export.runtime.metadata import Card
from export.runtime.metadata import content as content_of
from export.runtime.progress import print_line
from export.session import Classifier
from toolkit.files import target_of

Unread = list[tuple[str, str, str]]
"(image_name, path or URI, reason) of each photo that can't be read."

SHARDS, FEWEST, MOST = 1000, 256, 4096
"A run has about SHARDS shards, each of FEWEST to MOST photos: what is lost if an actor dies."

ON_GPU = 64
"The batch size that auto means on GPUs: the machine that starts a run knows nothing of their memory."


def predict_on_cluster(
    model: str | Path, images: str | Path | dict[str, str | Path], options: PredictOptions
) -> Unread:
    """Label `images` (see `export.cluster.objects`) into the folder or URI `options.out`, which all nodes must reach.

    An actor has `options.share` CPUs, or GPUs with cuda and tensorrt, and `options.workers` threads (default: one per
    CPU). Without an address, in the options or in RAY_ADDRESS, the cluster is this machine and ends with the run.
    Returns the photos that can't be read, as (image_name, path or URI, reason), as `export.predict.predict` does.
    Raises ValueError, ImportError or OSError if something can't be used, here or on a node; RuntimeError if shards kill
    the actors again and again. Finished shards are kept, and `resume` continues with the rest.
    """
    started, out = time.monotonic(), str(options.out or "predictions").rstrip("/")
    target = out if is_uri(out) else os.path.abspath(out)
    bs = checked_bs(options.bs)
    if options.resume and bs == "auto":
        bs = shards.recorded_settings(target).get("--bs", bs)
    _check(out, options)
    photos, model, content = named_objects(images), Path(model), content_of(Path(model))
    classifier = Classifier(model, "cpu", bs, tta=options.tta)
    _check_table(classifier.card, options, photos)
    with connected(options.address):
        share = share_of(resources(), options.device, options.share, options.actors)
        if bs == "auto":
            bs = classifier.bs if share.device == "cpu" else ON_GPU
            print_line(f"bs auto: {bs}")
        settings = _settings(classifier, photos, options, share.device, bs)
        size = settings["a shard"]
        parts = [photos[start : start + size] for start in range(0, len(photos), size)]
        job = Job(settings, str(model), target, *_threads(share.cpus, options.workers, size / bs))
        with _held(out):
            shards.prepare_folder(target, settings, options.resume)
            with resumable(out):
                done, earlier = _completed(job, content, parts, share)
                unread = [(*parts[number][row], why) for number, note in done.items() for row, why in note.unread]
                _write_errors(out, unread)
                shards.finish(target, settings, done, [len(part) for part in parts])
    _print_summary(out, unread, earlier, len(photos), time.monotonic() - started, share)
    if threshold_of(classifier.card, options.answer_all, options.fallback) is not None:
        print(unsure_line(classifier.card, sum(note.unsure for note in done.values()), len(photos) - len(unread)))
    return unread


def _check(out: str, options: PredictOptions) -> None:
    "Raises ValueError or OSError for an option out of range, and if `out` can't be written."
    workers, share, actors = options.workers, options.share, options.actors
    if (workers or 0) < 0:
        raise ValueError(f"--workers {workers}: give 0 threads, for none beside the main one, or more")
    if (share is not None and not share > 0) or (actors is not None and actors < 1):
        raise ValueError(f"--share {share} --actors {actors}: give more than 0")
    if not is_uri(out) and os.path.exists(out) and not os.path.isdir(out):
        raise NotADirectoryError(f"--out {out} is a file: --engine ray writes a folder of Parquet shards")
    if not is_uri(out):
        target_of(Path(_errors_file(out)))


def _check_table(card: Card, options: PredictOptions, photos: Objects) -> None:
    "Raises ValueError if the table can't have the columns or the texts."
    columns = columns_for(card.classes, options.probabilities, options.top)
    threshold_of(card, options.answer_all, options.fallback)
    check_distinct(columns, "parquet")
    texts = (*columns.header, *card.classes, options.fallback, UNSURE)
    formats.check_kind("parquet", (*texts, *(name for name, _ in photos)), "--engine ray, which writes Parquet")


def _settings(classifier: Classifier, photos: Objects, options: PredictOptions, device: str, bs: int) -> dict:
    "All that the rows depend on. A shard holds whole batches, the same as those of a run on one machine."
    import onnxruntime

    return {
        "device": device,
        "--bs": bs,
        "--tta": options.tta,
        "--probabilities": options.probabilities,
        "--top": options.top,
        "--fallback": options.fallback,
        "--answer_all": options.answer_all,
        "model": classifier.checksum,
        "onnxruntime": onnxruntime.__version__,
        "images": len(photos),
        "their names": hashlib.sha256(json.dumps(photos).encode()).hexdigest(),
        "a shard": bs * math.ceil(min(max(len(photos) / SHARDS, FEWEST), MOST) / bs),
    }


def _threads(cpus: int, workers: int | None, batches: float) -> tuple[int, int]:
    "The threads that compute a batch, and those that decode and run the model: as on one machine with `cpus` cores."
    workers = cpus if workers is None else workers
    return 1 if batches >= 4 * workers and workers >= cpus else cpus, workers


def _held(out: str) -> contextlib.AbstractContextManager:
    "Lock the folder for this process. An object store has no locks: there `shards.finish` finds a second run."
    return contextlib.nullcontext() if is_uri(out) else journal.held(Path(out))


def _completed(job: Job, content: bytes, parts: list[Objects], share: Share) -> tuple[dict[int, shards.Note], int]:
    "The note of every shard by number, once all are written; and the number of images whose rows were there before."
    sizes = [len(part) for part in parts]
    done = shards.notes(job.out, job.settings, sizes)
    earlier = sum(note.rows for note in done.values())
    if missing := {number: part for number, part in enumerate(parts) if number not in done}:
        label_shards(missing, content, job, share, earlier)
        done = shards.notes(job.out, job.settings, sizes)
    return done, earlier


def _errors_file(out: str) -> str:
    "predictions.errors.csv beside the folder predictions, on a disk or in the store."
    return f"{out}.errors.csv" if is_uri(out) else str(formats.errors_file(Path(out)))


def _write_errors(out: str, unread: Unread) -> None:
    "Without unread photos, remove the errors file of an earlier run."
    if not is_uri(out):
        formats.write_errors(Path(out), unread)
    elif unread:
        with tempfile.TemporaryDirectory() as folder:
            formats.write_errors(Path(folder, "shards"), unread)
            write_object(_errors_file(out), formats.errors_file(Path(folder, "shards")).read_bytes())
    elif posixpath.basename(_errors_file(out)) in names_in(posixpath.dirname(out)):
        remove_object(_errors_file(out))


def _print_summary(out: str, unread: Unread, earlier: int, total: int, seconds: float, share: Share) -> None:
    for _, where, reason in unread:
        print_line(f"{where}: {reason}")
    if unread:
        print(f"not read: {len(unread)}; which and why: {_errors_file(out)}", file=sys.stderr)
    earlier_ones = f" (and {earlier} earlier)" if earlier else ""
    rate = f"{seconds:.1f} s, {(total - earlier) / seconds:.0f} a second"
    actors = f"{share.actors} actor{'s' if share.actors > 1 else ''}"
    print(f"{total - earlier} images{earlier_ones} in {rate} on {share.device}, {actors} -> {out}")
