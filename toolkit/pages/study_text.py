"""The findings of a study in sentences: each pair of variants, rare classes, and the statistical method."""

import math

from toolkit.evaluation.comparisons import SEEDS
from toolkit.evaluation.formatting import number, p_value, points, rounded_count
from toolkit.evaluation.statistics import ALPHA
from toolkit.evaluation.study import Study


def findings(study: Study, compared: list[dict]) -> list[str]:
    """Sentences: what the study found, then each pair, then a limit that few seeds set.

    compared: the rows of `comparisons.pairs`.
    """
    names, seeds = study.names, study.seeds
    on = f"On {number(study.images)} validation images and {seeds} seed{'' if seeds == 1 else 's'}"
    if not compared:
        return [f"{on}: one variant, {names[0]}, so there is nothing to compare."]
    return [f"{on}, {_overall(names, compared, seeds)}.", *map(pair_sentences, compared), *_limit(seeds)]


def _overall(names: list[str], compared: list[dict], seeds: int) -> str:
    different = [row for row in compared if row["verdict"] in ("differ", "suggests")]
    if not different:
        none = f"no two of {_listed(names)}" if len(names) > 2 else f"{_listed(names)} do not"
        undecided = sum(row["verdict"] == "seeds" for row in compared)
        of_pairs = f" for {undecided} of {len(compared)} pairs" if len(names) > 2 else ""
        return f"{none} differ significantly{f', but more seeds are needed{of_pairs}' if undecided else ''}"
    which = f"{len(different)} of {len(compared)} pairs" if len(names) > 2 else _listed(names)
    return f"{which} differ significantly" if seeds >= SEEDS else f"the runs suggest that {which} differ"


def _limit(seeds: int) -> list[str]:
    if seeds == 1:
        return ["One seed says something about these models only: another seed may reverse a difference."]
    if seeds >= SEEDS:
        return []
    return [
        f"{seeds} seeds are too few to know the spread over seeds well, so they suggest a difference at most. "
        f"{SEEDS} seeds or more may show one."
    ]


def pair_sentences(row: dict) -> str:
    "The finding for one pair, its evidence, and the number of images needed if there is no significant difference."
    a, b = (row["a"], row["b"]) if row["difference"] >= 0 else (row["b"], row["a"])
    low, high = sorted(math.copysign(1, row["difference"]) * end for end in (row["low"], row["high"]))
    gap = f"{points(abs(row['difference']))} points (95 % interval {points(low)} to {points(high)})"
    p = f"p = {p_value(row['p_holm'])}"
    if row["verdict"] == "differ":
        return f"{a} is better than {b} by {gap}; {p}."
    if row["verdict"] == "suggests":
        return f"The runs suggest that {a} is better than {b} by {gap}; {p}."
    if row["verdict"] == "seeds":
        return (
            f"{a} and {b}: these models differ by {gap}, but with so few seeds it is unknown whether models of other "
            f"seeds would; {p}, and McNemar’s p for these models is {p_value(row['mcnemar_holm'])}. "
            "More seeds would help, more images would not."
        )
    why = "which is within chance" if row["low"] <= 0 <= row["high"] else "which the test does not confirm"
    needed = images_sentence(row, max(abs(low), abs(high)))
    return f"{a} and {b} do not differ significantly: the difference is {gap}, {why}; {p}. {needed}"


def images_sentence(row: dict, largest: float) -> str:
    "The number of images needed to detect the difference. largest: the largest that the interval allows."
    least, seen = row["images_least"], row["images_seen"]
    if math.isinf(least):
        return "With so few seeds no number of images is enough to detect it; more seeds might be."
    start = (
        f"A difference of {points(largest)} points, the largest in the interval, takes about {rounded_count(least)} "
        "validation images to detect"
    )
    if math.isclose(row["difference"], 0, abs_tol=1e-9):
        return f"{start}; a smaller one takes more. The measured difference is 0."
    if math.isinf(seen):
        return f"{start}. For the measured one no number of images is enough with so few seeds; more seeds might be."
    return f"{start}, the measured one about {rounded_count(seen)}; a smaller one takes more."


def recall_sentences(study: Study, thirds: list[dict]) -> str:
    "A summary of the table of recall by class frequency, or why there is no table."
    if study.counts is None:
        return "The runs do not record how many training images each class has."
    if not thirds:
        return f"All classes have equally many training images ({number(int(study.counts[0]))}), so none is rare."
    least, most = int(study.counts.min()), int(study.counts.max())
    sentences = [f"Classes have {number(least)} to {number(most)} training images."]
    if most < 2 * least:
        sentences += ["That is less than a factor of two, so this says little about rare classes."]
    if thirds[0]["name"] == "rare":
        first, *others = thirds[0]["recalls"]
        sentences += [_rare_sentence(first, other) for other in others]
    return " ".join(sentences)


def _rare_sentence(first: dict, other: dict) -> str:
    low, high = other["interval"]
    side, chance = "below" if other["difference"] < 0 else "above", ", within chance" if low <= 0 <= high else ""
    return (
        f"On the rare third, {other['name']} is {points(abs(other['difference']))} points {side} {first['name']} "
        f"(95 % interval of the difference {points(low)} to {points(high)}{chance})."
    )


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def method(study: Study) -> list[str]:
    "Sentences on how the figures were computed."
    comparisons = len(study.names) * (len(study.names) - 1) // 2
    p = (
        "p and the interval of a difference are Student’s t with seeds − 1 degrees of freedom; the variance is that "
        "over seeds and over images together. In simulations of equally good variants with 3 to 10 seeds, p was below "
        "0.05 in at most 5 % of the studies."
    )
    if study.seeds == 1:
        p = "p is McNemar’s. The interval of a difference is over images only, because there is one seed."
    corrected = f"The p-values are corrected for {comparisons} comparisons (Holm), except those by seed."
    if comparisons == 1:
        corrected = "The p-values need no correction, because there is a single comparison."
    return [
        "± is the standard deviation over seeds. The interval of an accuracy is Wilson’s, for one model with this "
        f"accuracy on {number(study.images)} images.",
        p,
        "McNemar’s test is exact and two-sided. Each image counts once, for the variant that more of its seeds got "
        "right; “right alone” counts these images. The test is about these models, not about models of other seeds.",
        f"{corrected} Two variants differ significantly if p is below {ALPHA} with {SEEDS} seeds or more; with fewer "
        "seeds they are suggested to differ.",
        "The number of images needed is for a power of 80 % with the same number of seeds.",
        "The best epoch was selected on the same validation images, so all accuracies are slightly optimistic.",
    ]
