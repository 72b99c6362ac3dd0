"""What a study says, in words and tables: study.csv, study_pairs.csv, study.md, study.html."""

import math
import shlex
from pathlib import Path

from toolkit import plots
from toolkit.report import number, percent
from toolkit.run import write_atomic, write_csv
from toolkit.study import ALPHA, RESAMPLES, Study, pairs, rare, variants

HEADINGS = (
    "",
    "accuracy, mean over seeds",
    "± over seeds",
    "95 % interval (images)",
    "best epoch",
    "epochs to 90 % of its best",
    "seconds a run",
)
PAIR_HEADINGS = ("", "difference", "95 % interval", "right alone", "McNemar", "bootstrap", "McNemar by seed")
CURVES = {
    "valid_loss": "Validation loss",
    "accuracy": "Validation accuracy",
}


def write_study(folder: Path, study: Study, command: list[str]) -> Path:
    """Write study.csv (a row for each variant), study_pairs.csv (a row for each pair), study.md and study.html; the
    page's path. command: the words that made the study.
    """
    rows, compared, thirds = variants(study), pairs(study), rare(study)
    write_csv(folder / "study.csv", [*rows[0], *_recall_names(thirds)], [_cells(row, thirds) for row in rows])
    header = list(compared[0]) if compared else ["a", "b"]
    write_csv(folder / "study_pairs.csv", header, [[_cell(value) for value in row.values()] for row in compared])
    parts = {
        "study": study,
        "verdict": verdict(study, compared),
        "variants": [HEADINGS, *map(variant_row, rows)],
        "pairs": [PAIR_HEADINGS, *map(pair_row, compared)] if compared else [],
        "rare": rare_table(thirds),
        "rare_words": rare_words(study, thirds),
    }
    write_atomic(folder / "study.md", markdown(command, **parts))
    page = folder / "study.html"
    text = render(folder, command, panels=panels(study, rows, compared), **parts)
    write_atomic(page, text.encode("utf-8", "replace"))
    return page


def _recall_names(thirds: list[dict]) -> list[str]:
    return [f"recall_{third['name']}" for third in thirds]


def _cells(row: dict, thirds: list[dict]) -> list:
    recalls = [r["recall"] for third in thirds for r in third["recalls"] if r["name"] == row["name"]]
    return [_cell(value) for value in (*row.values(), *recalls)]


def _cell(value: object) -> object:
    "As a CSV holds it: several values in one cell, what is undefined empty."
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if isinstance(value, float) and math.isnan(value) else value


# In words


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
    return (
        f"{a} and {b} can’t be told apart: {gap} is within chance; {evidence}. If it is real, it would take "
        f"about {needed} validation images to tell, {row['images_to_tell'] / images:.1f} times as many."
    )


def rare_words(study: Study, thirds: list[dict]) -> str:
    "What the table of rare classes says, or why there is none."
    if study.counts is None:
        return "The runs do not say how many training images each class has."
    if not thirds:
        return f"All classes have equally many training images ({number(int(study.counts[0]))}): none is rare."
    least, most = int(study.counts.min()), int(study.counts.max())
    spread = f"Classes have {number(least)} to {number(most)} training images."
    if most < 2 * least:
        spread += " The rarest has more than half as many as the most frequent: this says little about rare classes."
    return spread


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def points(share: float) -> str:
    "A difference of shares in points of a percent; a real minus sign."
    return f"{100 * share:.1f}".replace("-0.0", "0.0").replace("-", "−")


def p_value(p: float) -> str:
    return f"{p:.1g}" if p < 0.095 else f"{p:.2f}"


def about(count: float) -> str:
    "A number of images in two digits."
    return number(int(float(f"{count:.2g}")))


# In tables


def variant_row(row: dict) -> list[str]:
    interval = f"{percent(row['low'])} to {percent(row['high'])}"
    spread = "–" if math.isnan(row["sd"]) else points(row["sd"])
    epochs = [f"{row[key]:.1f}" for key in ("best_epoch", "epochs_to_90")]
    return [row["name"], percent(row["accuracy"], 2), spread, interval, *epochs, f"{row['seconds']:.0f}"]


def pair_row(row: dict) -> list[str]:
    alone = f"{row['only_a']} : {row['only_b']}"
    found = [p_value(row[f"{test}_holm"]) for test in ("mcnemar", "bootstrap")]
    interval = f"{points(row['low'])} to {points(row['high'])}"
    by_seed = ", ".join(map(p_value, row["by_seed"]))
    return [f"{row['a']} − {row['b']}", points(row["difference"]), interval, alone, *found, by_seed]


