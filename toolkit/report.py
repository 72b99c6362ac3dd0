"""The report page of a run, made from the files in its folder and nothing else.

    python -m toolkit.report RUN

Writes report.html (one self-contained file), curves.png and confusion.png. A run that is still training, or whose
photos have moved, gets a page of what there is.
"""

import base64
import csv
import io
import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from toolkit import metrics, plots
from toolkit.command import command
from toolkit.run import Run, load, write_atomic

PAIRS, EXAMPLES, GALLERY = 12, 3, 24  # confused pairs, photos on each side of one, photos in a gallery
THUMBNAIL = 144  # pixels of the longer side


class Predictions(NamedTuple):
    "valid_predictions.csv: file names, and labels and predictions int [n] as class indices, confidence float [n]."

    files: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray


def write_report(run: Run) -> Path:
    "Write curves.png, confusion.png and report.html of `run`; the page's path. Missing parts of the run are left out."
    history, predictions = read_history(run), read_predictions(run)
    figures = run.read_json("metrics.json") if run.path("metrics.json").exists() else {}
    best = best_epoch(figures, history)
    if history:
        write_atomic(run.path("curves.png"), plots.png(plots.curves(history, best)))
    if predictions:
        matrix = confusion_of(run, predictions)
        write_atomic(run.path("confusion.png"), plots.png(plots.confusion(matrix, run.recipe["classes"])))
    page = run.path("report.html")
    write_atomic(page, render(run, history, predictions, figures, best).encode("utf-8", "replace"))
    return page


# Reading the run


def read_history(run: Run) -> dict[str, np.ndarray]:
    "Columns of history.csv as float [epochs]; empty before the first epoch has finished."
    rows = _rows(run.path("history.csv"))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]} if rows else {}


def read_predictions(run: Run) -> Predictions | None:
    "valid_predictions.csv, or None where there is none. Raises ValueError for a class that recipe.json does not name."
    rows = _rows(run.path("valid_predictions.csv"))
    if not rows:
        return None
    index = {name: i for i, name in enumerate(run.recipe["classes"])}
    unknown = {row[column] for row in rows for column in ("label", "prediction")} - index.keys()
    if unknown:
        raise ValueError(
            f"{run.path('valid_predictions.csv')} has the class {min(unknown)!r}, which recipe.json does not list: "
            "the two files are of different runs"
        )
    labels, predictions = (np.array([index[row[column]] for row in rows]) for column in ("label", "prediction"))
    return Predictions(
        [row["file"] for row in rows], labels, predictions, np.array([float(r["confidence"]) for r in rows])
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def best_epoch(figures: dict, history: dict[str, np.ndarray]) -> int | None:
    "As metrics.json has it, or while training goes on the first epoch of the best accuracy so far."
    if "best_epoch" in figures:
        return figures["best_epoch"]
    if history and np.isfinite(history["accuracy"]).any():
        return int(history["epoch"][np.nanargmax(history["accuracy"])])
    return None


def read_certificate(run: Run) -> dict:
    "The verification that stands in model.onnx's metadata; empty where there is no such file or it carries none."
    if not run.path("model.onnx").exists():
        return {}
    import onnx

    properties = {p.key: p.value for p in onnx.load(run.path("model.onnx"), load_external_data=False).metadata_props}
    return json.loads(properties.get("verification", "{}"))


# Choosing what to show


def confusion_of(run: Run, predictions: Predictions) -> np.ndarray:
    return metrics.confusion_matrix(predictions.labels, predictions.predictions, len(run.recipe["classes"]))


def similarity_order(matrix: np.ndarray) -> list[int]:
    "Class indices with classes that are taken for each other side by side, by average-linkage clustering."
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 3:
        return list(range(len(matrix)))
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    distance = 1 - (share + share.T) / 2
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average")).tolist()


def confused_pairs(matrix: np.ndarray, limit: int) -> list[tuple[int, int]]:
    "(label, prediction) of the most frequent mistakes, the most frequent first."
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:limit]
    return [divmod(int(i), len(matrix)) for i in order if mistakes.flat[i]]


def top(chosen: np.ndarray, score: np.ndarray, limit: int) -> list[int]:
    "Indices where `chosen` holds, of the largest score first."
    indices = np.flatnonzero(chosen)
    return indices[np.argsort(-score[indices], kind="stable")][:limit].tolist()


