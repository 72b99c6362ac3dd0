"""What files that others may have written can say: JSON within bounds, tables, class names, recipe.json, metrics.json.

A fault is told in words that go on from the file's name; None stands for no fault.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from toolkit import preprocess


def reason_of(error: Exception) -> str:
    "Why torch.load refused a file of more than weights, in a few words; it goes on to say how to run it all the same."
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"more than tensors: {named[1]}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def parse_json(text: str) -> Any:
    """The value of `text`. Raises ValueError where it is not JSON (https://www.rfc-editor.org/rfc/rfc8259), or holds a
    number that is no float64 or int64, or more than DEPTH levels.
    """
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_int64)
    except RecursionError as error:
        raise ValueError(f"nested more than {DEPTH} deep") from error
    level = [value]
    for _ in range(DEPTH + 1):
        level = [part for whole in level if isinstance(whole, dict | list) for part in _parts(whole)]
    if level:
        raise ValueError(f"nested more than {DEPTH} deep")
    return value


DEPTH = 20  # of our own files at most 5
HISTORY = "epoch train_loss valid_loss accuracy lr seconds".split()  # columns of history.csv
PREDICTIONS = "file label prediction confidence".split()  # of valid_predictions.csv


def _parts(whole: dict | list) -> Iterable[Any]:
    return whole.values() if isinstance(whole, dict) else whole


def _no_number(text: str) -> float:
    raise ValueError(f"{text:.20} is no number that is read")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _no_number(text)


def _int64(text: str) -> int:
    return value if len(text) < 21 and -(2**63) <= (value := int(text)) < 2**63 else _no_number(text)


def read_csv(path: Path, header: list[str]) -> list[list[str]]:
    """Rows of a CSV, its header first. Raises ValueError where it is none, or a row is not of the header's length.

    A file name that is not UTF-8 keeps its bytes as Python's file functions take them.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.reader(file, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV ({error}): restore it, or start a new run") from error
    if not rows or rows[0] != header or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path} is not a table of {','.join(header)}: restore it, or start a new run")
    return rows


def classes_fault(classes: Any) -> str | None:
    "What keeps `classes` from being the names of a model's classes, None where nothing does."
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) and name for name in classes):
        return "its classes are not a list of names"
    if len(classes) > CLASSES:
        return f"it names {len(classes):,} classes, at most {CLASSES:,} are read"
    if len(set(classes)) < len(classes):
        return "two of its classes have one name"
    if any("\ud800" <= letter <= "\udfff" for letter in "".join(classes)):
        return "a name of its classes is not Unicode text"
    return None


CLASSES = 100_000  # ImageNet's largest edition has 21,841


def recipe_fault(recipe: Any) -> str | None:
    "What keeps `recipe` from being a recipe.json to go by, None where nothing does."
    wanted = "recipe options classes preprocess augment model data created".split()
    if missing := [key for key in wanted if not isinstance(recipe, dict) or key not in recipe]:
        return f"lacks {', '.join(missing)}"
    for path, fits, accepted in FIELDS:
        value = recipe
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not fits(value):
            return f"has {path} {value!r:.60}, expected {accepted}"
    if fault := classes_fault(recipe["classes"]):
        return f"can't be followed, {fault}"
    try:
        preprocess.check(recipe["preprocess"])
    except ValueError as error:
        return f"can't be followed, its {str(error):.150}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _counts(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= least


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_counts(0), value.values()))


def _is_augment(value: Any) -> bool:
    "Whether `toolkit.augment.train_transform` takes it."
    if not isinstance(value, dict) or not value.keys() <= {"scale", "flip", "degrees"}:
        return False
    scale, degrees = value.get("scale", [1, 1]), value.get("degrees", 0)
    in_order = isinstance(scale, list) and len(scale) == 2 and all(map(_is_share, scale)) and 0 < scale[0] <= scale[1]
    return in_order and _is_share(value.get("flip", 0)) and _is_number(degrees) and 0 <= degrees <= 180


FIELDS = (  # of recipe.json: which, whether a value will do, and in words
    ("recipe", _is_text, "a name"),
    ("created", _is_text, "a time"),
    ("options.loss", _is_text, "a name"),
    ("options.gamma", lambda value: value is None or _is_number(value), "a number"),
    ("options.smoothing", lambda value: value is None or _is_number(value), "a number"),
    ("options.arch", _is_text, "a name"),
    ("options.lr", lambda value: _is_number(value) and value >= 0, "a number from 0"),
    ("options.bs", _counts(1), "an integer from 1"),
    ("options.accum", _counts(1), "an integer from 1"),
    ("options.seed", _counts(0), "an integer from 0"),
    ("augment", _is_augment, "scale (two numbers up to 1), flip (to 1), degrees (to 180)"),
    ("model.arch", _is_text, "a name"),
    ("data.path", _is_text, "a path"),
    ("data.fingerprint", _is_text, "a checksum"),
    ("data.left_out", lambda value: value is None or isinstance(value, dict), "the reason by file"),
    ("data.counts", lambda value: value is None or _are_counts(value), "the number of photos by class"),
)


def metrics_fault(figures: Any) -> str | None:
    "What keeps `figures` from being a metrics.json to show, None where nothing does."
    if not isinstance(figures, dict):
        return "is no object"
    numbers = "best_epoch epochs images classes accuracy top5 macro_f1 ece scaled_ece temperature".split()
    for name in numbers:
        if name in figures and not _is_number(figures[name]):
            return f"has {name} {figures[name]!r:.60}, expected a number"
    for name in ("reliability", "scaled_reliability"):
        if name in figures and not (isinstance(figures[name], list) and all(map(_is_bin, figures[name]))):
            return f"has {name} {figures[name]!r:.60}, expected bins of low, high, confidence, accuracy and count"
    return None


def _is_bin(value: Any) -> bool:
    shares = ("low", "high", "confidence", "accuracy")
    return (
        isinstance(value, dict)
        and all(_is_share(value.get(name)) for name in shares)
        and _counts(1)(value.get("count"))
    )
