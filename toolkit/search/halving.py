"""Successive halving: methods are compared by short runs, judged on training photos that the runs leave out."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.torch_core import set_seed

from toolkit.data.dataset import DataSet
from toolkit.files import read_json, write_json
from toolkit.finetuning.linear_probe import Known
from toolkit.learner.learner import Learner
from toolkit.search.method import Method

RUNGS = (2, 4)  # training epochs of the runs: all methods for the first number, the better half for the second
KEPT = "search.json"  # in the run's folder, until the run begins: the short runs of a search
MOST_PHOTOS = 640  # training photos in a search, with those that it is judged by

Run = Callable[[Method, int], np.ndarray]


@dataclass(frozen=True)
class Tried:
    "A short run of a method."

    method: Method
    epochs: int
    losses: np.ndarray  # float [held-out photos]: cross-entropy of each
    seconds: float

    def row(self) -> dict[str, Any]:
        "A row of the table in recipe.json."
        return {
            "method": str(self.method),
            "epochs": self.epochs,
            "loss": round(float(self.losses.mean()), 4),
            "photos": len(self.losses),
            "seconds": round(self.seconds, 1),
        }


class ShortRuns:
    """Short runs of methods. Each is written to a file when it is done, and is not repeated.

    run(method, epochs) trains for that number of epochs and returns the cross-entropy of each held-out photo, float
    [photos]. file: None keeps them in memory alone. of: what their results depend on, by name; runs in the file that
    are of other values are dropped, which is printed.
    Raises ValueError for a file that is not JSON, OSError if it can't be written.
    """

    def __init__(self, run: Run, file: Path | None = None, of: Mapping[str, str] | None = None):
        self.run, self.file, self.of = run, file, dict(of or {})
        self.done = self._read() if file and file.is_file() else []

    def __call__(self, method: Method, epochs: int) -> Tried:
        "Return the short run of a method, which takes place unless it is known."
        known = (one for one in self.done if (one.method, one.epochs) == (method, epochs))
        return next(known, None) or self._take(method, epochs)

    def _take(self, method: Method, epochs: int) -> Tried:
        begun = time.perf_counter()
        try:
            losses = self.run(method, epochs)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._interrupted()) from None
        self.done.append(Tried(method, epochs, losses, time.perf_counter() - begun))
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            runs = [asdict(one) | {"losses": one.losses.tolist()} for one in self.done]
            write_json(self.file, {"of": self.of, "runs": runs})
        return self.done[-1]

    def _interrupted(self) -> str:
        if not (self.file and self.done):
            return "interrupted in the search of a method"
        kept = f"interrupted in the search of a method (short runs kept: {len(self.done)})"
        return f"{kept}; to go on, give the same options with --out {self.file.parent} --resume"

    def _read(self) -> list[Tried]:
        content = read_json(self.file)
        before = content.get("of", {}) if isinstance(content, dict) else {}
        if other := [name for name, value in self.of.items() if before.get(name) != value]:
            print(f"{self.file} is of another {', '.join(other)}: the search begins anew", flush=True)
            return []
        print(f"short runs known from {self.file}: {len(content['runs'])}", flush=True)
        runs = [one | {"method": Method(**one["method"]), "losses": np.array(one["losses"])} for one in content["runs"]]
        return [Tried(**one) for one in runs]


def successive_halving(
    methods: Sequence[Method], run: Callable[[Method, int], Tried], seconds: float, epoch: float
) -> tuple[Method, list[Tried]]:
    """Return the best of `methods` and all short runs. The first method stays unless another is clearly better.

    run(method, epochs): see `ShortRuns`. epoch: seconds that an epoch is expected to take. Nothing is run if two
    methods do not fit into `seconds`.
    As many are compared as fit, by the time that the first one then takes; all train for RUNGS[0] epochs, the better
    half of them (and the first) for RUNGS[1]. The best of these wins if its mean loss is lower than the first method's
    by more than the standard error of the paired difference.
    Source: https://arxiv.org/abs/1502.07943 (successive halving); Breiman et al., Classification and Regression Trees,
    1984 (the one-standard-error rule)
    """
    if _affordable(len(methods), epoch, seconds) < 2:
        return methods[0], []
    tried = [run(methods[0], RUNGS[0])]
    count = _affordable(len(methods), tried[0].seconds / RUNGS[0], seconds)
    if count < 2:
        return methods[0], tried
    tried += [run(method, RUNGS[0]) for method in methods[1:count]]
    others = sorted(tried[1:], key=lambda one: one.losses.mean())
    finalists = [methods[0], *(one.method for one in others[: math.ceil(count / 2) - 1 or 1])]
    finals = [run(method, RUNGS[1]) for method in finalists]
    return _clearly_best(finals), tried + finals


def _affordable(methods: int, epoch: float, seconds: float) -> int:
    "Return the number of methods, at most `methods`, whose runs fit into `seconds` with `epoch` seconds an epoch."
    fitting = [
        n for n in range(2, methods + 1) if epoch * (RUNGS[0] * n + RUNGS[1] * max(math.ceil(n / 2), 2)) <= seconds
    ]
    return max(fitting, default=1)


def _clearly_best(finals: Sequence[Tried]) -> Method:
    usual, best = finals[0], min(finals, key=lambda one: one.losses.mean())
    difference = usual.losses - best.losses
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return best.method if difference.mean() > error else usual.method


def held_out(data: DataSet, folds: np.ndarray, seed: int) -> tuple[DataSet, np.ndarray]:
    """Return a data set that trains on a part of the training photos of `data`, and validates on fold 0 of them.

    folds: int [photos to train on], of `toolkit.features.folds.grouped_folds`. Of more than MOST_PHOTOS photos as many
    are drawn. The second result are the indices of its training photos, int64 [photos], among those of `data`.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(data.train))[:MOST_PHOTOS])
    photos, left = list(data.train.items()), drawn[folds[drawn] != 0]
    valid = dict(photos[i] for i in drawn[folds[drawn] == 0])
    return DataSet(data.path, dict(photos[i] for i in left), valid), left


def short_run(build: Callable[[Method, DataSet], Learner], data: DataSet, known: Known, seed: int) -> Run:
    """Return the function that trains a method on `data`, see `successive_halving`.

    known: the features of its training photos, for the linear probe.
    """

    def run(method: Method, epochs: int) -> np.ndarray:
        set_seed(seed)
        learn = build(method, data)
        learn.probe.know(known)
        learn.probe.most_doubted = 0
        with learn.no_bar(), learn.no_logging():
            learn.fit(1 + epochs)  # the first is the probe
            probabilities, labels = learn.get_preds()
        right = probabilities[torch.arange(len(labels)), labels.long()]
        return -right.nan_to_num(0).clamp_min(1e-7).log().double().numpy()  # weights that are not finite: the worst

    return run
