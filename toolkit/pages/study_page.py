"""The files of a study: study.csv, study_pairs.csv, study.md and study.html."""

import math
import shlex
from pathlib import Path

from toolkit.evaluation.study import Study, pairs, rare, variants
from toolkit.files import write_atomic, write_csv
from toolkit.pages import plots
from toolkit.pages.formatting import number, p_value, percent, points
from toolkit.pages.study_text import method, rare_words, verdict

HEADINGS = (
    "",
    "accuracy, mean over seeds",
    "± over seeds",
    "95 % interval (images)",
    "best epoch",
    "epochs to 90 % of its best",
    "seconds a run",
)
PAIR_HEADINGS = ("", "difference", "95 % interval", "p", "right alone", "McNemar", "McNemar by seed")
CURVES = {"valid_loss": "Validation loss", "accuracy": "Validation accuracy"}
RARE = (
    "Share of these classes’ validation images that are right, mean ± over seeds; in brackets the 95 % interval of the "
    "difference to the first, in points, not corrected for the number of comparisons."
)


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


# In tables


def variant_row(row: dict) -> list[str]:
    interval = f"{percent(row['low'])} to {percent(row['high'])}"
    spread = "–" if math.isnan(row["sd"]) else points(row["sd"])
    epochs = [f"{row[key]:.1f}" for key in ("best_epoch", "epochs_to_90")]
    return [row["name"], percent(row["accuracy"], 2), spread, interval, *epochs, f"{row['seconds']:.0f}"]


def pair_row(row: dict) -> list[str]:
    alone = f"{row['only_a']} : {row['only_b']}"
    interval = f"{points(row['low'])} to {points(row['high'])}"
    tests = [p_value(row["p_holm"]), alone, p_value(row["mcnemar_holm"])]
    by_seed = ", ".join(map(p_value, row["by_seed"]))
    return [f"{row['a']} − {row['b']}", points(row["difference"]), interval, *tests, by_seed]


def rare_table(thirds: list[dict]) -> list[list[str]]:
    "Recall of each variant in each third, in brackets the interval of its difference to the first; headings first."
    if not thirds:
        return []
    heads = [
        f"{third['name']}: {third['classes']} classes trained on {third['fewest']} to {third['most']}"
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
    return percent(one["recall"]) + spread + (f" ({low} to {high})" if place else "")


# The files


def markdown(command: list[str], study: Study, verdict: list[str], variants: list, pairs: list, **rarity) -> str:
    "study.md: the verdict and the tables."
    parts = [f"# {study.runs[0][0].recipe['recipe']}: {' · '.join(map(_plain, study.names))}", *map(_plain, verdict)]
    parts += [_table(variants), *([_table(pairs)] if pairs else [])]
    parts += [
        "## Rare classes",
        _plain(rarity["rare_words"]),
        *([_table(rarity["rare"]), RARE] if rarity["rare"] else []),
    ]
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
        made.append(("Differences", plots.intervals(gaps, "Difference of accuracy, in points", zero=True), gaps))
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

    environment = Environment(loader=PackageLoader("toolkit.pages", "."), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(percent=percent)
    links = [
        (name, [(run.folder.relative_to(folder).as_posix(), run.recipe["options"]["seed"]) for run in runs])
        for name, runs in zip(parts["study"].names, parts["study"].runs, strict=True)
    ]
    return environment.get_template("study.html").render(
        command=shlex.join(command), links=links, method=method(parts["study"]), rare_note=RARE, **parts
    )
