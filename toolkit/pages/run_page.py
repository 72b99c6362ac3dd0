"""The report page of a run, made from the files in its folder and nothing else."""

import math
import shlex
from pathlib import Path

import numpy as np

from toolkit.errors import first_few
from toolkit.evaluation import metrics, mistakes
from toolkit.evaluation.intervals import macro_f1_interval
from toolkit.evaluation.results import (
    Predictions,
    best_epoch,
    confusion_csv,
    per_class_csv,
    read_curve,
    read_history,
    read_predictions,
)
from toolkit.files import parse_json, write_atomic
from toolkit.pages import plots
from toolkit.pages.formatting import chosen_among, number, percent, shown
from toolkit.run import Run

LISTED = 8  # names in a warning about the data


def write_report(run: Run) -> Path:
    "Write the page of `run`, its pictures and its tables by class, what there is data for; the page's path."
    history, predictions = read_history(run), read_predictions(run)
    figures = run.metrics
    best = best_epoch(figures, history)
    if history:
        write_atomic(run.path("curves.png"), plots.png(plots.curves(history, best)))
    if predictions:
        order = mistakes.similarity_order(predictions.confusion)
        names = [predictions.classes[i] for i in order]
        write_atomic(
            run.path("confusion.png"), plots.png(plots.confusion(predictions.confusion[np.ix_(order, order)], names))
        )
        write_atomic(run.path("per_class.csv"), per_class_csv(predictions))
        write_atomic(run.path("confusion.csv"), confusion_csv(predictions))
    page = run.path("report.html")
    write_atomic(page, render(run, history, predictions, figures, best).encode("utf-8", "replace"))
    return page


def read_certificate(run: Run) -> dict:
    "The verification in model.onnx's metadata; empty where there is no such file or it carries none."
    if not run.path("model.onnx").exists():
        return {}
    import onnx

    try:
        model = onnx.load(run.path("model.onnx"), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError derives from Exception alone
        return {"model.onnx": f"can't be read: {error}"}
    said = {prop.key: prop.value for prop in model.metadata_props}.get("verification", "{}")
    try:
        certificate = parse_json(said)
    except ValueError as error:
        return {"model.onnx": f"its verification is not JSON: {error}"}
    return certificate if isinstance(certificate, dict) else {"model.onnx": "its verification is no certificate"}


NOT_TYPED = {"out", "resume", "processes", "minutes"}
"Options of a run that its command does not repeat: its folder, how it was started, and what `epochs` came of."


ON = {"probe"}
"Options that are on unless `--no-NAME` is given."


def command_line(recipe: dict) -> list[str]:
    "What to type to run the recipe again, into a new folder, with the options it resolved to; one option an item."
    words = [shlex.join(["python", "-m", f"recipes.{recipe['recipe']}"])]
    for name, value in recipe["options"].items():
        if name in NOT_TYPED or value in (None, []):
            continue
        if isinstance(value, bool):
            if value != (name in ON):
                words.append(shlex.join([f"--no-{name}" if name in ON else f"--{name}"]))
        else:
            words.append(shlex.join([f"--{name}", *map(str, value if isinstance(value, list) else [value])]))
    return words


def headline(figures: dict, predictions: Predictions | None) -> list[tuple[str, str, str]]:
    "(name, figure, note) of each card at the top; of the predictions alone while metrics.json is not written yet."
    cards, n = [], len(predictions.files) if predictions else 0
    if predictions:
        right = int((~predictions.wrong).sum())
        note = ", ".join(
            filter(None, [_wilson(right, n), f"{right} of {n} images", chosen_among(figures.get("epochs"))])
        )
        cards.append(("Validation accuracy", percent(right / n), note))
    if "top5" in figures and figures.get("classes", 6) > 5:
        among = "the label is among the five most probable"
        note = f"{_wilson(round(figures['top5'] * n), n)}, {among}" if n and 0 <= figures["top5"] <= 1 else among
        cards.append(("Top-5 accuracy", percent(figures["top5"]), note))
    if "macro_f1" in figures:
        note = "the mean over classes, however many images each has"
        if predictions and (ends := macro_f1_interval(predictions.confusion)):
            note = f"{_interval(*ends)}, {note}"
        cards.append(("Macro F1", percent(figures["macro_f1"]), note))
    if "ece" in figures:
        scaled = "scaled_ece" in figures and figures.get("temperature") != 1
        after = f", {percent(figures['scaled_ece'])} after temperature" if scaled else ""
        cards.append(
            ("Calibration error", percent(figures["ece"]), f"how far confidence is from accuracy (ECE){after}")
        )
    return cards


def _wilson(right: int, images: int) -> str:
    return _interval(*metrics.wilson_interval(right, images))


def _interval(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)} (95 % interval)"


