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
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export import journal, shards, table
from export.bar import tell, with_bar
from export.card import content as content_of
from export.card import first_line
from export.columns import check_distinct
from export.labeller import Job, Labeller, columns_of
from export.nodes import Share, connected, share_of
from export.objects import Objects, is_uri, named_objects, write_object
from export.resume import resumable
from export.session import Classifier

if TYPE_CHECKING:
    from ray.data import Dataset

Unread = list[tuple[str, str, str]]
"(image_name, path or URI, reason) of each photo that can't be read."

SHARDS, FEWEST, MOST = 1000, 256, 4096
"A run has about SHARDS of them, each of FEWEST to MOST photos: what is lost where an actor dies."

ATTEMPTS = 5
"How often a shard is begun, before a photo in it is held to be what kills the actors."


def predict_on_cluster(
    model: str | Path,
    images: str | Path | dict[str, str | Path],
    out: str | Path,
    *,
    device: str = "auto",
    bs: int = 32,
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
    """Labels `images` (see `export.objects`) into the folder or URI `out`, which all nodes must reach.

    workers: threads that decode in an actor; one for each of its CPUs unless given. share: CPUs an actor has, or with
    cuda and tensorrt GPUs, of which it may be a part. actors: how many at most; as many as the nodes hold unless given.
    address: of a cluster, else RAY_ADDRESS's, else one of this machine alone, which ends with the run.
    Returns the photos that can't be read, as (image_name, path or URI, reason), as `export.predict.predict` does.
    Raises ValueError, ImportError or OSError where a part of it is no good here or on a node, RuntimeError where shards
    kill the actors time and again; what is done is kept, and `resume` goes on with it.
    """
    started, out = time.monotonic(), str(out).rstrip("/")
    _check(out, bs, workers, share, actors)
    photos, model, content = named_objects(images), Path(model), content_of(Path(model))
    options = {"--bs": bs, "--tta": tta, "--probabilities": probabilities, "--top": top, "--fallback": fallback}
    _check_table(Classifier(model, "cpu", bs, tta=tta), options, photos)
    with connected(address):
        given = share_of(device, share, actors)
        asked = {**_asked(content, photos, bs), "device": given.device, **options}
        parts = [photos[start : start + asked["a shard"]] for start in range(0, len(photos), asked["a shard"])]
        place = out if is_uri(out) else os.path.abspath(out)
        job = Job(asked, str(model), place, given.cpus, given.cpus if workers is None else workers)
        with _held(out):
            shards.begun(place, asked, resume)
            with resumable(out):
                unread, earlier = _completed(job, content, parts, given)
                _write_errors(out, unread)
    _tell(out, unread, earlier, len(photos), time.monotonic() - started, given)
    return unread


def _completed(job: Job, content: bytes, parts: list[Objects], share: Share) -> tuple[Unread, int]:
    "The photos that can't be read, once all shards are there; and of how many images the rows were there before."
    sizes = [len(part) for part in parts]
    done = shards.notes(job.out, job.asked, sizes)
    earlier = sum(note.rows for note in done.values())
    if missing := {number: part for number, part in enumerate(parts) if number not in done}:
        _label(missing, content, job, share, earlier)
        done = shards.notes(job.out, job.asked, sizes)
    shards.finish(job.out, job.asked, done, sizes)
    return [(*parts[number][row], reason) for number, note in done.items() for row, reason in note.unread], earlier


def _label(missing: dict[int, Objects], content: bytes, job: Job, share: Share, earlier: int) -> None:
    "Has each shard written. Raises RuntimeError with a node's message, or where the actors die of one."
    import ray
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = 2 * share.actors  # where a node goes while its actors start
    total = earlier + sum(map(len, missing.values()))
    try:
        with DataContext.current(context):
            answers = _pipeline(missing, ray.put(np.frombuffer(content, np.uint8)), job, share).iter_rows()
            for _ in with_bar(_each_row(answers), earlier, total):
                pass
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(
            f"actors died {ATTEMPTS} times over one shard: of a photo in it, or for want of memory, where a smaller "
            f"--bs or fewer --actors help ({first_line(error)})\nwhat is done is kept, for --resume to go on with"
        ) from error


def _pipeline(missing: dict[int, Objects], model, job: Job, share: Share) -> "Dataset":
    "A row for each shard, through the actors."
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    rows = [{"shard": number, "photos": _packed(photos)} for number, photos in missing.items()]
    with warnings.catch_warnings():  # Ray 2.64 is to drop `max_task_retries`, and has nothing in its place yet
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Labeller,
            fn_constructor_args=(model, job),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(share.actors, len(rows))),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_task_retries=ATTEMPTS - 1,
        )


