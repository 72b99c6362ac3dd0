"""The runs of a study as arrays: which validation images each variant and seed has right.

A variant is a loss, or a loss with a value of another option.
"""

from dataclasses import dataclass

import numpy as np

from toolkit.evaluation.results import Predictions, read_history, read_predictions
from toolkit.run import Run


@dataclass(frozen=True)
class Study:
    """Variants by seeds, evaluated on the same images.

    correct: float [variants, seeds, images], 1 if the image was right, 0 if it was wrong, nan if it was not among that
    seed's validation images (a seed may split the data its own way).
    """

    names: list[str]
    runs: list[list[Run]]  # [variants][seeds]
    histories: list[list[dict[str, np.ndarray]]]  # their history.csv
    correct: np.ndarray
    labels: np.ndarray  # int [images]
    counts: np.ndarray | None  # int [classes]: training images

    @property
    def accuracy(self) -> np.ndarray:
        "float [variants, seeds]"
        return np.nanmean(self.correct, axis=2)

    @property
    def images(self) -> int:
        "Number of validation images; each counts once, however many seeds saw it."
        return self.correct.shape[2]

    @property
    def seeds(self) -> int:
        return self.correct.shape[1]


def read_study(runs: dict[str, list[Run]]) -> Study:
    """Read a study from its finished runs: for each variant one run per seed, in the same order of seeds.

    Raises ValueError if two runs with the same seed were trained or evaluated on different photos, or if a run's files
    lack its results.
    """
    columns = list(runs.values())
    predictions = [[_predictions(run) for run in column] for column in columns]
    for column, found in zip(columns, predictions, strict=True):
        for first, run, ours, theirs in zip(columns[0], column, predictions[0], found, strict=True):
            _check_same_photos(first, run, ours, theirs)
    correct, labels = _correct(predictions)
    counts, classes = columns[0][0].recipe["data"]["counts"], predictions[0][0].classes
    training_images = np.array([counts.get(name, 0) for name in classes]) if counts else None
    histories = [[_history(run) for run in column] for column in columns]
    return Study(list(runs), columns, histories, correct, labels, training_images)


def _correct(predictions: list[list[Predictions]]) -> tuple[np.ndarray, np.ndarray]:
    "(correct, labels) as in `Study`, over all images that any seed saw."
    index: dict[str, int] = {}
    for of_seed in predictions[0]:
        for file in of_seed.files:
            index.setdefault(file, len(index))
    correct = np.full((len(predictions), len(predictions[0]), len(index)), np.nan)
    labels = np.zeros(len(index), int)
    for variant, of_seeds in enumerate(predictions):
        for seed, of_run in enumerate(of_seeds):
            at = [index[file] for file in of_run.files]
            correct[variant, seed, at], labels[at] = ~of_run.wrong, of_run.labels
    return correct, labels


def _predictions(run: Run) -> Predictions:
    if (found := read_predictions(run)) is None:
        raise ValueError(f"{run.folder} has no valid_predictions.csv: let the run end, then compare it")
    if len(found.files) != (wanted := run.recipe["data"].get("valid", len(found.files))):
        raise ValueError(
            f"{run.path('valid_predictions.csv')} has {len(found.files)} of {wanted} photos: delete it, "
            "and the same command writes it again"
        )
    return found


def _history(run: Run) -> dict[str, np.ndarray]:
    found = read_history(run)
    if not found or not np.isfinite(found["accuracy"]).any():
        raise ValueError(
            f"{run.path('history.csv')} has no accuracy of any epoch: delete metrics.json beside it, "
            "and the same command writes both again"
        )
    return found


def _check_same_photos(first: Run, run: Run, ours: Predictions, theirs: Predictions) -> None:
    same = ours.files == theirs.files and (ours.labels == theirs.labels).all() and ours.classes == theirs.classes
    if not same or not _fingerprints(first) & _fingerprints(run):
        raise ValueError(
            f"{first.folder} and {run.folder} are runs on different photos and can't be compared: "
            "give another --out to run both again"
        )


def _fingerprints(run: Run) -> set[str]:
    "Those of a run's photos. An older run has the one that counts the photos to predict as its only one."
    names = ("fingerprint", "fingerprint_with_test")
    return {run.recipe["data"][name] for name in names if name in run.recipe["data"]}
