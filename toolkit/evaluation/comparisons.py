"""The tables of a study: each variant, each pair of variants, and recall by class frequency.

Pure functions on a `Study`; the statistics are those of `toolkit.evaluation.statistics`.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from toolkit.evaluation.best_epoch import best_epoch
from toolkit.evaluation.results import chosen_by
from toolkit.evaluation.statistics import (
    ALPHA,
    holm,
    images_needed,
    mcnemar_by_majority,
    mean_variance,
    t_test,
    wilson_interval,
)
from toolkit.evaluation.study import Study

SEEDS = 5  # with fewer seeds a difference is suggested at most
THIRDS = ("rare", "middle", "frequent")


# Variants


def variants(study: Study) -> list[dict]:
    """A row for each variant.

    Keys: name, seeds, images, accuracy (mean over seeds), sd (standard deviation over seeds, nan for one seed), low,
    high, and the means over seeds of best_epoch, epochs_to_90 and seconds.
    low and high are Wilson's 95 % interval of one model with this accuracy on this many images: the uncertainty from
    the images. The uncertainty from the seeds is sd.
    """
    rows = []
    for name, accuracy, runs, histories in zip(study.names, study.accuracy, study.runs, study.histories, strict=True):
        best = [best_epoch({}, *each) for each in zip(histories, map(chosen_by, runs), strict=True)]
        mean = float(accuracy.mean())
        low, high = wilson_interval(round(mean * study.images), study.images)
        rows.append(
            {
                "name": name,
                "seeds": len(accuracy),
                "images": study.images,
                "accuracy": mean,
                "sd": _standard_deviation(accuracy),
                "low": low,
                "high": high,
                "best_epoch": float(np.mean(best)),
                "epochs_to_90": float(np.mean([epochs_to(history, 0.9) for history in histories])),
                "seconds": float(np.mean([history["seconds"].sum() for history in histories])),
            }
        )
    return rows


def epochs_to(history: dict[str, np.ndarray], share: float) -> int:
    "The first epoch whose validation accuracy is at least `share` of the best epoch's."
    reached = history["accuracy"] >= share * np.nanmax(history["accuracy"])
    return int(history["epoch"][np.argmax(reached)])


def _standard_deviation(by_seed: np.ndarray) -> float:
    return float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan")


# Pairs of variants


def pairs(study: Study) -> list[dict]:
    """A row for each pair of variants a, b.

    Keys: difference (accuracy of a minus that of b, mean over seeds), low and high (`t_test`), only_a, only_b and
    mcnemar_p (`mcnemar_by_majority`), by_seed (McNemar's p for each seed), p (`t_test`; McNemar's for one seed),
    mcnemar_holm and p_holm (corrected for the number of pairs), images_least and images_seen (`images_needed`, for the
    largest difference that the interval allows and for the measured one), verdict.

    verdict: "differ" if p_holm is below ALPHA, "suggests" if there are fewer than SEEDS seeds; "seeds" if only
    mcnemar_holm is below ALPHA: these models differ, and only more seeds can tell whether others would; else "same".
    """
    rows = [_pair(study, a, b) for a, b in combinations(range(len(study.names)), 2)]
    for key, corrected in (("mcnemar_p", "mcnemar_holm"), ("p", "p_holm")):
        for row, p in zip(rows, holm([row[key] for row in rows]), strict=True):
            row[corrected] = float(p)
    strictest = ALPHA / max(len(rows), 1)  # Holm's level for the smallest p-value
    for row in rows:
        found, largest = row.pop("mean_variance"), max(abs(row["low"]), abs(row["high"]))
        row["images_least"] = images_needed(found, largest, study.images, strictest)
        row["images_seen"] = images_needed(found, found.mean, study.images, strictest)
        row["verdict"] = _verdict(row, study.seeds)
    return rows


def _verdict(row: dict, seeds: int) -> str:
    if row["p_holm"] < ALPHA:
        return "differ" if seeds >= SEEDS else "suggests"
    return "seeds" if row["mcnemar_holm"] < ALPHA else "same"


def _pair(study: Study, a: int, b: int) -> dict:
    correct_a, correct_b = study.correct[a], study.correct[b]
    only_a, only_b, mcnemar_p = mcnemar_by_majority(correct_a, correct_b)
    found = mean_variance(correct_a - correct_b)
    low, high, t_test_p = t_test(found)
    return {
        "a": study.names[a],
        "b": study.names[b],
        "difference": found.mean,
        "low": low,
        "high": high,
        "only_a": only_a,
        "only_b": only_b,
        "by_seed": [mcnemar_by_majority(correct_a[[seed]], correct_b[[seed]])[2] for seed in range(len(correct_a))],
        "mcnemar_p": mcnemar_p,
        "p": t_test_p if len(correct_a) > 1 else mcnemar_p,
        "mean_variance": found,
    }


# Rare classes


def frequency_thirds(counts: np.ndarray) -> np.ndarray:
    """int [classes]: 0 for the rarest third of the classes, 1 for the middle, 2 for the most frequent third.

    counts: training images of each class. Classes with equal counts share their mean rank and so stay together; if all
    counts are equal, all classes are in the middle.
    """
    from scipy.stats import rankdata

    return ((rankdata(counts) - 0.5) * 3 // len(counts)).astype(int)


def recall_by_frequency(study: Study) -> list[dict]:
    """Recall in each third of the classes by training images; thirds without validation images are left out.

    Keys: name, classes, images, fewest and most (training images of a class), and recalls, for each variant: name,
    recall, sd (over seeds), difference to the first variant and its interval (low, high).
    Recall is the share of these classes' validation images that are right, mean over seeds. The interval is that of
    `t_test`, not corrected for the number of comparisons. Empty if all counts are equal or unknown.
    """
    if study.counts is None or (study.counts == study.counts[0]).all():
        return []
    third, rows = frequency_thirds(study.counts), []
    for number, name in enumerate(THIRDS):
        correct = study.correct[:, :, third[study.labels] == number]
        if correct.shape[2]:
            counts = study.counts[third == number]
            row = {"name": name, "classes": len(counts), "images": correct.shape[2]}
            row |= {"fewest": int(counts.min()), "most": int(counts.max()), "recalls": _recalls(study.names, correct)}
            rows.append(row)
    return rows


def _recalls(names: Sequence[str], correct: np.ndarray) -> list[dict]:
    by_seed = np.nanmean(correct, axis=2)
    return [
        {
            "name": name,
            "recall": float(by_seed[i].mean()),
            "sd": _standard_deviation(by_seed[i]),
            "difference": float(by_seed[i].mean() - by_seed[0].mean()),
            "interval": t_test(mean_variance(correct[i] - correct[0]))[:2],
        }
        for i, name in enumerate(names)
    ]
