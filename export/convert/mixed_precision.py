"""Convert a verified float32 file to float16 or 8 bits, and keep the layers in float32 that this would harm.

The verification drives a search: the worst layers are kept one by one until the file is within its budget; then each is
dropped again if the file is within its budget without it.
"""

import itertools
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from export.convert.fp16 import as_computed, to_half
from export.convert.layers import costliest_first, layers_of, nodes_of
from export.convert.raw_outputs import raw_outputs
from export.session import Classifier

MOST = 0.5
"The largest share of layers that may stay in float32; with more, the file would not be of the precision asked for."


def lower(
    path: Path, precision: str, device: str, images: np.ndarray, faults: Callable[[Path, list[str]], list[str]]
) -> dict[str, float]:
    """Replace the float32 file at `path` by one of `precision` for which `faults` returns none.

    images: uint8 [n, crop, crop, 3], training photos, to calibrate with and to measure a layer's damage on. faults: the
    faults, in words, of a file with these layers kept in float32. Returns the layers kept in float32, each with the
    damage that it would do alone: the mean squared error of the logits, as a share of their variance. Raises
    ValueError, naming the most harmful layers, if more than MOST would have to be kept.
    """
    layers, make = layers_of(onnx.load(path)), _maker(path, precision, images)
    expected = _logits(path, "fp32", device, images[:64])
    with TemporaryDirectory() as folder:
        candidate = Path(folder) / "model.onnx"

        def write(names: Iterable[str]) -> None:
            onnx.save(make(nodes_of(layers, names)), candidate)

        def damage(lowered: list[str]) -> float:
            write(name for name in layers if name not in lowered)
            return _error(expected, _logits(candidate, precision, device, images[:64]))

        def judge(names: list[str]) -> list[str]:
            write(names)
            return faults(candidate, names)

        kept = _searched(precision, list(layers), damage, judge)
        write(kept)
        shutil.copyfile(candidate, path)
    return kept


def _searched(precision: str, layers: list[str], damage: Callable, judge: Callable) -> dict[str, float]:
    "The layers to keep, with the damage of each. Raises ValueError if MOST of them are not enough."
    found, kept = judge([]), {}
    if not found:
        return kept
    _print_line(f"{precision}: {found[0]}; looking for the harmful layers among {len(layers)}")
    for name, cost in itertools.islice(costliest_first(layers, damage), int(MOST * len(layers))):
        kept[name] = cost
        found = judge(list(kept))
        _print_line(f"{precision}: {name} in float32: {found[0] if found else 'within the budget'}")
        if not found:
            return _needed(precision, kept, judge)
    raise ValueError(_too_much(precision, found, kept, len(layers)))


def _needed(precision: str, kept: dict[str, float], judge: Callable) -> dict[str, float]:
    "The layers without which the file is over its budget. The last one always is."
    for name in list(kept)[:-1]:
        if not judge([other for other in kept if other != name]):
            del kept[name]
            _print_line(f"{precision}: {name} can be lowered after all")
    return kept


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _maker(path: Path, precision: str, images: np.ndarray) -> Callable[[list[str]], onnx.ModelProto]:
    "A function that makes the model, given the nodes to keep in float32."
    if precision == "fp16":
        return lambda kept: to_half(onnx.load(path), kept)
    from export.convert.int8 import ranges_of, to_int8

    ranges = ranges_of(path, images)
    return lambda kept: to_int8(onnx.load(path), ranges, kept)


def _logits(path: Path, precision: str, device: str, images: np.ndarray) -> np.ndarray:
    with as_computed(path, precision, device) as computed:
        return raw_outputs(Classifier(computed, device), images)[0]


def _error(expected: np.ndarray, logits: np.ndarray) -> float:
    "Mean squared error as a share of the variance; infinite if a logit is no number."
    error = np.mean((logits.astype(np.float64) - expected) ** 2) / np.var(expected.astype(np.float64))
    return float(error) if np.isfinite(error) else float("inf")


def _too_much(precision: str, wrong: list[str], kept: dict[str, float], total: int) -> str:
    "The message of the error: what is still wrong, and the most harmful layers."
    worst = ", ".join(f"{name} ({cost:.1e})" for name, cost in list(kept.items())[:8])
    return (
        f"{precision} is over its budget, no file is written: with {len(kept)} of {total} layers in float32 still "
        f"{'; '.join(wrong)}\nthe most harmful layers (share of the logits' variance): {worst}"
    )
