"""The request for a prediction run on this machine, checked before and after the model is open."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.ensemble import Ensemble
from export.predictions import formats, journal
from export.predictions.columns import Columns, check_distinct, columns_for
from export.predictions.features import check_features
from export.predictions.inputs import Named, named_photos
from export.predictions.options import PredictOptions
from export.predictions.output_files import check_not_read, output_files
from export.predictions.resume import recorded_bs
from export.predictions.sample_submission import in_order, read_sample
from export.predictions.unsure import UNSURE, threshold_of, unsure_below
from export.runtime.batch_size import checked_bs
from export.runtime.metadata import Card, check_exists
from export.runtime.providers import choose_device
from export.session import Classifier
from toolkit.machine import cores


@dataclass(frozen=True)
class Request:
    "The checked request for a run, as far as it is known without the model."

    out: Path
    kind: str
    "csv, json or parquet."
    header: list[str]
    "The columns of --sample; empty without one."
    photos: Named
    device: str
    bs: int | str
    "auto only if the model is to decide."
    workers: int
    features: Path | None = None
    "The file of the features; None to write none."

    @property
    def partial(self) -> Path:
        return journal.partial_of(self.out)


def checked_request(models: Sequence[Path], images: str | Path | dict[str, Path], options: PredictOptions) -> Request:
    "Raises ValueError or OSError if an option, the images, a model file or the device can't be used."
    bs, workers = checked_bs(options.bs), _checked_workers(options.workers)
    out = Path(options.out or f"predictions.{'csv' if options.format == 'auto' else options.format}")
    features = None if options.features is None else Path(options.features)
    written = output_files(out, options.zip, features)
    read = [Path(given) for given in (*models, images, options.sample) if isinstance(given, str | Path)]
    check_not_read(written, read)
    kind = formats.kind_of(out, options.format)
    header, photos = _photos(images, options.sample)
    check_not_read(written, (path for _, path in photos))
    bs = recorded_bs(out) if options.resume and bs == "auto" else bs
    for model in models:
        check_exists(Path(model))
    if features is not None:
        check_features(features, (name for name, _ in photos))
    return Request(out, kind, header, photos, choose_device(options.device), bs, workers, features)


def _checked_workers(workers: int | None) -> int:
    if workers is None:
        return cores()
    if workers < 0:
        raise ValueError(f"--workers {workers}: give 0 threads, for none beside the main one, or more")
    return workers


def _photos(images: str | Path | dict[str, Path], sample: Path | None) -> tuple[list[str], Named]:
    "The sample's header, empty without one; and the photos, with a sample in its order and under its ids."
    photos = named_photos(images)
    if sample is None:
        return [], photos
    header, ids = read_sample(Path(sample))
    return header, in_order(photos, ids, Path(sample))


def checked_columns(card: Card, request: Request, options: PredictOptions) -> Columns:
    "Raises ValueError or ImportError if the table can't have the columns, or the file can't hold the texts."
    columns = columns_for(card.classes, options.probabilities, options.top, request.header)
    columns = columns._replace(
        keep=unsure_below(threshold_of(card, options.answer_all, options.fallback), columns.keep)
    )
    check_distinct(columns, request.kind)
    formats.check_kind(request.kind, texts_of(columns, card.classes, options, request.photos))
    return columns


def texts_of(columns: Columns, classes: list[str], options: PredictOptions, photos: Named) -> Iterator[str]:
    "All text that the table may hold."
    return itertools.chain(columns.header, classes, [options.fallback, UNSURE], (name for name, _ in photos))


def settings_of(classifier: Classifier | Ensemble, request: Request, options: PredictOptions) -> dict:
    "All that a journal's rows depend on, apart from the photos. The table depends on fallback and format too."
    import onnxruntime

    return {
        "model": classifier.checksum,
        "onnxruntime": onnxruntime.__version__,
        "device": classifier.device,
        "--bs": classifier.bs,
        "--tta": classifier.tta,
        "--answer_all": options.answer_all,
        "--probabilities": options.probabilities,
        "--top": options.top,
        "columns of --sample": request.header,
        "--features": None if request.features is None else str(request.features),
    }