def command_line(recipe: dict) -> str:
    "What to type to run the recipe again with the options it resolved to."
    words = ["python", "-m", f"recipes.{recipe['recipe']}"]
    for name, value in recipe["options"].items():
        if name in ("out", "resume") or value is None or value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            words += [str(v) for v in value] if isinstance(value, list) else [str(value)]
    return shlex.join(words)


def data_warnings(recipe: dict, support: np.ndarray | None) -> list[str]:
    "What a reader of the figures should know about the data they come from."
    counts, found = recipe["data"].get("counts") or {}, []
    few = [name for name, n in counts.items() if n < 10]
    if few:
        found.append(f"fewer than 10 training images: {_listed(few)}")
    if counts and max(counts.values()) >= 10 * max(1, min(counts.values())):
        found.append(f"unbalanced: {min(counts.values())} to {max(counts.values())} training images a class")
    if support is not None and not support.all():
        absent = [name for name, n in zip(recipe["classes"], support, strict=True) if not n]
        found.append(f"no validation image, so no figure for: {_listed(absent)}")
    return found


def _listed(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


# Photos


def thumbnails(root: Path, files: set[str]) -> dict[str, str]:
    "file -> data URI of a small JPEG, for those of `files` below `root` that can be read."
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda file: (file, _thumbnail(root / file)), sorted(files))
        return {file: uri for file, uri in made if uri}


def _thumbnail(path: Path) -> str | None:
    from PIL import Image

    from toolkit.photo import read_photo

    try:
        image = Image.fromarray(read_photo(path))
    except (OSError, ValueError):
        return None  # moved or broken since: the page shows the name in its place
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


# The page


def render(run: Run, history: dict, predictions: Predictions | None, figures: dict, best: int | None) -> str:
    "The HTML of the page."
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("toolkit", "."), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(percent=percent, number=number)
    recipe = run.recipe
    matrix = confusion_of(run, predictions) if predictions else None
    return environment.get_template("report.html").render(
        run=run,
        recipe=recipe,
        command=command_line(recipe),
        figures=figures,
        headline=headline(figures, predictions, len(recipe["classes"])),
        epochs=len(history.get("epoch", ())),
        best=best,
        curves=curve_panels(history, best),
        matrix=confusion_cells(matrix, recipe["classes"]) if predictions else None,
        examples=examples(run, matrix, predictions) if predictions else None,
        rows=class_rows(recipe, matrix) if predictions else [],
        reliability=reliability_panel(figures, predictions),
        certificate=read_certificate(run),
        warnings=data_warnings(recipe, matrix.sum(1) if predictions else None),
        counts=counts_panel(recipe),
    )


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or np.isnan(value) else f"{100 * value:.{digits}f} %"


def number(value: object) -> str:
    "A value of a JSON file for people: floats in four digits, thousands apart."
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.4g}"


def headline(figures: dict, predictions: Predictions | None, classes: int) -> list[tuple[str, str, str]]:
    "(name, figure, note) of each card at the top; from the predictions alone while metrics.json is not written yet."
    cards = []
    if predictions:
        right, n = int((predictions.labels == predictions.predictions).sum()), len(predictions.files)
        low, high = metrics.wilson_interval(right, n)
        note = f"95 % interval {percent(low)} to {percent(high)} · {right} of {n} images"
        cards.append(("Validation accuracy", percent(right / n), note))
    if "top5" in figures and classes > 5:
        cards.append(("Top-5 accuracy", percent(figures["top5"]), "the label is among the five most probable"))
    if "macro_f1" in figures:
        cards.append(("Macro F1", f"{figures['macro_f1']:.3f}", "every class counts the same"))
    if "ece" in figures:
        after = f" · {figures['scaled_ece']:.3f} after temperature" if "scaled_ece" in figures else ""
        cards.append(("Calibration error", f"{figures['ece']:.3f}", f"ECE, 0 is best{after}"))
    return cards


def curve_panels(history: dict, best: int | None) -> list[dict]:
    "An SVG for each of loss, accuracy and learning rate, with its text for those who can't see it."
    if not history:
        return []
    return [
        {
            "svg": plots.svg(plots.curves(history, best, (title,)), title),
            "alt": f"{title} over {len(history['epoch'])} epochs: "
            + "; ".join(f"{name} from {number(history[c][0])} to {number(history[c][-1])}" for c, name, *_ in lines),
        }
        for title, lines in plots.CURVES.items()
    ]


