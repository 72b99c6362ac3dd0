"""The tables of a study: as text for people, headings first, and as cells of a CSV."""

import math

from toolkit.evaluation.formatting import p_value, percent, points

VARIANT_HEADINGS = [
    "",
    "accuracy (mean over seeds)",
    "± (over seeds)",
    "95 % interval",
    "best epoch",
    "epochs to 90 % of the best accuracy",
    "seconds per run",
]
PAIR_HEADINGS = ["", "difference", "95 % interval", "p", "right alone", "McNemar’s p", "McNemar’s p by seed"]


def variant_table(rows: list[dict]) -> list[list[str]]:
    "Accuracy, spread, interval and speed of each variant."
    return [VARIANT_HEADINGS, *map(_variant_row, rows)]


def _variant_row(row: dict) -> list[str]:
    interval = f"{percent(row['low'])} to {percent(row['high'])}"
    sd = "–" if math.isnan(row["sd"]) else points(row["sd"])
    epochs = [f"{row[key]:.1f}" for key in ("best_epoch", "epochs_to_90")]
    return [row["name"], percent(row["accuracy"], 2), sd, interval, *epochs, f"{row['seconds']:.0f}"]


def pair_table(rows: list[dict]) -> list[list[str]]:
    "Difference, interval and tests of each pair; empty if there is no pair."
    return [PAIR_HEADINGS, *map(_pair_row, rows)] if rows else []


def _pair_row(row: dict) -> list[str]:
    alone = f"{row['only_a']} : {row['only_b']}"
    interval = f"{points(row['low'])} to {points(row['high'])}"
    tests = [p_value(row["p_holm"]), alone, p_value(row["mcnemar_holm"])]
    by_seed = ", ".join(map(p_value, row["by_seed"]))
    return [f"{row['a']} − {row['b']}", points(row["difference"]), interval, *tests, by_seed]


def recall_table(thirds: list[dict]) -> list[list[str]]:
    "Recall of each variant in each third of the classes, with the interval of its difference to the first variant."
    if not thirds:
        return []
    names = [recall["name"] for recall in thirds[0]["recalls"]]
    rows = ([name, *(_recall(third["recalls"][i], i) for third in thirds)] for i, name in enumerate(names))
    return [["", *map(_third_heading, thirds)], *rows]


def _third_heading(third: dict) -> str:
    counts = f"{third['fewest']}" if third["fewest"] == third["most"] else f"{third['fewest']} to {third['most']}"
    classes = f"{third['classes']} class{'' if third['classes'] == 1 else 'es'}"
    return f"{third['name']}: {classes} with {counts} training image{'' if counts == '1' else 's'}"


def _recall(recall: dict, variant: int) -> str:
    sd = "" if math.isnan(recall["sd"]) else f" ± {points(recall['sd'])}"
    low, high = map(points, recall["interval"])
    return percent(recall["recall"]) + sd + (f" (difference {low} to {high})" if variant else "")


# For programs


def variant_csv(rows: list[dict], thirds: list[dict]) -> tuple[list[str], list[list]]:
    "(header, rows) of study.csv: the keys of `comparisons.variants`, and the recall in each third."
    header = [*rows[0], *(f"recall_{third['name']}" for third in thirds)]
    return header, [[_cell(value) for value in (*row.values(), *_recalls(row["name"], thirds))] for row in rows]


def _recalls(name: str, thirds: list[dict]) -> list[float]:
    return [recall["recall"] for third in thirds for recall in third["recalls"] if recall["name"] == name]


def pair_csv(rows: list[dict]) -> tuple[list[str], list[list]]:
    "(header, rows) of study_pairs.csv: the keys of `comparisons.pairs`."
    return list(rows[0]) if rows else ["a", "b"], [[_cell(value) for value in row.values()] for row in rows]


def _cell(value: object) -> object:
    "A value as a CSV holds it: several values in one cell, an undefined value as an empty cell."
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if isinstance(value, float) and math.isnan(value) else value
