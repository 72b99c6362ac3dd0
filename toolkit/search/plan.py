"""Default hyperparameters from data set size and depth; epochs from a time budget."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from time import perf_counter
from typing import Any

from torch import nn

from toolkit import ranks
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.finetuning.progressive_resizing import ProgressiveResizing
from toolkit.learner.learner import Learner
from toolkit.models.timm_model import check_size
from toolkit.options import Options
from toolkit.search.epoch_time import epoch_seconds
from toolkit.search.method import Method, in_words
from toolkit.search.snapshot import restoring_state

SLACK = 1.05  # ratio of an epoch's time to that of its steps: the page, and what a few steps do not show
SMALLEST = 7 / 8  # of the image size: the smallest training squares that are planned for one more epoch
MOST = 1000  # largest planned number of epochs: ten times the default for random weights and few photos
MOST_PRETRAINED = 8  # training epochs by default, with pretrained weights
SMALLEST_CROP, SMALLEST_CROP_FROM_SCRATCH = 0.6, 0.25  # shares of a photo's area


def rapid_settings(
    options: Options, given: dict[str, Any], photos: int, model: nn.Module
) -> tuple[Options, dict[str, Any], Method, frozenset[str]]:
    """Return rapid's settings for `photos` training photos.

    given: rapid's own options by name. Given values (neither None, auto nor empty) stay; `default_settings` chooses the
    others, which are printed.
    Returns the shared options; train_sizes and probe; the method that a search starts from; and the names of its values
    that were given.
    Raises ValueError if both --epochs and --minutes are given, and for sizes that the model does not accept.
    """
    if options.epochs is not None and given["minutes"] is not None:
        raise ValueError(f"--epochs {options.epochs} and --minutes {given['minutes']:g}: give one of them")
    pretrained = options.weights != "none"
    chosen = default_settings(photos, pretrained, given["probe"], options.bs) | {"train_sizes": (options.image_size,)}
    asked = {name: getattr(options, name) for name in ("bs", "epochs", "lr")} | given
    stays = {name: asked[name] for name in chosen if name != "probe" and asked[name] not in (None, (), "auto")}
    mine = {name: value for name, value in chosen.items() if name not in stays and not searched(name, chosen)}
    print(f"{photos} photos, {'pretrained' if pretrained else 'random'} weights: {in_words(mine)}", flush=True)
    final = chosen | stays
    for size in final["train_sizes"]:
        check_size(model, size, "train_sizes")
    method = Method(**{each.name: final[each.name] for each in fields(Method)} | {"mirror": final["mirror"] == "yes"})
    used = replace(options, **{name: final[name] for name in ("bs", "epochs", "lr")})
    own = {name: final[name] for name in ("train_sizes", "probe")}
    return used, own, method, frozenset(stays) & {each.name for each in fields(Method)}


def searched(name: str, chosen: dict[str, Any]) -> bool:
    "True for mirroring and epochs, if they are chosen by the probe's features."
    return name in ("mirror", "epochs") and chosen["probe"]


def default_epochs(photos: int, pretrained: bool = True, familiar: bool = True) -> int:
    """Return the default number of training epochs: fewer for more photos, more for random weights.

    familiar: the photos are like those of pretraining (`toolkit.features.views.is_familiar`).
    """
    if not pretrained:
        return round(min(100, max(10, 700 / math.sqrt(photos))))
    return round(min(MOST_PRETRAINED, max(3, (120 if familiar else 250) / math.sqrt(photos))))


def default_settings(photos: int, pretrained: bool, probe: bool, bs: int | None = None) -> dict[str, Any]:
    """Return the defaults of bs, epochs, probe and of each value of `Method`, as rapid's options take them.

    The first epoch is the linear probe. Random weights have no features to probe.
    bs: the given batch size, if any. The learning rate grows with the square root of the batch size.
    """
    bs = bs or (32 if photos < 4000 else 64 if photos < 40000 else 128)
    method = {"lr": 1e-3 * math.sqrt(bs / 32), "layer_decay": 1.0, "batch_norm": "adapt", "mirror": "yes"}
    method["crop_area"] = SMALLEST_CROP if pretrained else SMALLEST_CROP_FROM_SCRATCH
    probe = probe and pretrained
    return {"bs": bs, "epochs": default_epochs(photos, pretrained) + probe} | method | {"probe": probe}


def fit_budget(
    minutes: float | None, train_sizes: Sequence[int] = (), spent: float = 0.0
) -> Callable[[Learner], None] | None:
    """Return the plan of a Learner whose epochs fit into `minutes`, or None without a budget.

    spent: seconds of them that a search has taken.
    The plan sets `learn.options.epochs`, and the sizes of the training squares unless `train_sizes` are given.
    Raises ValueError on several ranks, which would have to agree.
    """
    if minutes is None:
        return None
    if ranks.count() > 1:
        raise ValueError(f"--minutes on {ranks.count()} processes: give --epochs, such as one process alone finds")

    def plan(learn: Learner) -> None:
        epochs, sizes = epochs_within(learn, minutes, train_sizes, spent)
        learn.options = replace(learn.options, epochs=epochs)
        learn.own_options = dict(learn.own_options) | {"train_sizes": sizes}
        learn.callback(ProgressiveResizing).sizes = list(sizes)

    return plan


def epochs_within(
    learn: Learner, minutes: float, train_sizes: Sequence[int] = (), searching: float = 0.0
) -> tuple[int, tuple[int, ...]]:
    """Return the number of epochs that fit into `minutes` of training, at most MOST, and the sizes of training squares.

    searching: seconds of them that are gone.
    A few steps are timed. A linear probe counts as the first epoch. It is computed here, so that its time is known, and
    its epoch uses the result. The sizes are the given ones, else those of `epochs_and_size`.
    The steps after training (evaluation, model.onnx, page, predictions) are not counted.
    Raises ValueError if there is not even time for one epoch after the probe.
    """
    start, probe = perf_counter(), [learn.probe] if learn.callback(LinearProbe) else []
    with restoring_state(learn):
        ready = [callback.probed() for callback in probe]
        learn.remove_cbs(probe)
        train, valid = (SLACK * seconds for seconds in epoch_seconds(learn, batches=2))
    for callback, result in zip(probe, ready, strict=True):
        callback.ready = result
    spent = searching + perf_counter() - start + len(probe) * valid / SLACK
    size, left = learn.dls.preprocess["crop"], 60 * minutes - spent
    fixed = train_sizes or learn.model.pretrained_cfg["fixed_input_size"]
    epochs, smaller = (int(left / (train + valid)), size) if fixed else epochs_and_size(left, train, valid, size)
    if epochs < 1:
        need = (spent + train + valid) / 60
        raise ValueError(f"--minutes {minutes:g}: one epoch with what comes before it takes {need:.1f}; give as much")
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


def epochs_and_size(seconds: float, train: float, valid: float, size: int) -> tuple[int, int]:
    """Return the number of epochs that fit into `seconds`, and the side of the training squares in their first half.

    It is the number that fits at `size` pixels, or one more if squares at most an eighth smaller make time for it.
    train, valid: seconds of the two parts of an epoch at `size`. The time of training is proportional to the area.
    """
    epochs = max(0, int(seconds / (train + valid)))
    more = epochs + 1
    half = (more + 1) // 2  # as `toolkit.finetuning.progressive_resizing.ProgressiveResizing` counts
    area = (seconds - more * valid - (more - half) * train) / (half * train)
    smaller = 8 * int(size * math.sqrt(max(area, 0)) / 8)
    return (more, smaller) if smaller >= SMALLEST * size else (epochs, size)