def confusion_cells(matrix: np.ndarray, classes: list[str]) -> dict:
    "Names in similarity order, and (row, column, count, share of the row) of every cell that is not 0."
    order = similarity_order(matrix)
    matrix = matrix[np.ix_(order, order)]
    support = matrix.sum(1)
    cells = [
        (int(r), int(c), int(matrix[r, c]), matrix[r, c] / support[r]) for r, c in zip(*np.nonzero(matrix), strict=True)
    ]
    return {"names": [classes[i] for i in order], "cells": cells, "support": support.tolist()}


def examples(run: Run, matrix: np.ndarray, predictions: Predictions) -> dict:
    "Photos to look at: both sides of the most confused pairs, the most confident mistakes, the least certain images."
    wrong = predictions.labels != predictions.predictions
    pairs = []
    for label, prediction in confused_pairs(matrix, PAIRS):
        taken = (predictions.labels == label) & (predictions.predictions == prediction)
        right = (predictions.labels == prediction) & ~wrong
        pairs.append((label, prediction, *(top(chosen, predictions.confidence, EXAMPLES) for chosen in (taken, right))))
    mistakes = top(wrong, predictions.confidence, GALLERY)
    uncertain = top(np.ones_like(wrong), -predictions.confidence, GALLERY)
    shown = {i for *_, taken, right in pairs for i in (*taken, *right)} | {*mistakes, *uncertain}
    small = thumbnails(Path(run.recipe["data"]["path"]), {predictions.files[i] for i in shown})
    names = run.recipe["classes"]

    def photo(i: int) -> dict:
        return {
            "file": predictions.files[i],
            "src": small.get(predictions.files[i]),
            "label": names[predictions.labels[i]],
            "prediction": names[predictions.predictions[i]],
            "confidence": float(predictions.confidence[i]),
            "right": not wrong[i],
        }

    return {
        "mistakes": [photo(i) for i in mistakes],
        "uncertain": [photo(i) for i in uncertain],
        "pairs": [
            {
                "label": names[label],
                "prediction": names[prediction],
                "count": int(matrix[label, prediction]),
                "support": int(matrix[label].sum()),
                "back": int(matrix[prediction, label]),
                "taken": [photo(i) for i in taken],
                "right": [photo(i) for i in right],
            }
            for label, prediction, taken, right in pairs
        ],
        "found": len(small),
        "wrong": int(wrong.sum()),
    }


def class_rows(recipe: dict, matrix: np.ndarray) -> list[dict]:
    "A row of the per-class table for each class, with the class it is most often taken for."
    figures, counts = metrics.per_class(matrix), recipe["data"].get("counts") or {}
    mistakes = matrix - np.diag(np.diag(matrix))
    return [
        {
            "name": name,
            "train": counts.get(name),
            **{key: float(figures[key][i]) for key in ("precision", "recall", "f1")},
            "support": int(figures["support"][i]),
            "taken_for": recipe["classes"][mistakes[i].argmax()] if mistakes[i].any() else None,
            "times": int(mistakes[i].max()),
        }
        for i, name in enumerate(recipe["classes"])
    ]


def reliability_panel(figures: dict, predictions: Predictions | None) -> str | None:
    "SVG of the reliability diagram, before and after temperature where metrics.json has both."
    curves = {"as trained": figures.get("reliability")}
    curves["after temperature"] = figures.get("scaled_reliability")
    if predictions and not curves["as trained"]:
        curves["as trained"] = metrics.reliability_curve(
            predictions.confidence, predictions.labels == predictions.predictions
        )
    curves = {name: curve for name, curve in curves.items() if curve}
    return plots.svg(plots.reliability(curves, metrics.wilson_interval), "reliability") if curves else None


def counts_panel(recipe: dict) -> str | None:
    counts = recipe["data"].get("counts")
    return plots.svg(plots.counts(list(counts.values())), "counts") if counts else None


@command
def main(
    run: Path,  # the run folder
):
    "Make the report page of a run again."
    print(write_report(load(run)))
