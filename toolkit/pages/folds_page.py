"""The report page of a folder of `--folds`, made only from the files in it."""

from pathlib import Path
from typing import Any

from toolkit.data.on_disk.folds import ABOUT
from toolkit.data.on_disk.photo_files import root_of
from toolkit.evaluation import mistakes
from toolkit.evaluation.results import Predictions, predictions_in
from toolkit.files import read_json, write_atomic
from toolkit.pages.run_again import command_line
from toolkit.pages.run_page import template
from toolkit.pages.run_text import accuracy_card, other_cards

MODELS = {"refit": "the refit on all photos", "average": "the average of the {folds} models", None: "not there yet"}
"In words, the model that metrics.json says model.onnx is; None before it does."


def write_folds_report(out: Path) -> Path:
    """Write report.html of the folds in `out`, after `toolkit.training.out_of_fold.gather`. Returns its path.

    Raises FileNotFoundError if not all folds are done.
    """
    if not (out / "metrics.json").is_file():
        raise FileNotFoundError(f"{out} has no page yet, because not all folds are done; each fold's folder has one")
    about, figures = read_json(out / ABOUT), read_json(out / "metrics.json")
    predictions = predictions_in(out / "out_of_fold_predictions.csv", about["classes"])
    page = out / "report.html"
    write_atomic(page, render(out, about, figures, predictions).encode("utf-8", "replace"))
    return page


def render(out: Path, about: dict[str, Any], figures: dict[str, Any], predictions: Predictions) -> str:
    "The HTML of the page. about: folds.json; figures: metrics.json."
    root = root_of(about["data"]["path"])
    options = about["options"] | {"refit": figures.get("model") == "refit", "fold": None}
    return template("folds.html").render(
        out=out,
        about=about,
        root=root,
        figures=figures,
        plain={name: value for name, value in figures.items() if name != "each" and "reliability" not in name},
        headline=[accuracy_card("Out-of-fold accuracy", predictions), *other_cards(figures, predictions)],
        model=MODELS[figures.get("model")].format(**about),
        examples=mistakes.examples(predictions, root),
        rows=mistakes.class_rows(predictions, about["data"]["counts"]),
        command=command_line(about | {"options": options}),
    )
