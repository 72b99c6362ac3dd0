"""The choice of `--arch auto`: pretrained networks compared by a linear probe on held-out training photos."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from fastai.torch_core import set_seed

from toolkit import ranks
from toolkit.finetuning.linear_probe import Known, LinearProbe
from toolkit.learner.learner import Learner
from toolkit.models.at_hand import Candidate, Choice, choice_of_networks
from toolkit.models.catalogue import NETWORKS, by_accuracy
from toolkit.options import Options
from toolkit.search.network_probe import drawn, features_of, folds_of, judged, rows_of
from toolkit.search.network_text import Compared, nothing_to_compare, print_compared
from toolkit.search.network_time import LEAST_EPOCHS, Budget, forward_seconds, training_seconds


def best_network(build: Callable[..., Learner], options: Options, own: dict[str, Any]) -> Learner:
    """Return the learner of a recipe with the network that suits the training photos best.

    build: makes the learner from options and the recipe's `own` options; it does so with each network in turn. The
    learner returned is the one that the chosen `arch` and `weights` give without a search, but for the features of the
    training photos, which its linear probe does not compute again, and for the time that is left of own["minutes"].
    Its `searched` is the record for recipe.json.
    Each network of `choice_of_networks` computes the features of all training photos once. A linear probe is judged on
    those photos out of fold, near-duplicates together. `fastest_of_best` chooses. If there are `minutes` for training,
    networks are left out as `Comparison.fault` says. The result is printed.
    Raises ValueError on several ranks, for --weights that are no pretrained networks, and if there is none to compare.
    """
    if ranks.count() > 1:
        raise ValueError(f"--arch auto on {ranks.count()} processes: give a name, such as one process alone finds")
    found = choice_of_networks(options.weights, options.any_license, options.fetch)
    minutes = own.get("minutes")
    comparison = Comparison(partial(build, **own), options, found, Budget(minutes))
    for each in sorted(found.candidates, key=lambda each: by_accuracy(each.network), reverse=True):
        comparison.add(each)
    if not comparison.compared:
        comparison.try_usual_network()
        raise ValueError(nothing_to_compare(options.weights, found, comparison.budget))
    chosen = fastest_of_best(comparison.compared)
    print_compared(comparison.compared, chosen, found, comparison.budget)
    left = {} if minutes is None else {"minutes": max(minutes - comparison.budget.spent() / 60, 1e-3)}
    set_seed(options.seed)
    learn = build(replace(options, arch=chosen.name, weights=chosen.weights), **own | left)
    comparison.hand_over(learn, chosen)
    return learn


def fastest_of_best(compared: list[Compared]) -> Compared:
    """Return the network that is trained fastest among those within a standard error of the most accurate one.

    Source: Breiman et al., Classification and Regression Trees, 1984 (the one-standard-error rule)
    """
    best = max(compared, key=lambda each: each.accuracy)
    return min(
        (each for each in compared if each.accuracy >= best.accuracy - best.error), key=lambda each: each.training
    )


class Comparison:
    "The networks compared so far, their features, and the folds that all of them are judged by."

    def __init__(self, build: Callable[[Options], Learner], options: Options, found: Choice, budget: Budget):
        self.build, self.options, self.found, self.budget = build, options, found, budget
        self.compared: list[Compared] = []
        self.features: dict[str, Known] = {}  # by the network's name
        self.folds: np.ndarray | None = None

    def add(self, candidate: Candidate) -> None:
        "Compare a network. If it can't be or there is no time, put the reason into `found.left_out`."
        try:
            fault = self.fault(candidate)
            if fault is None:
                self._compare(candidate)
        except ValueError as error:  # weights that do not fit, a size that is not taken, a head of another kind
            fault = str(error)
        if fault:
            self.found.left_out[candidate.name] = fault

    def fault(self, candidate: Candidate) -> str | None:
        """Return why there is no time for a network, or None.

        A batch is timed, with random weights if its own are not there yet. The least training must fit into the budget
        beside the comparison, and the comparison into its share. The first network with time for training is compared.
        """
        if self.budget.seconds is None:
            return None
        if self.compared and self.budget.is_spent():
            return "no time left to try it"
        learn = self.learner(candidate.name, candidate.weights if candidate.cached else "none")
        each = forward_seconds(learn)
        self.budget.timed(candidate.network, learn, each)
        return self.budget.fault(each, first=not self.compared)

    def _compare(self, candidate: Candidate) -> None:
        start = perf_counter()
        learn = self.learner(candidate.name, candidate.weights)
        self.features[candidate.name] = known = features_of(learn)
        known = rows_of(known, drawn(len(learn.dls.data.train), self.options.seed))
        self.folds = folds_of(*known) if self.folds is None else self.folds
        accuracy, error = judged(*known[:2], self.folds)
        each = forward_seconds(learn)
        self.budget.timed(candidate.network, learn, each)
        epochs = learn.options.epochs if self.budget.seconds is None else LEAST_EPOCHS
        training = training_seconds(self.budget.task, each, epochs)
        known = candidate.name, candidate.weights, candidate.licence
        self.compared.append(Compared(*known, accuracy, error, perf_counter() - start, training))

    def learner(self, name: str, weights: str) -> Learner:
        "Return the learner with this network as a run without a search would begin with it; nothing is printed."
        set_seed(self.options.seed)
        with redirect_stdout(io.StringIO()):
            return self.build(replace(self.options, arch=name, weights=weights, compile=False))

    def try_usual_network(self) -> None:
        "With a budget, time a network with random weights if none was at hand: it tells this machine's speed."
        if self.budget.seconds is not None and not self.found.candidates:
            usual = next(each for each in NETWORKS if each.name.startswith("mobilenetv2_100"))
            self.budget.timed(usual, learn := self.learner(usual.name, "none"), forward_seconds(learn))

    def hand_over(self, learn: Learner, chosen: Compared) -> None:
        "Give the learner of the chosen network its features, for its linear probe, and the record for recipe.json."
        if probe := learn.callback(LinearProbe):
            probe.know(self.features[chosen.name])
        networks = [asdict(each) for each in self.compared]
        learn.searched = {"networks": networks, "left_out": self.found.left_out, "chosen": chosen.name}
