"""The rows of `export.predict` by a Ray cluster, as a folder of Parquet shards: `--engine ray`.

The photos are split into shards, which flow through a Ray Data pipeline of actors, each with its share of a node's CPUs
or GPUs. An actor writes a shard as one file, whose name and content depend on nothing but the run: a shard that is done
twice, because an actor or a node died, replaces itself. The machine that started the run holds the list of photos and
a line for each shard, never a row.
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
from export.cluster.pipeline import labelled
from export.predictions import formats, journal
from export.predictions.columns import check_distinct, columns_for
from export.predictions.resume import resumable
from export.runtime.batch_size import checked_bs
from export.runtime.metadata import content as content_of
from export.runtime.progress import tell
from export.session import Classifier
from toolkit.files import target_of

Unread = list[tuple[str, str, str]]
"(image_name, path or URI, reason) of each photo that can't be read."

SHARDS, FEWEST, MOST = 1000, 256, 4096
"A run has about SHARDS of them, each of FEWEST to MOST photos: what is lost where an actor dies."


ON_GPU = 64
"Images a batch that auto stands for on GPUs: the machine that starts a run knows nothing of their memory."


def predict_on_cluster(
    model: str | Path,
    images: str | Path | dict[str, str | Path],
    out: str | Path,
    *,
    device: str = "auto",
    bs: int | str = "auto",
    workers: int | None = None,
    probabilities: bool = False,
    top: int = 0,
    tta: str = "none",
    fallback: str = "",
    resume: bool = False,
    address: str | None = None,
    share: float | None = None,
    actors: int | None = None,
) -> Unread:
    """Labels `images` (see `export.cluster.objects`) into the folder or URI `out`, which all nodes must reach.

    bs: images a batch; auto: what suits the model. workers: threads of an actor; one for each of its CPUs unless given.
    share: CPUs an actor has, or with cuda and tensorrt GPUs, of which it may be a part. actors: how many at most; as
    many as the nodes hold unless given. address: of a cluster, else RAY_ADDRESS's, else one of this machine alone,
    which ends with the run.
    Returns the photos that can't be read, as (image_name, path or URI, reason), as `export.predict.predict` does.
    Raises ValueError, ImportError or OSError where a part of it is no good here or on a node, RuntimeError where shards
    kill the actors time and again; what is done is kept, and `resume` goes on with it.
    """
    started, out = time.monotonic(), str(out).rstrip("/")
    place = out if is_uri(out) else os.path.abspath(out)
    bs = shards.begun_with(place).get("--bs", bs) if resume and bs == "auto" else checked_bs(bs)
    _check(out, workers, share, actors)
    photos, model, content = named_objects(images), Path(model), content_of(Path(model))
    options = {"--tta": tta, "--probabilities": probabilities, "--top": top, "--fallback": fallback}
    classifier = Classifier(model, "cpu", bs, tta=tta)
    _check_table(classifier.card.classes, options, photos)
    with connected(address):
        given = share_of(resources(), device, share, actors)
        if bs == "auto":
            bs = classifier.bs if given.device == "cpu" else ON_GPU
            tell(f"bs auto: {bs}")
        asked = {"device": given.device, "--bs": bs, **options, **_asked(classifier, photos, bs)}
        parts = [photos[start : start + asked["a shard"]] for start in range(0, len(photos), asked["a shard"])]
        job = Job(asked, str(model), place, *_threads(given.cpus, workers, asked["a shard"] / bs))
        with _held(out):
            shards.begun(place, asked, resume)
            with resumable(out):
                done, earlier = _completed(job, content, parts, given)
                unread = [(*parts[number][row], why) for number, note in done.items() for row, why in note.unread]
                _write_errors(out, unread)
                shards.finish(place, asked, done, [len(part) for part in parts])
    _tell(out, unread, earlier, len(photos), time.monotonic() - started, given)
    return unread


def _completed(job: Job, content: bytes, parts: list[Objects], share: Share) -> tuple[dict[int, shards.Note], int]:
    "What the shards say once they are all there, by number; and of how many images the rows were there before."
    sizes = [len(part) for part in parts]
    done = shards.notes(job.out, job.asked, sizes)
    earlier = sum(note.rows for note in done.values())
    if missing := {number: part for number, part in enumerate(parts) if number not in done}:
        labelled(missing, content, job, share, earlier)
        done = shards.notes(job.out, job.asked, sizes)
    return done, earlier


def _threads(cpus: int, workers: int | None, batches: float) -> tuple[int, int]:
    "How many compute a batch, and how many decode and run the model: as on one machine, of so many processors."
    workers = cpus if workers is None else workers
    return 1 if batches >= 4 * workers and workers >= cpus else cpus, workers


def _asked(classifier: Classifier, photos: Objects, bs: int) -> dict:
    "What the rows depend on, the options apart. A shard holds whole batches, those of a run on one machine."
    import onnxruntime

    return {
        "model": classifier.checksum,
        "onnxruntime": onnxruntime.__version__,
        "images": len(photos),
        "their names": hashlib.sha256(json.dumps(photos).encode()).hexdigest(),
        "a shard": bs * math.ceil(min(max(len(photos) / SHARDS, FEWEST), MOST) / bs),
    }


def _check(out: str, workers: int | None, share: float | None, actors: int | None) -> None:
    if (workers or 0) < 0:
        raise ValueError(f"--workers {workers}: give 0 threads, for none beside the main one, or more")
    if (share is not None and share <= 0) or (actors is not None and actors < 1):
        raise ValueError(f"--share {share} --actors {actors}: give more than 0")
    if not is_uri(out) and os.path.exists(out) and not os.path.isdir(out):
        raise NotADirectoryError(f"--out {out} is a file: --engine ray writes a folder of Parquet shards")
    if not is_uri(out):
        target_of(Path(_errors_file(out)))


def _check_table(classes: list[str], options: dict, photos: Objects) -> None:
    "Raises ValueError where the columns asked for are not to be had."
    columns = columns_for(classes, options["--probabilities"], options["--top"])
    check_distinct(columns, "parquet")
    texts = (*columns.header, *classes, options["--fallback"])
    formats.check_kind("parquet", (*texts, *(name for name, _ in photos)))


def _held(out: str) -> contextlib.AbstractContextManager:
    "The folder for this process alone; an object store has no locks, and there the last look tells."
    return contextlib.nullcontext() if is_uri(out) else journal.held(Path(out))


def _errors_file(out: str) -> str:
    "predictions.errors.csv beside the folder predictions, on a disk or in the store."
    return f"{out}.errors.csv" if is_uri(out) else str(formats.errors_file(Path(out)))


def _write_errors(out: str, unread: Unread) -> None:
    "An earlier run's go where there are none."
    if not is_uri(out):
        formats.write_errors(Path(out), unread)
    elif unread:
        with tempfile.TemporaryDirectory() as folder:
            formats.write_errors(Path(folder, "shards"), unread)
            write_object(_errors_file(out), formats.errors_file(Path(folder, "shards")).read_bytes())
    elif posixpath.basename(_errors_file(out)) in names_in(posixpath.dirname(out)):
        remove_object(_errors_file(out))


def _tell(out: str, unread: Unread, earlier: int, total: int, seconds: float, share: Share) -> None:
    for _, where, reason in unread:
        tell(f"{where}: {reason}")
    if unread:
        print(f"not read: {len(unread)}; which and why: {_errors_file(out)}", file=sys.stderr)
    earlier_ones = f" (and {earlier} earlier)" if earlier else ""
    took = f"{seconds:.1f} s, {(total - earlier) / seconds:.0f} a second"
    actors = f"{share.actors} actor{'s' if share.actors > 1 else ''}"
    print(f"{total - earlier} images{earlier_ones} in {took} on {share.device}, {actors} -> {out}")
