"""The work of each actor of a cluster: it labels a shard of photos and writes one Parquet file.

Ray loads it on every node: the node needs this package, and onnxruntime in the version that started the run.
"""

import io
import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from export.cluster.objects import AT_ONCE, Objects, is_uri, read_object, write_object
from export.cluster.shards import run_of, shard_file
from export.predictions.columns import Columns, columns_for
from export.predictions.formats import cells_of, write_parquet
from export.predictions.journal import Row, packed
from export.predictions.unsure import is_unsure, unsure_below
from export.runtime.metadata import Card
from export.session import Classifier
from toolkit.errors import user_message
from toolkit.threads import in_order


class Job(NamedTuple):
    "The part of a run that is the same for all its actors."

    settings: dict
    "All that the rows depend on: onnxruntime (its version), device, --bs, --tta, --probabilities, --top, ..."
    model: str
    "Its file name, for messages; the content comes from the node's object store."
    out: str
    threads: int
    "Threads that compute a batch."
    workers: int
    "Threads that decode and that run the model."


class Labeller:
    "It labels one shard after another, with a classifier that is loaded once."

    def __init__(self, model, job: Job):
        "model: a reference to the file's bytes, uint8 [n], of which each node has one copy."
        self.model, self.job, self.classifier = model, job, None

    def __call__(self, row: dict) -> dict:
        """Write the shard of `row`, {shard: number, photos: JSON of its Objects}; return {rows, fault}.

        fault: a message for the user, empty if there is none. Ray would show an exception with its own traceback; only
        a bug of ours is raised.
        """
        number, photos = int(row["shard"]), json.loads(row["photos"])
        try:
            self.classifier = self.classifier or _loaded(self.model, self.job)
            columns = _columns(self.classifier.card, self.job.settings)
            rows = list(_rows(self.classifier, photos, columns, self.job.workers))
            write_object(shard_file(self.job.out, number), _shard(rows, columns, self.job))
        except (ValueError, ImportError, OSError) as error:
            if (message := user_message(error)) is None:
                raise
            return {"rows": 0, "fault": f"{message} (on {socket.gethostname()})"}
        return {"rows": len(rows), "fault": ""}


def _columns(card: Card, settings: dict) -> Columns:
    columns = columns_for(card.classes, settings["--probabilities"], settings["--top"])
    return columns._replace(keep=unsure_below(None if settings["--answer_all"] else card.threshold, columns.keep))


def _loaded(model, job: Job) -> Classifier:
    import cv2
    import onnxruntime
    import ray

    settings = job.settings
    if onnxruntime.__version__ != settings["onnxruntime"]:
        raise ImportError(
            f"onnxruntime {onnxruntime.__version__} here, {settings['onnxruntime']} on the machine that "
            "started the run: install one version on all nodes"
        )
    cv2.setNumThreads(0)  # the decoding threads already fill this actor's share
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(job.model).name)
        path.write_bytes(ray.get(model))
        classifier = Classifier(path, settings["device"], settings["--bs"], job.threads, settings["--tta"])
    classifier.model = Path(job.model)  # what its messages name
    return classifier


def _rows(classifier: Classifier, photos: Objects, columns: Columns, workers: int) -> Iterator[Row]:
    "The row of each photo, the same as on one machine."
    failed: dict[int, OSError] = {}
    answers = classifier.stream(_contents([where for _, where in photos], classifier.bs, failed), workers)
    for number, ((name, where), answer) in enumerate(zip(photos, answers, strict=True)):
        answer = failed.pop(number, answer)
        if isinstance(answer, Exception):
            reason = str(answer).removeprefix(f"{where}: ").removeprefix("<bytes>: ")
            yield Row(name, [], "", None, " ".join(reason.split()))
        else:
            labels, figures = columns.keep(*answer)
            yield Row(name, labels, packed(figures), None, None)


def _contents(locations: list[str], bs: int, failed: dict[int, OSError]) -> Iterator[str | bytes]:
    "Paths as they are, and the content of URIs, read ahead; b'' if it can't be read, with the error in `failed`."
    read_ahead = in_order(_content, locations, AT_ONCE if any(map(is_uri, locations)) else 0, ahead=2 * bs)
    for number, content in enumerate(read_ahead):
        if isinstance(content, OSError):
            failed[number], content = content, b""
        yield content


def _content(where: str) -> str | bytes | OSError:
    if not is_uri(where):
        return where
    try:
        return read_object(where)
    except OSError as error:
        return error


def _shard(rows: list[Row], columns: Columns, job: Job) -> bytes:
    "The bytes of the Parquet file, with the note that `export.cluster.shards` reads in its footer."
    unread = [(number, row.reason) for number, row in enumerate(rows) if row.reason is not None]
    unsure, file = sum(is_unsure(row.labels) for row in rows), io.BytesIO()
    note = {"run": run_of(job.settings), "unread": json.dumps(unread), "unsure": str(unsure)}
    write_parquet(file, columns, (cells_of(row, columns, job.settings["--fallback"]) for row in rows), note)
    return file.getvalue()
