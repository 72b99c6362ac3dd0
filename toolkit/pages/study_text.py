"""What a study found, in words: the verdict, a sentence or two for each pair, what is said of rare classes, and how."""

import math

from toolkit.evaluation.paired import ALPHA
from toolkit.evaluation.study import SEEDS, Study
from toolkit.pages.formatting import about, number, p_value, points


def verdict(study: Study, compared: list[dict]) -> list[str]:
    "Sentences: first what the study found, then a sentence or two for each pair, then what else limits it."
    names, seeds = study.names, study.correct.shape[1]
    on = f"On {number(study.images)} validation images and {seeds} seed{'' if seeds == 1 else 's'}"
    if not compared:
        return [f"{on}: one variant, {names[0]}, so there is nothing to compare."]
    apart, enough = [row for row in compared if row["verdict"] in ("differ", "suggests")], seeds >= SEEDS
    if not apart:
        among = f"no two of {_listed(names)} can be told apart"
        found = among if len(names) > 2 else f"{_listed(names)} can’t be told apart"
    else:
        differ = f"{len(apart)} of {len(compared)} pairs" if len(names) > 2 else _listed(names)
        found = f"{differ} differ" if enough else f"the runs suggest that {differ} differ"
    few = []
    if seeds == 1:
        few = ["One seed speaks of these models alone: another seed may turn a difference round."]
    elif not enough:
        few = [
            f"{seeds} seeds are few to know the spread over seeds by: they suggest a difference at most, {SEEDS} or "
            "more may show it."
        ]
    return [f"{on}, {found}.", *map(pair_words, compared), *few]


def pair_words(row: dict) -> str:
    "The finding for one pair, its evidence, and what it would take if it can't be told."
    a, b = (row["a"], row["b"]) if row["difference"] >= 0 else (row["b"], row["a"])
    low, high = sorted(math.copysign(1, row["difference"]) * end for end in (row["low"], row["high"]))
    gap = f"{points(abs(row['difference']))} points (95 % interval {points(low)} to {points(high)})"
    evidence = f"p = {p_value(row['p_holm'])}"
    if row["verdict"] == "differ":
        return f"{a} is better than {b}, by {gap}; {evidence}."
    if row["verdict"] == "suggests":
        return f"The runs suggest that {a} is better than {b}, by {gap}; {evidence}."
    if row["verdict"] == "seeds":
        return (
            f"{a} and {b}: these models differ, by {gap}, but so few seeds can’t tell if others would; {evidence}; "
            f"McNemar’s, of these models, {p_value(row['mcnemar_holm'])}. "
            "More seeds would tell, rather than more images."
        )
    why = "is within chance" if row["low"] <= 0 <= row["high"] else "does not pass the test"
    return f"{a} and {b} can’t be told apart: {gap} {why}; {evidence}. {effort(row, max(abs(low), abs(high)))}"


def effort(row: dict, most: float) -> str:
    "The range of how many images it would take, from the largest difference that the interval allows, `most`."
    least, seen = row["images_least"], row["images_seen"]
    if math.isinf(least):
        return "On so few seeds no number of images would tell: more seeds might."
    start = f"To tell would take about {about(least)} validation images if the difference is {points(most)} points"
    if math.isclose(row["difference"], 0, abs_tol=1e-9):
        return f"{start}, more if it is smaller; none was seen."
    if math.isinf(seen):
        return f"{start}; if it is as seen, no number of images would do on so few seeds: more seeds might."
    return f"{start}, {about(seen)} if it is as seen, more if it is smaller."


def rare_words(study: Study, thirds: list[dict]) -> str:
    "What the table of rare classes says, or why there is none."
    if study.counts is None:
        return "The runs do not say how many training images each class has."
    if not thirds:
        return f"All classes have equally many training images ({number(int(study.counts[0]))}): none is rare."
    least, most = int(study.counts.min()), int(study.counts.max())
    said = [f"Classes have {number(least)} to {number(most)} training images."]
    if most < 2 * least:
        said += ["The rarest has more than half as many as the most frequent: this says little about rare classes."]
    first, *others = thirds[0]["recalls"]
    for one in others if thirds[0]["name"] == "rare" else []:
        low, high = one["interval"]
        side, chance = "below" if one["difference"] < 0 else "above", ", within chance" if low <= 0 <= high else ""
        said += [
            f"On the rare third, {one['name']} is {points(abs(one['difference']))} points {side} {first['name']} "
            f"(95 % interval of the difference {points(low)} to {points(high)}{chance})."
        ]
    return " ".join(said)


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def method(study: Study) -> list[str]:
    "How the figures were come by, in sentences."
    comparisons = len(study.names) * (len(study.names) - 1) // 2
    corrected = f"corrected for {comparisons} comparisons (Holm), those by seed are not"
    several = study.correct.shape[1] > 1
    p = (
        "p and the interval of a difference: Student’s t on seeds − 1 degrees of freedom, its variance over seeds and "
        "images both. Of equally good variants, simulated with 3 to 10 seeds, p is below 0.05 in 5 % at most."
        if several
        else "p is McNemar’s; the interval of a difference is over images, as there is one seed."
    )
    return [
        "± is the standard deviation over seeds; the interval of an accuracy is Wilson’s, for one model as accurate "
        f"on {number(study.images)} images.",
        p,
        "McNemar: exact and two-sided, each image voting once, for the variant that more of its seeds got right; "
        "“right alone” counts the votes. It speaks of these models, not of others with other seeds.",
        f"The p-values {'are ' + corrected if comparisons > 1 else 'stand for a single comparison'}. Two variants "
        f"differ if p is below {ALPHA} on {SEEDS} seeds or more; fewer seeds suggest it.",
        "Images it would take: on as many seeds, for the test of p to find the difference 4 times out of 5.",
        "The best epoch was chosen on the same validation images: all accuracies flatter a little, all alike.",
    ]
