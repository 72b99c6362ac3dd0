"""Successive halving: methods are compared by short runs, judged on training photos that the runs leave out."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastai.torch_core import set_seed

from toolkit.data.dataset import DataSet
from toolkit.finetuning.linear_probe import Known
from toolkit.learner.learner import Learner
from toolkit.search.method import Method

RUNGS = (2, 4)  # training epochs of the runs: all methods for the first number, the better half for the second
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


def successive_halving(methods: Sequence[Method], run: Run, seconds: float, epoch: float) -> tuple[Method, list[Tried]]:
    """Return the best of `methods` and all short runs. The first method stays unless another is clearly better.

    run(method, epochs) trains for that number of epochs and returns the cross-entropy of each held-out photo, float
    [photos]. epoch: seconds that an epoch is expected to take. Nothing is run if two methods do not fit into `seconds`.
    As many are compared as fit, by the time that the first one then takes; all train for RUNGS[0] epochs, the better
    half of them (and the first) for RUNGS[1]. The best of these wins if its mean loss is lower than the first method's
    by more than the standard error of the paired difference.
    Source: https://arxiv.org/abs/1502.07943 (successive halving); Breiman et al., Classification and Regression Trees,
    1984 (the one-standard-error rule)
    """
    if _affordable(len(methods), epoch, seconds) < 2:
        return methods[0], []
    tried = [_timed(run, methods[0], RUNGS[0])]
    count = _affordable(len(methods), tried[0].seconds / RUNGS[0], seconds)
    if count < 2:
        return methods[0], tried
    tried += [_timed(run, method, RUNGS[0]) for method in methods[1:count]]
    others = sorted(tried[1:], key=lambda one: one.losses.mean())
    finalists = [methods[0], *(one.method for one in others[: math.ceil(count / 2) - 1 or 1])]
    finals = [_timed(run, method, RUNGS[1]) for method in finalists]
    return _clearly_best(finals), tried + finals


def _timed(run: Run, method: Method, epochs: int) -> Tried:
    begun = time.perf_counter()
    losses = run(method, epochs)
    return Tried(method, epochs, losses, time.perf_counter() - begun)


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
