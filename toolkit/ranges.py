"""The range of every numeric option. Recipes check their options before anything is read or written."""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

LARGEST = 8192
"""The most pixels that resizing or cropping may ask for: it bounds the memory that a foreign model file can claim."""

MANY = 10**9  # largest count of epochs, photos, steps, ...
SEEDS = 2**32  # numpy and scikit-learn take seeds below it

Range = tuple[Callable[[Any], bool], str]


def _whole(least: int, words: str, most: int = MANY) -> Range:
    return lambda value: isinstance(value, Integral) and least <= value <= most, f"{words}, at most {most:,}"


def _from_0(words: str) -> Range:
    return lambda value: 0 <= value < math.inf, words


RANGES: dict[str, Range] = {  # by option: check of a number, accepted numbers in words
    "gamma": _from_0("a number from 0 (cross-entropy) up; 2 is usual"),
    "smoothing": (lambda value: 0 <= value < 1, "a number from 0 (cross-entropy) to below 1; 0.1 is usual"),
    "fetch": _whole(0, "0 (none) or more networks"),
    "epochs": _whole(1, "1 or more"),
    "patience": _whole(1, "1 or more epochs without a better one"),
    "minutes": (lambda value: 0 < value <= MANY, f"a number above 0, at most {MANY:,}"),
    "promise": (lambda value: 0 <= value <= 1, "a precision up to 1, such as 0.98, or 0 for none"),
    "lr": _from_0("a number from 0 up, or auto"),
    "bs": _whole(1, "1 or more photos a batch"),
    "accum": _whole(1, "1 or more batches to an optimiser step"),
    "image_size": _whole(1, "1 pixel or more", LARGEST * 224 // 256),
    "train_sizes": _whole(1, "1 pixel or more", LARGEST),
    "layer_decay": (lambda value: 0 < value <= 1, "more than 0, at most 1 (each layer at the same rate)"),
    "frozen": (lambda value: 0 <= value < 1, "a share of the layers from 0 (none is frozen) to below 1"),
    "crop_area": (lambda value: 0 < value <= 1, "more than 0, at most 1 (the whole photo)"),
    "mixup": _from_0("0 (none) or more"),
    "cutmix": _from_0("0 (none) or more"),
    "folds": _whole(2, "2 or more parts of the training photos", 1000),
    "fold": _whole(1, "the number of a fold, from 1 to --folds", 1000),
    "workers": _whole(0, "0 (read in the training process) or more"),
    "seed": _whole(0, "0 or more", SEEDS - 1),
    "save_every": _whole(0, "0 (only after each epoch) or more optimiser steps"),
}


def check_ranges(options: Mapping[str, Any]) -> None:
    """Raises ValueError with the range of the first option whose number is out of it.

    options: values by name. Options without a range and values that are no numbers (None, auto) are skipped. Each
    number of a list is checked.
    """
    for name in options.keys() & RANGES.keys():
        fits, accepted = RANGES[name]
        given = options[name]
        for value in given if isinstance(given, list | tuple) else [given]:
            if isinstance(value, bool) or isinstance(value, Real) and not fits(value):
                raise ValueError(f"--{name} {value}: give {accepted}")