def _packed(photos: Objects) -> str:
    "As JSON, which holds a file name of any bytes; paths from the root, as the nodes see them."
    return json.dumps([(name, where if is_uri(where) else os.path.abspath(where)) for name, where in photos])


def _each_row(answers: Iterable[dict]) -> Iterator[None]:
    for answer in answers:
        if answer["fault"]:
            raise RuntimeError(answer["fault"])
        yield from [None] * answer["rows"]


def _asked(content: bytes, photos: Objects, bs: int) -> dict:
    "What the rows depend on, the options apart. A shard holds whole batches, those of a run on one machine."
    import onnxruntime

    return {
        "model": hashlib.sha256(content).hexdigest(),
        "onnxruntime": onnxruntime.__version__,
        "images": len(photos),
        "their names": hashlib.sha256(json.dumps(photos).encode()).hexdigest(),
        "a shard": bs * math.ceil(min(max(len(photos) / SHARDS, FEWEST), MOST) / bs),
    }


def _check(out: str, bs: int, workers: int | None, share: float | None, actors: int | None) -> None:
    if bs < 1 or (workers or 0) < 0:
        raise ValueError(f"--bs {bs} --workers {workers}: give at least 1 image a batch and 0 threads")
    if (share is not None and share <= 0) or (actors is not None and actors < 1):
        raise ValueError(f"--share {share} --actors {actors}: give more than 0")
    if not is_uri(out) and Path(out).is_file():
        raise NotADirectoryError(f"--out {out} is a file: --engine ray writes a folder of Parquet shards")


def _check_table(classifier: Classifier, options: dict, photos: Objects) -> None:
    "Raises ValueError where the columns asked for are not to be had."
    columns = columns_of(classifier.card.classes, options)
    check_distinct(columns, "parquet")
    texts = (*columns.header, *classifier.card.classes, options["--fallback"])
    table.check_kind("parquet", (*texts, *(name for name, _ in photos)))


def _held(out: str) -> contextlib.AbstractContextManager:
    "The folder for this process alone; an object store has no locks, and there the last look tells."
    return contextlib.nullcontext() if is_uri(out) else journal.held(Path(out))


def _write_errors(out: str, unread: Unread) -> None:
    "predictions.errors.csv beside the folder predictions, on a disk or in the store."
    if not is_uri(out):
        table.write_errors(Path(out), unread)
        return
    with tempfile.TemporaryDirectory() as folder:
        table.write_errors(Path(folder, "shards"), unread)
        if unread:
            write_object(f"{out}.errors.csv", table.errors_file(Path(folder, "shards")).read_bytes())


def _tell(out: str, unread: Unread, earlier: int, total: int, seconds: float, share: Share) -> None:
    for _, where, reason in unread:
        tell(f"{where}: {reason}")
    if unread:
        print(f"not read: {len(unread)}; which and why: {out}.errors.csv", file=sys.stderr)
    before = f" (and {earlier} earlier)" if earlier else ""
    actors = f"{share.actors} actor{'s' if share.actors > 1 else ''}"
    rate = (total - earlier) / seconds
    print(
        f"{total - earlier} images{before} in {seconds:.1f} s, {rate:.0f} a second on {share.device}, {actors} -> {out}"
    )
