"""The evaluation of a trained run: metrics.json and valid_predictions.csv, and the lines that end a command."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from fastai.data.load import DataLoader

from toolkit.evaluation.best_epoch import HISTORY
from toolkit.evaluation.formatting import optimism_note
from toolkit.evaluation.results import PREDICTIONS, chosen_by
from toolkit.evaluation.summary import summary
from toolkit.files import write_csv, write_json
from toolkit.learner.device import in_float32, peak_memory
from toolkit.learner.learner import Learner
from toolkit.learner.performance import uncompiled, whole_batches
from toolkit.run import Run, load
from toolkit.training.state import read_state

PARTS = {"seconds_data_wait", "seconds_compute", "seconds_validation"}


def evaluate(learn: Learner, run: Run) -> dict[str, Any]:
    """Write metrics.json and valid_predictions.csv of `learn` with its present weights, and return the metrics.

    After `fit` these are the best weights. It computes in float32, as the exported file does, whatever precision
    training uses.
    """
    data, probabilities = learn.dls.data, predicted(learn)
    labels = class_indices(learn, data.valid)
    write_csv(run.path("valid_predictions.csv"), PREDICTIONS, prediction_rows(learn, data.valid, probabilities))
    state = read_state(run.path("last.pt"))
    seconds = [row[HISTORY.index("seconds")] for row in state.history]
    found = {
        "best_epoch": state.best.epoch,
        "epochs": state.epoch,
        **summary(probabilities, labels),
        "seconds": sum(seconds),
        "bs": state.bs,
        "accum": state.accum,
        "images_per_second": len(data.train) * len(seconds) / sum(seconds),
        **_epoch_parts(learn, run),
        **_profile(learn, run),
        "peak_memory_bytes": peak_memory(learn.dls.device),
    }
    write_json(run.path("metrics.json"), found)
    return found


def predicted(learn: Learner, loader: DataLoader | None = None) -> np.ndarray:
    "Probabilities of the photos of `loader`, float32 [photos, classes], computed in float32; by default of validation."
    with learn.no_bar(), in_float32(learn.model), uncompiled(), whole_batches(learn.dls.device, learn.exact):
        return learn.get_preds(dl=loader)[0].numpy()


def class_indices(learn: Learner, labels: dict[Path, str]) -> np.ndarray:
    "The index of each photo's class, int [photos]."
    index = {name: number for number, name in enumerate(learn.dls.vocab)}
    return np.array([index[label] for label in labels.values()])


def prediction_rows(learn: Learner, labels: dict[Path, str], probabilities: np.ndarray) -> list[list[str]]:
    "Rows of file, label, prediction and confidence."
    data, classes = learn.dls.data, learn.dls.vocab
    both = zip(labels.items(), probabilities.argmax(1), probabilities.max(1), strict=True)
    return [[data.relative(photo), label, classes[index], f"{sure:.6f}"] for (photo, label), index, sure in both]


def _epoch_parts(learn: Learner, run: Run) -> dict[str, float]:
    "The seconds of an epoch in the last fit: seconds_data_wait, seconds_compute, seconds_validation."
    measured = learn.time_spent.per_epoch() if learn.time_spent else {}
    return measured or {name: value for name, value in load(run.folder).metrics.items() if name in PARTS}


def _profile(learn: Learner, run: Run) -> dict[str, Any]:
    "The profile of the last fit if --profile was given, else the recorded one of an earlier fit, if any."
    found = next((profile.found() for profile in learn.profiles), {})
    found = found or load(run.folder).metrics.get("profile")
    return {"profile": found} if found else {}


def _test_labels(run: Run) -> str | None:
    "The test_labels.csv beside the run's photos, as a word of a command; None if there is none."
    labels = Path(run.recipe["data"]["path"]) / "test_labels.csv"
    return shlex.quote(str(labels)) if labels.is_file() else None


def print_results(run: Run) -> None:
    "Print the accuracy, the calibration error and the paths of the run's results."
    found = run.read_json("metrics.json")
    best = chosen_by(run)
    by = "" if best == "accuracy" else f", the best by {best}"
    interval = "95 % interval {:.2%} to {:.2%}".format(*found["accuracy_interval"])
    print(
        f"validation accuracy {found['accuracy']:.2%} ({interval}, {found['images']} photos), "
        f"epoch {found['best_epoch']} of {found['epochs']}{by}"
    )
    if flattered := optimism_note(found["epochs"]):
        model = shlex.quote(str(run.path("model.onnx")))
        print(f"             {flattered}; an honest figure needs labelled photos that played no part in choosing:")
        print(f"             python -m export.verify {model} {_test_labels(run) or 'PHOTOS'}")
    after = (
        f", {found['scaled_ece']:.4f} with a temperature fitted to other photos" if found["temperature"] != 1 else ""
    )
    print(f"calibration error {found['ece']:.4f}{after}; details in report.html and by export.verify")
    for name in ("report.html", "curves.png", "model.onnx", "predictions.csv"):
        if run.path(name).is_file():
            print(f"{name.partition('.')[0]:<12} {run.path(name)}")
