"""Default hyperparameters from data set size and depth; epochs from a time budget."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

from torch import nn

from toolkit import ranks
from toolkit.finetuning.layer_decay import decay_over
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.finetuning.progressive_resizing import ProgressiveResizing
from toolkit.learner.learner import Learner
from toolkit.models.timm_model import check_size
from toolkit.options import Options
from toolkit.search.epoch_time import epoch_seconds, epochs_and_size
from toolkit.search.method import METHOD, Method, in_words, method_of
from toolkit.search.search_method import Build, Transforms, search_method
from toolkit.search.snapshot import restoring_state

SLACK = 1.05  # ratio of an epoch's time to that of its steps: the page, and what a few steps do not show
MOST = 1000  # largest planned number of epochs: ten times the default for random weights and few photos
FROZEN = round(1 / 3, 3)  # share of a pretrained network's layers that are not trained, from the first one on
FIRST_LAYER = 0.1  # ratio of the first trained layer's learning rate to the head's, for familiar photos
FEW = 2000  # photos; batches are small below it
FAMILIAR_RATE = 0.6  # of the usual learning rate
OTHER_RATE = 0.35  # of the usual learning rate, for photos that are not familiar; more undid what the network knew


class Settings(NamedTuple):
    "The options of a run of rapid before a search."

    options: Options
    own: dict[str, Any]  # train_sizes and probe
    methods: dict[bool, Method]  # for photos like those of pretraining (True), and for others (False)
    given: frozenset[str]  # names of the methods' values that the user gave


def rapid_settings(options: Options, given: dict[str, Any], photos: int, model: nn.Module) -> Settings:
    """Return rapid's settings for `photos` training photos.

    given: rapid's own options by name. Given values (neither None, auto nor empty) stay; `default_settings` chooses the
    others, which are printed unless they depend on the probe's features.
    Raises ValueError if both --epochs and --minutes are given, and for sizes that the model does not accept.
    """
    if options.epochs is not None and given["minutes"] is not None:
        raise ValueError(f"--epochs {options.epochs} and --minutes {given['minutes']:g}: give one of them")
    pretrained = options.weights != "none"
    asked = {name: getattr(options, name) for name in ("bs", "epochs", "lr")} | given
    known = (photos, model, pretrained, given["probe"], options.bs)
    chosen = default_settings(*known)
    chosen["train_sizes"] = (options.image_size,)
    stays = {name: asked[name] for name in chosen if name != "probe" and asked[name] not in (None, (), "auto")}
    later = {*METHOD, "epochs"} if chosen["probe"] else set()
    mine = {name: value for name, value in chosen.items() if name not in stays and name not in later}
    print(f"{photos} photos, {'pretrained' if pretrained else 'random'} weights: {in_words(mine)}", flush=True)
    final = chosen | stays
    for size in final["train_sizes"]:
        check_size(model, size, "train_sizes")
    others = default_settings(*known, familiar=False) | stays
    used = replace(options, **{name: final[name] for name in ("bs", "epochs", "lr")})
    own = {name: final[name] for name in ("train_sizes", "probe")}
    return Settings(used, own, {True: method_of(final), False: method_of(others)}, frozenset(stays) & METHOD)


def default_epochs(photos: int, pretrained: bool = True, familiar: bool = True) -> int:
    """Return the default number of training epochs: fewer for more photos, more for random weights.

    familiar: the photos are like those of pretraining (`toolkit.features.views.is_familiar`).
    """
    if not pretrained:
        return round(min(100, max(10, 700 / math.sqrt(photos))))
    return round(min(6, max(3, 100 / math.sqrt(photos))) if familiar else min(7, max(3, 250 / math.sqrt(photos))))


def default_settings(
    photos: int,
    model: nn.Module,
    pretrained: bool,
    probe: bool,
    bs: int | None = None,
    familiar: bool = True,
) -> dict[str, Any]:
    """Return the defaults of bs, epochs, probe and of each value of `Method`, as rapid's options take them.

    The first epoch is the linear probe. Random weights have no features to probe.
    The first layers of a pretrained network stay as they are, and its batch norms keep their statistics. Familiar
    photos need little: the first layers that are trained learn slower. For others all of them learn at one rate, from
    crops that show most of the photo.
    bs: the given batch size, if any. Few photos are trained on in small batches, so that an epoch has more steps. The
    learning rate grows with the square root of the batch size.
    """
    few = pretrained and photos < FEW
    bs = bs or (16 if few else 32 if photos < 4000 else 64 if photos < 40000 else 128)
    lr, probe = 1e-3 * math.sqrt(bs / 32), probe and pretrained
    if not pretrained:
        method = {"frozen": 0.0, "layer_decay": 1.0, "batch_norm": "adapt", "crop_area": 0.25}
    elif familiar:
        lr *= FAMILIAR_RATE
        decay = round(decay_over(model, FIRST_LAYER, FROZEN), 3)
        method = {"frozen": FROZEN, "layer_decay": decay, "batch_norm": "fixed", "crop_area": 0.25}
    else:
        lr *= OTHER_RATE
        method = {"frozen": FROZEN, "layer_decay": 1.0, "batch_norm": "fixed", "crop_area": 0.6}
    epochs = default_epochs(photos, pretrained, familiar) + probe
    return {"bs": bs, "epochs": epochs, "lr": lr} | method | {"mirror": "yes", "probe": probe}


def plan(
    settings: Settings,
    build: Build,
    transforms: Transforms,
    epochs: int | None,
    minutes: float | None,
    train_sizes: Sequence[int],
) -> Callable[[Learner], None]:
    """Return the plan of rapid's Learner: it sets the method, by `search_method`, and the epochs unless they are given.

    Raises ValueError for `minutes` on several ranks, which would have to agree.
    """
    if minutes is not None and ranks.count() > 1:
        raise ValueError(f"--minutes on {ranks.count()} processes: give --epochs, such as one process alone finds")

    def set_plan(learn: Learner) -> None:
        begun, methods, given = perf_counter(), settings.methods, settings.given
        if learn.lr_curve is not None:  # --lr auto
            methods = {kind: replace(method, lr=learn.options.lr) for kind, method in methods.items()}
            given |= {"lr"}
        if settings.own["probe"] and not METHOD <= given:
            familiar = search_method(learn, build, transforms, methods, given, minutes)
            planned = epochs or default_epochs(len(learn.dls.data.train), familiar=familiar) + 1
            learn.options = replace(learn.options, epochs=planned)
        if minutes is not None:
            fit_budget(minutes, train_sizes, perf_counter() - begun)(learn)

    return set_plan


def fit_budget(minutes: float, train_sizes: Sequence[int] = (), spent: float = 0.0) -> Callable[[Learner], None]:
    """Return the plan of a Learner whose epochs fit into `minutes`.

    spent: seconds of them that a search has taken.
    The plan sets `learn.options.epochs`, and the sizes of the training squares unless `train_sizes` are given.
    """

    def set_epochs(learn: Learner) -> None:
        epochs, sizes = epochs_within(learn, minutes, train_sizes, spent)
        learn.options = replace(learn.options, epochs=epochs)
        learn.own_options = dict(learn.own_options) | {"train_sizes": sizes}
        learn.callback(ProgressiveResizing).sizes = list(sizes)

    return set_epochs


def epochs_within(
    learn: Learner, minutes: float, train_sizes: Sequence[int] = (), searching: float = 0.0
) -> tuple[int, tuple[int, ...]]:
    """Return the number of epochs that fit into `minutes` of training, at most MOST, and the sizes of training squares.

    searching: seconds of them that are gone.
    A few steps are timed. A linear probe counts as the first epoch. It is computed here, so that its time is known, and
    its epoch uses the result. The sizes are the given ones, else those of `epochs_and_size`.
    The steps after training (evaluation, model.onnx, page, predictions) are not counted.
    If there is no time for an epoch after the probe, the probe is all.
    Raises ValueError if there is no time for the probe with its validation, or without a probe for one epoch.
    """
    start, probe = perf_counter(), [learn.probe] if learn.callback(LinearProbe) else []
    with restoring_state(learn):
        ready = [callback.probed() for callback in probe]
        train, valid = (SLACK * seconds for seconds in epoch_seconds(learn, batches=2))
    for callback, result in zip(probe, ready, strict=True):
        callback.ready = result
    spent = searching + perf_counter() - start + len(probe) * valid / SLACK
    size, left = learn.dls.preprocess["crop"], 60 * minutes - spent
    fixed = train_sizes or learn.model.pretrained_cfg["fixed_input_size"]
    epochs, smaller = (int(left / (train + valid)), size) if fixed else epochs_and_size(left, train, valid, size)
    if left < 0 or epochs + len(probe) < 1:
        first, need = ("the linear probe", spent) if probe else ("one epoch", spent + train + valid)
        raise ValueError(
            f"--minutes {minutes:g}: {first} with what comes before it takes {need / 60:.2g}; give as much"
        )
    if epochs < 1:
        more = f"one more epoch would take {train + valid:.1f} s"
        print(f"--minutes {minutes:g}: the probe alone, which is done after {spent:.1f} s; {more}", flush=True)
        return 1, tuple(train_sizes) or (size,)
    most = ""
    if epochs > MOST - len(probe):
        epochs, smaller, most = MOST - len(probe), size, ", the most that are planned"
    first = f", the first a probe that is done after {spent:.1f} s" if probe else ""
    squares = f", less in the first half, on squares of {smaller} pixels" if smaller < size else ""
    print(
        f"--minutes {minutes:g}: {epochs + len(probe)} epochs{most}{first}; each takes {train + valid:.1f} s{squares}",
        flush=True,
    )
    return epochs + len(probe), tuple(train_sizes) or tuple(sorted({smaller, size}))
