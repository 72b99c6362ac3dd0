"""Schema checks of recipe.json and metrics.json, which may come from anywhere.

A fault is a text that continues a sentence after the file's name; None is no fault.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.data import preprocess
from toolkit.data.on_disk.class_names import classes_fault
from toolkit.files import read_json


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the checked content of a recipe.json: recipe, created, options, classes (in index order), preprocess,
    augment, model, data, weights, versions, git.

    Raises FileNotFoundError, or ValueError with the first fault.
    """
    recipe = read_json(path)
    if fault := recipe_fault(recipe):
        raise ValueError(f"{path} {fault}: it was not written by a recipe of this version")
    return recipe | {"preprocess": preprocess.upgraded(recipe["preprocess"])}


def recipe_fault(recipe: Any) -> str | None:
    "The first fault of the content of a recipe.json; None if it is valid."
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


COMPOSE = set(
    "__class_fullname__ p transforms bbox_params keypoint_params additional_targets is_check_shapes".split()
)  # what albumentations records of a Compose


def _is_augment(value: Any) -> bool:
    "True for the record of training transforms, or the scale, flip and degrees of an older file."
    if not isinstance(value, dict):
        return False
    if "__class_fullname__" in value:
        named = all(name.isidentifier() and not name.startswith("__") for name in value.keys() - {"__class_fullname__"})
        composed = value["__class_fullname__"] != "Compose" or value.keys() <= COMPOSE
        return named and composed and isinstance(value.get("transforms"), list)
    if not value.keys() <= {"scale", "flip", "degrees"}:
        return False
    scale, degrees = value.get("scale", [1, 1]), value.get("degrees", 0)
    in_order = isinstance(scale, list) and len(scale) == 2 and all(map(_is_share, scale)) and 0 < scale[0] <= scale[1]
    return in_order and _is_share(value.get("flip", 0)) and _is_number(degrees) and 0 <= degrees <= 180


def _are_texts(value: Any) -> bool:
    return value is None or isinstance(value, list) and all(map(_is_text, value))


FIELDS = (  # of recipe.json: name, check of its value, accepted values in words
    ("recipe", _is_text, "a name"),
    ("command", _are_texts, "the words of a command"),
    ("created", _is_text, "a time"),
    ("options.loss", _is_text, "a name"),
    ("options.gamma", lambda value: value is None or _is_number(value), "a number"),
    ("options.smoothing", lambda value: value is None or _is_number(value), "a number"),
    ("options.arch", _is_text, "a name"),
    ("options.lr", lambda value: _is_number(value) and value >= 0, "a number from 0"),
    ("options.bs", _counts(1), "an integer from 1"),
    ("options.accum", _counts(1), "an integer from 1"),
    ("options.seed", _counts(0), "an integer from 0"),
    ("augment", _is_augment, "training transforms, or scale (two numbers up to 1), flip (to 1), degrees (to 180)"),
    ("model.arch", _is_text, "a name"),
    ("data.path", _is_text, "a path"),
    ("data.source", lambda value: value is None or _is_text(value), "a path or hf://USER/NAME"),
    ("data.fingerprint", _is_text, "a checksum"),
    ("data.left_out", lambda value: value is None or isinstance(value, dict), "the reason by file"),
    ("data.held_out", _are_texts, "a list of files"),
    ("data.counts", lambda value: value is None or _are_counts(value), "the number of photos by class"),
)


def metrics_fault(figures: Any) -> str | None:
    "The first fault of the content of a metrics.json; None if it is valid."
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
