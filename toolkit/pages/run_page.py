"""The report page of a run, made only from the files in its folder."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.on_disk.photo_files import root_of
from toolkit.evaluation import mistakes
from toolkit.evaluation.best_epoch import best_epoch
from toolkit.evaluation.formatting import number, percent, with_unit
from toolkit.evaluation.heatmaps import Heatmaps, read_heatmaps
from toolkit.evaluation.least_certain import read_least_certain
from toolkit.evaluation.results import (
    Predictions,
    chosen_by,
    read_certificate,
    read_history,
    read_predictions,
    read_promise,
    write_confusion,
    write_per_class,
)
from toolkit.features.doubts import FILE, read_doubts
from toolkit.files import write_atomic
from toolkit.pages import plots
from toolkit.pages.doubts_page import doubt_gallery
from toolkit.pages.drawing import data_uri, heat_uri, png, short, svg
from toolkit.pages.run_again import command_line
from toolkit.pages.run_panels import coverage_panel, curve_panels, finder_panels, reliability_panels
from toolkit.pages.run_text import (
    chance_difference,
    data_warnings,
    duration,
    headline,
    probed,
    transform_facts,
    verified_sentence,
)
from toolkit.run import Run

if TYPE_CHECKING:
    from jinja2 import Environment, Template


def write_report(run: Run) -> Path:
    """Write report.html; with it curves.png, confusion.png, per_class.csv and confusion.csv if there is data for them.

    Returns the path of the page.
    """
    history, predictions, figures = read_history(run), read_predictions(run), run.metrics
    if history:
        best = best_epoch(figures, history, chosen_by(run))
        write_atomic(
            run.path("curves.png"), png(plots.curves(history, best, probe=run.recipe["options"].get("probe") is True))
        )
    if predictions:
        order = mistakes.similarity_order(predictions.confusion)
        names = [predictions.classes[i] for i in order]
        matrix = predictions.confusion[np.ix_(order, order)]
        write_atomic(run.path("confusion.png"), png(plots.confusion(matrix, names), tight=True))
        write_per_class(run, predictions)
        write_confusion(run, predictions)
    page = run.path("report.html")
    write_atomic(page, render(run, history, predictions, figures).encode("utf-8", "replace"))
    return page


@contextmanager
def with_page(run: Run, always: bool = True) -> Iterator[None]:
    """Write the run's page after the block, in which model.onnx is written.

    always: False to write it only if the block raises an error, which goes on. If there is a model.onnx by then, it is
    of older weights, and the page is left as it is.
    """
    try:
        yield
    except Exception as error:
        try:
            if not run.path("model.onnx").exists():
                error.add_note(f"report {write_report(run)}")
        except OSError as fault:
            error.add_note(f"the page could not be written: {fault}")
        raise
    if always:
        write_report(run)


def render(run: Run, history: dict[str, np.ndarray], predictions: Predictions | None, figures: dict) -> str:
    "The HTML of the page. figures: metrics.json, empty if the run has not finished."
    data, best = run.recipe["data"], best_epoch(figures, history, chosen_by(run))
    counts, heatmaps = data.get("counts"), read_heatmaps(run)
    return template("report.html").render(
        folder=named(run.folder),
        root=root_of(data["path"]),
        recipe=run.recipe | {"augment": transform_facts(run.recipe["augment"])},
        exported=run.path("model.onnx").exists(),
        command=command_line(run.recipe),
        figures=figures,
        headline=headline(figures, predictions),
        chance=chance_difference(predictions),
        epochs=len(history.get("epoch", ())),
        best=best,
        chosen_by=chosen_by(run),
        probed=probed(run.recipe),
        curves=curve_panels(history, best, probed(run.recipe)) + finder_panels(run),
        matrix=mistakes.confusion_cells(predictions) if predictions else None,
        examples=examples(run, predictions, heatmaps) if predictions else None,
        heatmaps=heatmaps,
        rows=mistakes.class_rows(predictions, counts or {}) if predictions else [],
        reliability=reliability_panels(figures, predictions),
        coverage=coverage_panel(promise := read_promise(run), predictions),
        promise=promise,
        certificate=(certificate := read_certificate(run)),
        verified=verified_sentence(certificate),
        duration=duration(figures),
        doubts=doubt_gallery(read_doubts(run.path(FILE)), root_of(data["path"])) if run.path(FILE).is_file() else None,
        tested=read_least_certain(run),
        warnings=data_warnings(run.recipe, predictions),
        counts=svg(plots.counts(counts), "counts") if counts else None,
    )


def examples(run: Run, predictions: Predictions, heatmaps: Heatmaps) -> dict:
    "The photos of the page, as `toolkit.evaluation.mistakes.examples` returns them."
    return mistakes.examples(predictions, root_of(run.recipe["data"]["path"]), heatmaps, run.recipe["preprocess"])


def template(name: str) -> "Template":
    "The template `name` of this folder, with the filters and functions that the pages use."
    return _environment().get_template(name)


def named(folder: Path) -> Path:
    "`folder`, by a path that has a name: that of `.` has none."
    return folder if folder.name not in ("", "..") else folder.resolve()


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("toolkit.pages", "."), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(percent=percent, number=number, short=short, data_uri=data_uri, heat_uri=heat_uri)
    environment.globals.update(with_unit=with_unit, repr=repr, named=named, quoted=lambda path: shlex.quote(str(path)))
    return environment