def chance(predictions: Predictions | None) -> float | None:
    "The difference of two accuracies like this one, on as many images, that chance stays below 19 times out of 20."
    if not predictions or not 0 < (wrong := predictions.wrong.mean()) < 1:
        return None
    return 1.96 * math.sqrt(2 * wrong * (1 - wrong) / len(predictions.files))


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


def reliability_panels(figures: dict, predictions: Predictions | None) -> list[dict]:
    "An SVG of the reliability diagram, and one after the temperature of metrics.json, unless that is 1."
    curves = {"As trained": figures.get("reliability")}
    if figures.get("temperature") != 1:
        curves["After temperature"] = figures.get("scaled_reliability")
    if predictions and not curves["As trained"]:
        curves["As trained"] = metrics.reliability_curve(predictions.confidence, ~predictions.wrong)
    return [
        {
            "svg": plots.svg(plots.reliability(merged(curve), title, metrics.wilson_interval), title),
            "alt": f"{title}, calibration error {percent(metrics.calibration_error(curve))}: "
            + "; ".join(
                f"{percent(b['confidence'], 0)} sure, {percent(b['accuracy'], 0)} right" for b in merged(curve)
            ),
        }
        for title, curve in curves.items()
        if curve
    ]


def merged(curve: list[dict], least: int = 10) -> list[dict]:
    "The reliability curve with neighbouring bins joined until each holds `least` images: fewer say nothing."
    joined: list[dict] = []
    for b in curve:
        joined = [*joined[:-1], _join(joined[-1], b)] if joined and joined[-1]["count"] < least else [*joined, b]
    if len(joined) > 1 and joined[-1]["count"] < least:
        joined = [*joined[:-2], _join(*joined[-2:])]
    return joined


def _join(a: dict, b: dict) -> dict:
    count = a["count"] + b["count"]
    means = {key: (a[key] * a["count"] + b[key] * b["count"]) / count for key in ("confidence", "accuracy")}
    return {"low": a["low"], "high": b["high"], **means, "count": count}


def data_warnings(recipe: dict, predictions: Predictions | None) -> list[str]:
    "What a reader of the figures should know about the data they come from."
    counts, found = recipe["data"].get("counts") or {}, []
    if few := [name for name, n in counts.items() if n < 10]:
        found.append(f"Fewer than 10 training images: {first_few(few, LISTED)}.")
    if counts and max(counts.values()) >= 10 * max(1, min(counts.values())):
        found.append(f"Unbalanced: {min(counts.values())} to {max(counts.values())} training images a class.")
    if left_out := recipe["data"].get("left_out"):
        said = first_few([f"{file} ({reason})" for file, reason in left_out.items()], LISTED)
        found.append(f"Left out, as they can't be read: {said}.")
    if predictions:
        support = zip(predictions.classes, predictions.confusion.sum(1), strict=True)
        if absent := [name for name, n in support if not n]:
            found.append(f"No validation image, so no figure: {first_few(absent, LISTED)}.")
    return found


def render(run: Run, history: dict, predictions: Predictions | None, figures: dict, best: int | None) -> str:
    "The HTML of the page."
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("toolkit.pages", "."), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(percent=percent, number=number, short=plots.short)
    environment.globals.update(shown=shown, repr=repr, quoted=lambda path: shlex.quote(str(path)))  # to be pasted
    counts = run.recipe["data"].get("counts")
    return environment.get_template("report.html").render(
        run=run,
        recipe=run.recipe,
        exported=run.path("model.onnx").exists(),
        command=command_line(run.recipe),
        figures=figures,
        headline=headline(figures, predictions),
        chance=chance(predictions),
        epochs=len(history.get("epoch", ())),
        best=best,
        curves=curve_panels(history, best) + finder_panels(run),
        matrix=mistakes.confusion_cells(predictions) if predictions else None,
        examples=mistakes.examples(predictions, Path(run.recipe["data"]["path"])) if predictions else None,
        rows=mistakes.class_rows(predictions, run.recipe["data"].get("counts") or {}) if predictions else [],
        reliability=reliability_panels(figures, predictions),
        certificate=read_certificate(run),
        warnings=data_warnings(run.recipe, predictions),
        counts=plots.svg(plots.counts(list(counts.values())), "counts") if counts else None,
    )


def finder_panels(run: Run) -> list[dict]:
    "The plot as SVG with its text for those who can't see it; none where no rate was searched for."
    curve = read_curve(run)
    if curve is None:
        return []
    low = int(np.argmin(curve.losses))
    alt = (
        f"Learning-rate finder: the training loss is {number(curve.losses[0])} at a rate of {curve.lrs[0]:.0e}, "
        f"lowest with {number(curve.losses[low])} at {curve.lrs[low]:.1e}, {number(curve.losses[-1])} at "
        f"{curve.lrs[-1]:.1e}; chosen is {curve.chosen:g}"
    )
    return [{"svg": plots.svg(plots.finder(curve.lrs, curve.losses, curve.chosen), "finder"), "alt": alt}]
