"""The photos that each fold holds out, predicted by the model that was trained without them."""

from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.on_disk.folds import ABOUT, fold_folder, read_folds
from toolkit.evaluation.best_epoch import out_of_patience
from toolkit.evaluation.results import PREDICTIONS
from toolkit.evaluation.summary import summary
from toolkit.files import read_csv, read_json, replacing, write_csv, write_json
from toolkit.learner.learner import Learner
from toolkit.run import Run, load
from toolkit.training.evaluate import class_indices, predicted, prediction_rows

TABLE, ARRAY, DONE = "out_of_fold_predictions.csv", "out_of_fold_probabilities.npy", "out_of_fold.json"


def evaluate_held_out(learn: Learner, run: Run) -> dict[str, Any]:
    """Predict the photos that the fold of `run` holds out, and return {"epochs", "best_epoch", "images", "accuracy"}.

    After `fit` the weights are the best ones, chosen by the validation photos. The photos are prepared as those of
    validation, and it computes in float32. Written are out_of_fold_predictions.csv (file,label,prediction,confidence),
    out_of_fold_probabilities.npy (float32 [photos, classes], in the order of that table and of the classes in
    recipe.json), and last out_of_fold.json, which holds what is returned.
    """
    held_out = learn.dls.data.held_out
    probabilities = predicted(learn, learn.dls.test_dl([*held_out], num_workers=learn.dls.train.fake_l.num_workers))
    write_csv(run.path(TABLE), PREDICTIONS, prediction_rows(learn, held_out, probabilities))
    write_array(run.path(ARRAY), probabilities)
    right = probabilities.argmax(1) == class_indices(learn, held_out)
    metrics = run.read_json("metrics.json")
    found = {name: metrics[name] for name in ("epochs", "best_epoch")}
    found |= {"images": len(right), "accuracy": float(right.mean())}
    write_json(run.path(DONE), found)
    return found


def write_array(path: Path, probabilities: np.ndarray) -> None:
    "Write probabilities as float32 in numpy's own format."
    with replacing(path) as beside, beside.open("wb") as file:
        np.save(file, probabilities.astype(np.float32, copy=False))


def finished(run: Run, epochs: int | None, patience: int | None = None) -> bool:
    "True if the fold of `run` was trained for `epochs` or to the end of `patience`, and all its files are of then."
    if epochs is None or not run.path(DONE).is_file():
        return False
    done, metrics = run.read_json(DONE), run.read_json("metrics.json")
    over = done["epochs"] >= epochs or out_of_patience(done["epochs"], done["best_epoch"], patience)
    return over and all(done[name] == metrics[name] for name in ("epochs", "best_epoch"))


# All folds together


def gather(out: Path) -> dict[str, Any]:
    """Put the predictions of all folds in `out` together; return the metrics.json written there.

    out_of_fold_predictions.csv and out_of_fold_probabilities.npy have each photo of a fold once, in the order of
    folds.csv. metrics.json has `toolkit.evaluation.summary.summary` of them, and in "each" the figures of each fold.
    Raises FileNotFoundError for a fold that is not done, ValueError if its files are not of its photos.
    """
    about, photos = read_json(out / ABOUT), read_folds(out)
    rows = [row for row in photos if row[2]]  # 0: no fold holds it out
    parts = [_part(load(fold_folder(out, fold)), fold, rows) for fold in range(1, about["folds"] + 1)]
    table = {row[0]: (row, row_of) for lines, array in parts for row, row_of in zip(lines, array, strict=True)}
    lines, arrays = zip(*(table[file] for file, *_ in rows), strict=True)
    index = {name: number for number, name in enumerate(about["classes"])}
    probabilities, labels = np.stack(arrays), np.array([index[label] for _, label, *_ in rows])
    write_csv(out / TABLE, PREDICTIONS, lines)
    write_array(out / ARRAY, probabilities)
    found = {name: about[name] for name in ("folds", "grouped_by", "groups")} | {"in_no_fold": len(photos) - len(rows)}
    found |= summary(probabilities, labels) | {"each": [_figures(out, fold) for fold in range(1, about["folds"] + 1)]}
    write_json(out / "metrics.json", found)
    return found


def _part(run: Run, fold: int, rows: list[tuple[str, str, int, int]]) -> tuple[list[list[str]], np.ndarray]:
    "The table and the probabilities of one fold. Raises ValueError if they are not of its photos."
    _, *lines = read_csv(run.path(TABLE), PREDICTIONS)
    array = np.load(run.path(ARRAY), allow_pickle=False)
    wanted = [(file, label) for file, label, number, _ in rows if number == fold]
    if [tuple(line[:2]) for line in lines] != wanted or array.shape != (len(lines), len(run.recipe["classes"])):
        raise ValueError(f"{run.path(TABLE)} is not of the photos of fold {fold}: remove {run.folder}, and resume")
    return lines, array


def _figures(out: Path, fold: int) -> dict[str, Any]:
    run = load(fold_folder(out, fold))
    done, metrics = run.read_json(DONE), run.metrics
    return {"fold": fold} | done | {"valid_accuracy": metrics["accuracy"], "seconds": metrics["seconds"]}
