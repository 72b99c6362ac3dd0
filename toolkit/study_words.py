"""What a study found, in words: the verdict, a sentence or two for each pair, what is said of rare classes, and how."""

import math

from toolkit.numerals import about, number, p_value, points, times
from toolkit.paired import ALPHA, RESAMPLES
from toolkit.study import Study


def verdict(study: Study, compared: list[dict]) -> list[str]:
    "Sentences: first what the study found, then a sentence or two for each pair, then what else limits it."
    names, seeds = study.names, study.correct.shape[1]
    on = f"On {number(study.images)} validation images and {seeds} seed{'' if seeds == 1 else 's'}"
    if not compared:
        return [f"{on}: one variant, {names[0]}, so there is nothing to compare."]
    apart = [row for row in compared if row["verdict"] == "differ"]
    if len(names) > 2:
        found = (
            f"{len(apart)} of {len(compared)} pairs differ"
            if apart
            else f"no two of {_listed(names)} can be told apart"
        )
    else:
        found = f"{_listed(names)} {'differ' if apart else 'can’t be told apart'}"
    few = "One seed speaks of these models alone: another seed may turn a difference round." if seeds == 1 else ""
    if 1 < seeds < 5:
        few = f"{seeds} seeds are few to know the spread over seeds by."
    return [f"{on}, {found}.", *(pair_words(row, study.images) for row in compared), *([few] if few else [])]


def pair_words(row: dict, images: int) -> str:
    "The finding for one pair, its evidence, and what it would take where it can't be told."
    a, b = (row["a"], row["b"]) if row["difference"] >= 0 else (row["b"], row["a"])
    low, high = sorted(math.copysign(1, row["difference"]) * end for end in (row["low"], row["high"]))
    gap = f"{points(abs(row['difference']))} points (95 % interval {points(low)} to {points(high)})"
    evidence = (
        f"p = {p_value(row['mcnemar_holm'])} by McNemar’s test, {p_value(row['bootstrap_holm'])} by the bootstrap"
    )
    if row["verdict"] == "differ":
        return f"{a} is better than {b}, by {gap}; {evidence}."
    if row["verdict"] == "seeds":
        return (
            f"{a} and {b}: these models differ, by {gap}, but not reliably from seed to seed; {evidence}. "
            "More seeds would tell, rather than more images."
        )
    needed, seen = about(row["images_to_tell"]), row["only_a"] != row["only_b"]
    if not seen:
        return (
            f"{a} and {b} can’t be told apart: {gap}; {evidence}. Each is right alone on {row['only_a']} images: "
            f"if there is a difference, it would take more than {needed} validation images to tell."
        )
    why = "is within chance" if row["low"] <= 0 <= row["high"] else "does not hold in both tests"
    return (
        f"{a} and {b} can’t be told apart: {gap} {why}; {evidence}. If it is real, it would take "
        f"about {needed} validation images to tell, {times(row['images_to_tell'] / images)} times as many."
    )


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
    corrected = f"are corrected for {comparisons} comparisons (Holm), those by seed are not"
    return [
        "± is the standard deviation over seeds; the interval of an accuracy is Wilson’s, for one model as accurate "
        f"on {number(study.images)} images.",
        "McNemar: exact and two-sided, each image voting once, for the variant that more of its seeds got right; "
        "“right alone” counts the votes.",
        f"Bootstrap: {number(RESAMPLES)} resamples of seeds and images, the same for both of a pair.",
        f"Both p-values {corrected if comparisons > 1 else 'stand for a single comparison'}. Two variants differ where "
        f"both are below {ALPHA}.",
        "Images it would take: McNemar’s test with power 80 % (Connor 1987), if the share of images on which just one "
        "is right stays what it is.",
        "The best epoch was chosen on the same validation images: all accuracies flatter a little, all alike.",
    ]
