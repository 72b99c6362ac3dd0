"""Losses, or any other option, compared over seeds: which differ, and what it would take to tell those that may not.

Pure functions on what the runs of `recipes.loss_study` left. Shapes: correct float [variants, seeds, images], 1 where
the image was right, 0 where it was wrong, nan where it was not among that seed's validation images (a seed may split
the data its own way).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from toolkit.evaluation import metrics, paired
from toolkit.evaluation.results import Predictions, best_epoch, read_history, read_predictions
from toolkit.run import Run

SEEDS = 5  # fewer suggest a difference at most
THIRDS = ("rare", "middle", "frequent")


@dataclass(frozen=True)
class Study:
    "Variants (a loss, or a loss with a value) by seeds, judged on the same images."

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
        "Validation images, each counted once however many seeds saw it."
        return self.correct.shape[2]


def read_study(runs: dict[str, list[Run]]) -> Study:
    """The study of finished runs, of each variant one a seed, in the same order of seeds.

    Raises ValueError where two runs that are to be paired were not judged on the same photos, or trained on others, and
    where a run's files lack what it measured.
    """
    columns = list(runs.values())
    predictions = [[_predictions(run) for run in column] for column in columns]
    for column, said in zip(columns, predictions, strict=True):
        for first, run, ours, theirs in zip(columns[0], column, predictions[0], said, strict=True):
            _same_photos(first, run, ours, theirs)
    place: dict[str, int] = {}
    for one in predictions[0]:
        for file in one.files:
            place.setdefault(file, len(place))
    correct = np.full((len(columns), len(columns[0]), len(place)), np.nan)
    labels = np.zeros(len(place), int)
    for variant, said in enumerate(predictions):
        for seed, one in enumerate(said):
            at = [place[file] for file in one.files]
            correct[variant, seed, at], labels[at] = ~one.wrong, one.labels
    counts, classes = columns[0][0].recipe["data"]["counts"], predictions[0][0].classes
    numbers = np.array([counts.get(name, 0) for name in classes]) if counts else None
    histories = [[_history(run) for run in column] for column in columns]
    return Study(list(runs), columns, histories, correct, labels, numbers)


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


def _same_photos(first: Run, run: Run, ours: Predictions, theirs: Predictions) -> None:
    same = ours.files == theirs.files and (ours.labels == theirs.labels).all() and ours.classes == theirs.classes
    if not same or first.recipe["data"]["fingerprint"] != run.recipe["data"]["fingerprint"]:
        raise ValueError(
            f"{first.folder} and {run.folder} are runs on different photos and can't be compared: "
            "give another --out to run both again"
        )


# Of each variant


def variants(study: Study) -> list[dict]:
    """A row for each variant: name, seeds, images, accuracy (mean over seeds), sd (over seeds, nan for one seed), low
    and high, and of best_epoch, epochs_to_90 and seconds the mean over seeds.

    low and high are Wilson's 95 % interval of one model of this accuracy on so many images, each counted once: what
    other images might give. What other seeds might give is sd.
    """
    rows = []
    for name, accuracy, histories in zip(study.names, study.accuracy, study.histories, strict=True):
        mean = float(accuracy.mean())
        low, high = metrics.wilson_interval(round(mean * study.images), study.images)
        rows.append(
            {
                "name": name,
                "seeds": len(accuracy),
                "images": study.images,
                "accuracy": mean,
                "sd": float(accuracy.std(ddof=1)) if len(accuracy) > 1 else float("nan"),
                "low": low,
                "high": high,
                "best_epoch": float(np.mean([best_epoch({}, history) for history in histories])),
                "epochs_to_90": float(np.mean([epochs_to(history, 0.9) for history in histories])),
                "seconds": float(np.mean([history["seconds"].sum() for history in histories])),
            }
        )
    return rows


def epochs_to(history: dict[str, np.ndarray], share: float) -> int:
    "The first epoch whose validation accuracy is `share` of the best one's, or more."
    reached = history["accuracy"] >= share * np.nanmax(history["accuracy"])
    return int(history["epoch"][np.argmax(reached)])


# Of each pair


def pairs(study: Study) -> list[dict]:
    """A row for each pair of variants a, b: difference (accuracy of a less that of b, mean over seeds), low and high
    (`crossed`), only_a, only_b and mcnemar_p (`votes`), by_seed (McNemar's p for each seed), p (`crossed`; for one seed
    McNemar's), mcnemar_holm and p_holm (corrected for the number of pairs), images_least and images_seen
    (`images_to_tell`, for a difference as large as the interval allows and for the one seen), and verdict; all but the
    verdict by `toolkit.evaluation.paired`.

    verdict: "differ" if p_holm is below ALPHA, on fewer than SEEDS seeds "suggests"; "seeds" if mcnemar_holm alone is:
    these models differ then, and only more seeds can tell whether others would; else "same".
    """
    rows = [_pair(study, a, b) for a, b in combinations(range(len(study.names)), 2)]
    for key, corrected in (("mcnemar_p", "mcnemar_holm"), ("p", "p_holm")):
        for row, p in zip(rows, paired.holm([row[key] for row in rows]), strict=True):
            row[corrected] = float(p)
    strictest = paired.ALPHA / max(len(rows), 1)  # a pair is told apart at the corrected level, at worst this one
    for row in rows:
        found, far = row.pop("spread"), max(abs(row["low"]), abs(row["high"]))
        row["images_least"] = paired.images_to_tell(found, far, study.images, strictest)
        row["images_seen"] = paired.images_to_tell(found, found.mean, study.images, strictest)
        row["verdict"] = _verdict(row, study.correct.shape[1])
    return rows


def _verdict(row: dict, seeds: int) -> str:
    if row["p_holm"] < paired.ALPHA:
        return "differ" if seeds >= SEEDS else "suggests"
    return "seeds" if row["mcnemar_holm"] < paired.ALPHA else "same"


def _pair(study: Study, a: int, b: int) -> dict:
    correct_a, correct_b = study.correct[a], study.correct[b]
    only_a, only_b, mcnemar_p = paired.votes(correct_a, correct_b)
    found = paired.spread(correct_a - correct_b)
    low, high, crossed_p = paired.crossed(found)
    return {
        "a": study.names[a],
        "b": study.names[b],
        "difference": found.mean,
        "low": low,
        "high": high,
        "only_a": only_a,
        "only_b": only_b,
        "by_seed": [paired.votes(correct_a[[seed]], correct_b[[seed]])[2] for seed in range(len(correct_a))],
        "mcnemar_p": mcnemar_p,
        "p": crossed_p if len(correct_a) > 1 else mcnemar_p,
        "spread": found,
    }


# Rare classes


def thirds(counts: np.ndarray) -> np.ndarray:
    """int [classes]: 0 for the rarest third of the classes, 1, 2 for the most frequent, from training images of each.

    Classes of one count share their mean rank and so stay together; where all have one, all are in the middle.
    """
    from scipy.stats import rankdata

    return ((rankdata(counts) - 0.5) * 3 // len(counts)).astype(int)


def rare(study: Study) -> list[dict]:
    """Recall by class-frequency third: of each that has images its name, classes, images, fewest and most training
    images, and of each variant (name, recall, sd over seeds, and of the difference to the first variant low and high).

    Recall: the share of these classes' validation images that are right, mean over seeds. low and high:
    `paired.crossed`, not corrected for the number of comparisons. Empty where all classes are as frequent, or counts
    are not known.
    """
    if study.counts is None or (study.counts == study.counts[0]).all():
        return []
    group, rows = thirds(study.counts), []
    for number, name in enumerate(THIRDS):
        correct = study.correct[:, :, group[study.labels] == number]
        if correct.shape[2]:
            counts = study.counts[group == number]
            facts = {"name": name, "classes": len(counts), "images": correct.shape[2]}
            facts |= {"fewest": int(counts.min()), "most": int(counts.max()), "recalls": _recalls(study.names, correct)}
            rows.append(facts)
    return rows


def _recalls(names: Sequence[str], correct: np.ndarray) -> list[dict]:
    by_seed = np.nanmean(correct, axis=2)
    return [
        {
            "name": name,
            "recall": float(by_seed[i].mean()),
            "sd": float(by_seed[i].std(ddof=1)) if len(by_seed[i]) > 1 else float("nan"),
            "difference": float(by_seed[i].mean() - by_seed[0].mean()),
            "interval": paired.crossed(paired.spread(correct[i] - correct[0]))[:2],
        }
        for i, name in enumerate(names)
    ]
