"""The choice of a `Method` for a data set: mirroring by features, the rest by short runs if there is time for them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from toolkit import ranks
from toolkit.features.duplicates import groups, near_duplicates
from toolkit.features.extract import head_inputs
from toolkit.features.folds import grouped_folds
from toolkit.features.views import is_familiar, mirroring_harms, out_of_fold
from toolkit.finetuning.linear_probe import Features, features_of, fit_linear
from toolkit.learner.learner import Learner
from toolkit.learner.random_state import random_state, set_random_state
from toolkit.search.halving import held_out, short_run, successive_halving
from toolkit.search.method import Method, candidates

SHARE = 0.25  # of --minutes, for the search
FOLDS = 4
VIEWED = 1000  # training photos at most whose mirror images are judged
ENLARGED = 400  # and those that are enlarged
PART = 0.6  # of the width and height of a photo, its centre, is enlarged to the whole
L2 = 0.01  # penalty of the classifier that judges them


@dataclass(frozen=True)
class Found:
    "The result of a search."

    method: Method
    familiar: bool = True  # these photos are like those of pretraining
    features: Features | None = None  # of the training photos, for the linear probe
    runs: list[dict] = field(default_factory=list)  # a row for each short run, for recipe.json
    seconds: float = 0.0


def search_method(
    build: Callable[..., Learner],
    methods: Mapping[bool, Method],
    given: Collection[str],
    minutes: float | None,
    seed: int,
) -> Found:
    """Return the method for the photos of `build(methods[True])`, a Learner with a linear probe.

    methods: for photos like those of pretraining (True), and for others (False); `is_familiar` tells.

    build(method, data, model) makes a Learner; by default on the whole data set, of the recipe's model. given: names of
    options that the user gave. Mirroring is left out if `mirroring_harms`. With `minutes`, SHARE of them is for
    `successive_halving` of `candidates`, judged on training photos; near-duplicates are all trained on or all judged.
    Validation photos take no part. Rank 0 of several searches for all, and only its result has features. The random
    number generators are left as they were.
    """
    state, begun, features = random_state(), perf_counter(), []
    learn = build(methods[True])

    def search() -> tuple[Method, bool, bool, list[dict]]:
        features.append(features_of(learn))
        folds = _folds(features[0], seed)
        mirror, familiar = _by_features(learn, features[0], folds, seed)
        changes = {} if "mirror" in given else {"mirror": mirror}
        usual, other = (replace(methods[kind], **changes) for kind in (familiar, not familiar))
        seconds = SHARE * 60 * minutes - (perf_counter() - begun) if minutes else 0.0
        method, runs = _by_runs(build, learn, folds, candidates(usual, other, given), seconds, seed)
        return method, familiar, mirror, runs

    try:
        method, familiar, mirror, runs = ranks.from_first(search)
    finally:
        set_random_state(state)
    mirrored = "may be trained on" if mirror else "are other things"
    print(
        f"by the probe's features: photos {'' if familiar else 'un'}like those of pretraining, mirrored ones {mirrored}"
        f"\n{method}",
        flush=True,
    )
    return Found(method, familiar, features[0] if features else None, runs, perf_counter() - begun)


def _folds(computed: Features, seed: int) -> np.ndarray:
    "Return folds of the training photos, int [photos], that keep near-duplicates together."
    features, labels = (part.cpu().numpy() for part in computed)
    return grouped_folds(labels, groups(near_duplicates(features), len(labels)), FOLDS, seed)


def _by_features(learn: Learner, computed: Features, folds: np.ndarray, seed: int) -> tuple[bool, bool]:
    "Return True if mirrored photos may be trained on, and True if the photos are like those of pretraining."
    features, labels = (part.cpu().numpy() for part in computed)
    order = np.random.default_rng(seed).permutation(len(labels))
    few, many = np.sort(order[:ENLARGED]), np.sort(order[:VIEWED])
    enlarged, mirrored = features.copy(), features.copy()
    enlarged[few], mirrored[many] = _viewed(learn, few, _enlarged), _viewed(learn, many, lambda images: images.flip(-1))
    plain, enlarged, mirrored = out_of_fold(_classifier, features, labels, folds, [features, enlarged, mirrored])
    harms = mirroring_harms(plain[many], mirrored[many], labels[many])
    familiar = is_familiar(plain[few], enlarged[few], labels[few])
    return not harms, familiar


def _viewed(learn: Learner, chosen: np.ndarray, change: Callable[[Tensor], Tensor]) -> np.ndarray:
    "Return the features of the chosen training photos, float [chosen, features], of images changed by `change`."
    photos = list(learn.dls.data.train)
    loader = learn.dls.test_dl([photos[i] for i in chosen], num_workers=learn.dls.train.fake_l.num_workers)
    changed = ((change(images.as_subclass(Tensor)),) for images, *_ in loader)
    return head_inputs(learn.model, changed, learn.dls.device, learn.exact)[0].cpu().numpy()


def _enlarged(images: Tensor) -> Tensor:
    "Return the centre of each image, PART of its width and height, at the size of the whole."
    side = images.shape[-1]
    edge = round(side * (1 - PART) / 2)
    centre = images[..., edge : side - edge, edge : side - edge]
    return torch.nn.functional.interpolate(centre, size=(side, side), mode="bilinear", antialias=True)


def _by_runs(
    build: Callable[..., Learner],
    learn: Learner,
    folds: np.ndarray,
    methods: list[Method],
    seconds: float,
    seed: int,
) -> tuple[Method, list[dict]]:
    "Return the best of `methods` by short runs of at most `seconds`, and a row for each run."
    if seconds <= 0 or len(methods) < 2:
        return methods[0], []
    run = short_run(build, held_out(learn.dls.data, folds, seed), learn.model, seed)
    method, tried = successive_halving(methods, run, seconds)
    rows = [one.row() for one in tried]
    print(*_table(rows), sep="\n", flush=True)
    return method, rows


def _classifier(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    "Fit a linear classifier, and return its function from features to log-probabilities."
    mean, deviation = features.mean(0), max(features.std(), 1e-12)
    inputs, targets = torch.from_numpy((features - mean) / deviation), torch.from_numpy(labels)
    zero = inputs.new_zeros(int(labels.max()) + 1, inputs.shape[1]), inputs.new_zeros(int(labels.max()) + 1)
    weight, bias, _ = fit_linear(inputs, targets, torch.nn.functional.cross_entropy, L2, zero)

    def predict(others: np.ndarray) -> np.ndarray:
        logits: Tensor = torch.from_numpy((others - mean) / deviation) @ weight.T + bias
        return logits.log_softmax(1).numpy()

    return predict


def _table(runs: list[dict]) -> list[str]:
    "The lines of the search: each short run."
    lines = [f"{'epochs':>6}  {'loss':>6}  {'s':>5}  method, judged on {runs[0]['photos']} training photos left out"]
    lines += [f"{row['epochs']:>6}  {row['loss']:>6.3f}  {row['seconds']:>5.1f}  {row['method']}" for row in runs]
    return lines