def rare_table(thirds: list[dict]) -> list[list[str]]:
    "Recall of each variant in each third, with the difference to the first variant; headings first."
    if not thirds:
        return []
    heads = [
        f"{third['name']}: {third['classes']} classes of {third['fewest']} to {third['most']}, {third['images']} images"
        for third in thirds
    ]
    names = [one["name"] for one in thirds[0]["recalls"]]
    return [
        ["", *heads],
        *([name, *(_recall(third["recalls"][i], i) for third in thirds)] for i, name in enumerate(names)),
    ]


def _recall(one: dict, place: int) -> str:
    spread = "" if math.isnan(one["sd"]) else f" ± {points(one['sd'])}"
    low, high = map(points, one["interval"])
    return percent(one["recall"]) + spread + (f" ({low} to {high} against the first)" if place else "")


# The files


def method(study: Study) -> list[str]:
    "How the figures were come by, in sentences."
    return [
        "± is the standard deviation over seeds; the interval of an accuracy is Wilson’s, for one model as accurate "
        f"on {number(study.images)} images.",
        "McNemar: exact and two-sided, each image voting once, for the variant that more of its seeds got right; "
        "“right alone” counts the votes.",
        f"Bootstrap: {number(RESAMPLES)} resamples of seeds and images, the same for both of a pair.",
        f"Both p-values are corrected for {len(study.names) * (len(study.names) - 1) // 2} comparisons (Holm), those "
        f"by seed are not. Two variants differ where both are below {ALPHA}.",
        "Images it would take: McNemar’s test with power 80 % (Connor 1987), if the share of images on which just one "
        "is right stays what it is.",
        "The best epoch was chosen on the same validation images: all accuracies flatter a little, all alike.",
    ]


def markdown(command: list[str], study: Study, verdict: list[str], variants: list, pairs: list, **rarity) -> str:
    "study.md: the verdict and the tables."
    parts = [f"# {study.runs[0][0].recipe['recipe']}: {' · '.join(map(_plain, study.names))}", *map(_plain, verdict)]
    parts += [_table(variants), *([_table(pairs)] if pairs else [])]
    parts += ["## Rare classes", rarity["rare_words"], *([_table(rarity["rare"])] if rarity["rare"] else [])]
    parts += ["## How", *map(_plain, method(study)), f"    {shlex.join(command)}"]
    return "\n\n".join(parts) + "\n"


def _table(rows: list) -> str:
    head, *body = [[_plain(cell) for cell in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    "Without what Markdown would take for a table's border or for markup."
    for mark in "\\|<*_`":
        text = text.replace(mark, f"\\{mark}")
    return text


def panels(study: Study, rows: list[dict], compared: list[dict]) -> list[dict]:
    "An SVG of the accuracies, of the differences and of each overlaid curve, with its text for those who can't see it."
    by_seed = study.accuracy.tolist()
    accuracies = [(r["name"], r["low"], r["accuracy"], r["high"], by_seed[i]) for i, r in enumerate(rows)]
    gaps = [(f"{r['a']} − {r['b']}", r["low"], r["difference"], r["high"], []) for r in compared]
    made = [("Accuracy and its interval", plots.intervals(accuracies, "Accuracy and its interval"), accuracies)]
    if gaps:
        made.append(("Differences", plots.intervals(gaps, "Difference of accuracy", zero=True), gaps))
    found = [{"svg": plots.svg(plot, title), "alt": f"{title}: {_spoken(values)}"} for title, plot, values in made]
    named = dict(zip(study.names, study.histories, strict=True))
    for column, title in CURVES.items():
        ends = "; ".join(f"{name} ends at {number(float(h[0][column][-1]))}" for name, h in named.items())
        found.append(
            {"svg": plots.svg(plots.overlaid(named, column, title), title), "alt": f"{title} by epoch: {ends}"}
        )
    return found


def _spoken(values: list[tuple]) -> str:
    return "; ".join(f"{name} {percent(mid)}, {percent(low)} to {percent(high)}" for name, low, mid, high, _ in values)


def render(folder: Path, command: list[str], **parts) -> str:
    "The HTML of the page."
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("toolkit", "."), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(percent=percent)
    links = [
        (name, [(run.folder.relative_to(folder).as_posix(), run.recipe["options"]["seed"]) for run in runs])
        for name, runs in zip(parts["study"].names, parts["study"].runs, strict=True)
    ]
    return environment.get_template("study.html").render(
        command=shlex.join(command), links=links, method=method(parts["study"]), **parts
    )
