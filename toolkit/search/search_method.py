"""The choice of a `Method` for a data set: mirroring by features, the rest by short runs if there is time for them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from toolkit import ranks
from toolkit.data.augmentation import Augmentation
from toolkit.data.dataset import DataSet
from toolkit.data.transforms import Augment
from toolkit.features.duplicates import groups, near_duplicates
from toolkit.features.fit_linear import STEPS_TO_COMPARE, classifier
from toolkit.features.folds import grouped_folds
from toolkit.features.views import changed_features, enlarged, is_familiar, mirrored, mirroring_harms, out_of_fold
from toolkit.finetuning.frozen_batch_norm import FrozenBatchNorm
from toolkit.finetuning.layer_decay import layer_groups
from toolkit.finetuning.linear_probe import Known
from toolkit.learner.learner import Learner
from toolkit.learner.random_state import random_state, set_random_state
from toolkit.options import Options
from toolkit.search.halving import KEPT, ShortRuns, held_out, short_run, successive_halving
from toolkit.search.method import Method, candidates
from toolkit.search.network_probe import drawn, features_of, rows_of

SHARE = 0.25  # of --minutes, for the search
FOLDS = 4
VIEWED = 500  # training photos at most whose mirror images and enlarged centres are judged
TRAINING = 3  # ratio of the time of training on a photo to that of a forward pass
L2 = 0.01  # penalty of the classifier that judges them


Build = Callable[[Method, DataSet, Options], Learner]
Transforms = Callable[[Method], list]


def search_method(
    learn: Learner,
    build: Build,
    transforms: Transforms,
    methods: Mapping[bool, Method],
    given: Collection[str],
    minutes: float | None,
) -> bool:
    """Set the method that suits the photos of `learn`, a Learner with a linear probe. Return True if it knows them.

    build(method, data, computing) makes another Learner on other photos, with a model of its own, by these options.
    transforms(method): the training transforms. methods: for photos like those of pretraining (True), and for others
    (False); `is_familiar` tells. given: names of options that the user gave.
    Mirroring is left out if `mirroring_harms`. With `minutes`, SHARE of them is for `successive_halving` of
    `candidates`, judged on training photos; near-duplicates are all trained on or all judged. Validation photos take no
    part. Rank 0 of several searches for all. The random number generators are left as they were, and the probe has the
    features.
    """
    state, begun, seed = random_state(), perf_counter(), learn.options.seed

    def search() -> tuple[Method, bool, bool, list[dict]]:
        known = learn.probe.known() or features_of(learn)
        learn.probe.know(known)
        data, known = _drawn(learn.dls.data, known, seed)
        folds = _folds(known, seed)
        mirror, familiar, each = _by_features(learn, list(data.train), known, folds)
        changes = {} if "mirror" in given else {"mirror": mirror}
        usual, other = (replace(methods[kind], **changes) for kind in (familiar, not familiar))
        seconds = SHARE * 60 * minutes - (perf_counter() - begun) if minutes else 0.0
        part, rows = held_out(data, folds, seed)
        if not part.valid:
            print("too few training photos that differ can be held out: the method is not chosen by them", flush=True)
            return usual, familiar, mirror, []
        options = replace(learn.options, compile=False)  # which would take longer than a short run
        run = short_run(partial(build, computing=options), part, rows_of(known, rows), seed)
        kept = ShortRuns(run, learn.folder and learn.folder / KEPT, _depends_on(learn))
        epoch = each * (TRAINING * len(part.train) + len(part.valid))
        method, runs = _by_runs(kept, candidates(usual, other, given), seconds, epoch)
        return method, familiar, mirror, runs

    try:
        method, familiar, mirror, runs = ranks.from_first(search)
    finally:
        set_random_state(state)
    _print_choice(method, familiar, mirror)
    set_method(learn, method, transforms(method))
    learn.searched = dict(learn.searched) | ({"runs": runs} if runs else {})
    return familiar


def _depends_on(learn: Learner) -> dict[str, str]:
    "Return what the result of a short run depends on, beside its method."
    options = vars(learn.options) | learn.own_options
    used = {name: str(value) for name, value in options.items() if name not in learn.free}
    return used | {"data": learn.dls.data.fingerprint, "device": str(learn.dls.device), "precision": learn.precision}


def _print_choice(method: Method, familiar: bool, mirror: bool) -> None:
    mirrored = "may be trained on" if mirror else "are other things"
    print(
        f"by the probe's features: photos {'' if familiar else 'un'}like those of pretraining, mirrored ones {mirrored}"
        f"\n{method}",
        flush=True,
    )


def set_method(learn: Learner, method: Method, transforms: list) -> None:
    "Make `learn` train by `method`, as if it had been made so."
    dls = learn.dls
    dls.augment = Augmentation.of(transforms)
    augment = next(step for step in dls.train.after_item if isinstance(step, Augment))
    augment.transform = dls.augment.at(learn.options.image_size)
    learn.callback(FrozenBatchNorm).everywhere = method.batch_norm == "fixed"
    learn.splitter, learn.lr = layer_groups(method.layer_decay, frozen=method.frozen), method.lr
    learn.options = replace(learn.options, lr=method.lr)
    learn.own_options = dict(learn.own_options) | method.own_options()


def _drawn(data: DataSet, known: Known, seed: int) -> tuple[DataSet, Known]:
    "Return at most MOST training photos, drawn by the seed, and what is known of them."
    chosen, photos = drawn(len(data.train), seed), list(data.train.items())
    return DataSet(data.path, dict(photos[i] for i in chosen), {}), rows_of(known, chosen)


def _folds(known: Known, seed: int) -> np.ndarray:
    "Return folds of the training photos, int [photos], that keep near-duplicates together."
    features, labels, thumbnails = known
    together = groups(near_duplicates(features.cpu().numpy(), thumbnails), len(labels))
    most = min(FOLDS, len(np.unique(together)))
    return grouped_folds(labels.cpu().numpy(), together, most, seed) if most > 1 else np.full(len(labels), -1)


def _by_features(learn: Learner, photos: list[Path], known: Known, folds: np.ndarray) -> tuple[bool, bool, float]:
    """Return True if mirrored photos may be trained on, True if the photos are like those of pretraining, and the
    seconds that reading a photo and a forward pass took.
    """
    features, labels = (part.cpu().numpy() for part in known[:2])
    few = np.sort(np.random.default_rng(learn.options.seed).permutation(len(labels))[:VIEWED])
    workers, begun, views = learn.dls.train.fake_l.num_workers, perf_counter(), [features]
    loader = learn.dls.test_dl([photos[i] for i in few], num_workers=workers)
    for changed in changed_features(learn.model, loader, (enlarged, mirrored), learn.dls.device, learn.exact):
        views.append(features.copy())
        views[-1][few] = changed
    each = (perf_counter() - begun) / (2 * len(few))
    fit = partial(classifier, classes=int(labels.max()) + 1, l2=L2, steps=STEPS_TO_COMPARE)
    plain, centre, mirror = (part[few] for part in out_of_fold(fit, features, labels, folds, views))
    return not mirroring_harms(plain, mirror, labels[few]), is_familiar(plain, centre, labels[few]), each


def _by_runs(run: ShortRuns, methods: list[Method], seconds: float, epoch: float) -> tuple[Method, list[dict]]:
    "Return the best of `methods` by short runs that fit into `seconds`, and a row for each run."
    method, tried = successive_halving(methods, run, seconds, epoch)
    if not tried:
        return methods[0], []
    rows = [one.row() for one in tried]
    print(*_table(rows), sep="\n", flush=True)
    return method, rows


def _table(runs: list[dict]) -> list[str]:
    "The lines of the search: each short run."
    lines = [f"{'epochs':>6}  {'loss':>6}  {'s':>5}  method, judged on {runs[0]['photos']} training photos left out"]
    lines += [f"{row['epochs']:>6}  {row['loss']:>6.3f}  {row['seconds']:>5.1f}  {row['method']}" for row in runs]
    return lines
