"""The texts of the run page: headline figures with their notes, and warnings about the data."""

import math
from typing import Any

from toolkit.errors import first_few
from toolkit.evaluation.formatting import number, optimism_note, percent
from toolkit.evaluation.results import Predictions
from toolkit.evaluation.statistics import macro_f1_interval, wilson_interval

LISTED = 8  # names in a warning about the data
CROPPED = 0.4  # of the photos' area: a crop of photos of 4:3 at 224 of 256 pixels discards 43 %


def headline(figures: dict, predictions: Predictions | None) -> list[tuple[str, str, str]]:
    """(name, figure, note) of each card at the top of the page.

    figures: metrics.json, empty while the run goes on; the accuracy is then that of the predictions so far.
    """
    note = optimism_note(figures.get("epochs"))
    cards = [accuracy_card("Validation accuracy", predictions, note)] if predictions else []
    return cards + other_cards(figures, predictions)


def accuracy_card(name: str, predictions: Predictions, note: str = "") -> tuple[str, str, str]:
    "(name, accuracy, its 95 % interval, its counts and `note`)."
    right, n = int((~predictions.wrong).sum()), len(predictions.files)
    return name, percent(right / n), ", ".join(filter(None, [_wilson(right, n), f"{right} of {n} images", note]))


def other_cards(figures: dict, predictions: Predictions | None) -> list[tuple[str, str, str]]:
    "The cards of top-5 accuracy, macro F1 and calibration error, as far as `figures` has them."
    cards, n = [], len(predictions.files) if predictions else 0
    if "top5" in figures and figures.get("classes", 6) > 5:
        note = "the label is among the five most probable classes"
        if n and 0 <= figures["top5"] <= 1:
            note = f"{_wilson(round(figures['top5'] * n), n)}, {note}"
        cards.append(("Top-5 accuracy", percent(figures["top5"]), note))
    if "macro_f1" in figures:
        note = "the mean over classes; each class counts the same"
        if predictions and (ends := macro_f1_interval(predictions.confusion)):
            note = f"{_interval(*ends)}, {note}"
        cards.append(("Macro F1", percent(figures["macro_f1"]), note))
    if "ece" in figures:
        note = "mean difference of confidence and accuracy (ECE)"
        if "scaled_ece" in figures and figures.get("temperature") != 1:
            note += f"; {percent(figures['scaled_ece'])} after temperature scaling"
        cards.append(("Calibration error", percent(figures["ece"]), note))
    return cards


def _wilson(right: int, images: int) -> str:
    return _interval(*wilson_interval(right, images))


def _interval(low: float, high: float) -> str:
    return f"95 % interval {percent(low)} to {percent(high)}"


def chance_difference(predictions: Predictions | None) -> float | None:
    """The 97.5th percentile of the difference of two accuracies on as many images if both models are equally good.

    1.96 sqrt(2 p (1 - p) / n) with the error rate p. None without predictions, or if all are right or all wrong.
    """
    if not predictions or not 0 < (wrong := predictions.wrong.mean()) < 1:
        return None
    return 1.96 * math.sqrt(2 * wrong * (1 - wrong) / len(predictions.files))


def data_warnings(recipe: dict, predictions: Predictions | None) -> list[str]:
    "Sentences about the data that a reader of the figures should know."
    counts, warnings = recipe["data"].get("counts") or {}, []
    if few := [name for name, n in counts.items() if n < 10]:
        warnings.append(f"Fewer than 10 training images: {first_few(few, LISTED)}.")
    if counts and max(counts.values()) >= 10 * max(1, min(counts.values())):
        warnings.append(f"Unbalanced: {min(counts.values())} to {max(counts.values())} training images per class.")
    if (lost := recipe["data"].get("discarded")) and lost > CROPPED:
        warnings.append(
            f"The centre crop discards {percent(lost, 0)} of the photos' area, on average. If what counts may lie at "
            "an edge, train with --fit pad or --fit squash."
        )
    if left_out := recipe["data"].get("left_out"):
        files = first_few([f"{file} ({reason})" for file, reason in left_out.items()], LISTED)
        warnings.append(f"Left out, because they can't be read: {files}.")
    if predictions:
        support = zip(predictions.classes, predictions.confusion.sum(1), strict=True)
        if absent := [name for name, n in support if not n]:
            warnings.append(f"No validation images, so no recall: {first_few(absent, LISTED)}.")
    return warnings


def duration(figures: dict) -> str:
    "The time of all epochs in words, such as 47 s, 12 min or 3.4 h; empty if it is not known."
    seconds = figures.get("seconds")
    if type(seconds) not in (int, float) or not math.isfinite(seconds):
        return ""
    if seconds < 99.5:
        return f"{seconds:.0f}\u00a0s"
    return f"{seconds / 60:.0f}\u00a0min" if seconds < 5970 else f"{seconds / 3600:.1f}\u00a0h"


def probed(recipe: dict) -> bool:
    "True if the first epoch of a run was a linear probe."
    return recipe["options"].get("probe") is True


def verified_sentence(certificate: dict) -> str:
    "The certificate of model.onnx in one sentence; empty if it lacks a figure."
    names = ("agreement", "images", "accuracy", "probability_difference")
    agreement, images, accuracy, difference = (certificate.get(name) for name in names)
    if not all(type(value) in (int, float) for value in (agreement, images, accuracy, difference)):
        return ""
    return (
        f"model.onnx is the trained model: on {images} validation images it gives the same class for "
        f"{percent(agreement, 2)}, its probabilities differ by at most {number(difference)}, and "
        f"{percent(accuracy, 2)} of its answers are right."
    )


def transform_facts(augment: dict[str, Any]) -> dict[str, Any]:
    "The training transforms of recipe.json in order, each with its arguments; an older record as it is."
    if "transforms" not in augment:
        return augment
    return {f"{number}. {_name(each)}": _arguments(each) for number, each in enumerate(augment["transforms"], 1)}


def _name(transform: dict[str, Any]) -> str:
    return str(transform.get("__class_fullname__")).rpartition(".")[2]


def _arguments(transform: dict[str, Any]) -> str:
    inside = [f"{_name(each)} ({_arguments(each)})" for each in transform.get("transforms", [])]
    hidden = {"__class_fullname__", "transforms"}
    given = [f"{name} {value}" for name, value in transform.items() if name not in hidden and value is not None]
    return ", ".join([*given, *inside])
