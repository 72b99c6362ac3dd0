"""Default hyperparameters from data set size and depth; epochs from a time budget."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from torch import nn

from toolkit import ranks
from toolkit.finetuning.layer_decay import decay_over
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.finetuning.progressive_resizing import ProgressiveResizing
from toolkit.learner.learner import Learner
from toolkit.models.timm_model import check_size
from toolkit.options import Options
from toolkit.search.epoch_time import epoch_seconds
from toolkit.search.snapshot import restoring_state

SLACK = 1.05  # ratio of an epoch's time to that of its steps: the page, and what a few steps do not show
SMALLEST = 7 / 8  # of the image size: the smallest training squares that are planned for one more epoch
MOST = 1000  # largest planned number of epochs: ten times the default for random weights and few photos
FIRST_LAYER = 0.02  # ratio of the first layer's learning rate to the head's, with pretrained weights


def rapid_settings(
    options: Options, given: dict[str, Any], photos: int, model: nn.Module
) -> tuple[Options, dict[str, Any]]:
    """Return the shared options, and rapid's own train_sizes, probe and layer_decay, for `photos` training photos.

    Given values (neither None nor empty) stay. `default_settings` chooses the others, which are printed.
    Raises ValueError if both --epochs and --minutes are given, and for sizes that the model does not accept.
    """
    if options.epochs is not None and given["minutes"] is not None:
        raise ValueError(f"--epochs {options.epochs} and --minutes {given['minutes']:g}: give one of them")
    pretrained, shared = options.weights != "none", {name: getattr(options, name) for name in ("bs", "epochs", "lr")}
    chosen = default_settings(photos, model, pretrained, given["probe"], options.bs)
    chosen["train_sizes"] = (options.image_size,)
    own = {name: given[name] for name in ("train_sizes", "layer_decay")}
    stays = {name: value for name, value in (shared | own).items() if value not in (None, ())}
    mine = {name: value for name, value in chosen.items() if name not in stays}
    print(f"{photos} photos, {'pretrained' if pretrained else 'random'} weights: {_words(mine)}", flush=True)
    final = chosen | stays
    for size in final["train_sizes"]:
        check_size(model, size, "train_sizes")
    used = replace(options, **{name: final[name] for name in shared})
    return used, {name: final[name] for name in ("train_sizes", "probe", "layer_decay")}


def default_settings(
    photos: int, model: nn.Module, pretrained: bool, probe: bool, bs: int | None = None
) -> dict[str, Any]:
    """Return the defaults of bs, epochs, lr, layer_decay and probe.

    Pretrained weights are trained for few epochs at low rates; more photos mean fewer epochs. The first epoch is the
    linear probe. Random weights have no features to probe: all layers learn at one rate, for more epochs.
    bs: the given batch size, if any. The learning rate grows with the square root of the batch size.
    """
    bs = bs or (32 if photos < 4000 else 64 if photos < 40000 else 128)
    larger = math.sqrt(bs / 32)
    if pretrained:
        epochs = round(min(20, max(3, 200 / math.sqrt(photos)))) + probe
        decay = round(decay_over(model, FIRST_LAYER), 3)
        return {"bs": bs, "epochs": epochs, "lr": 6e-4 * larger, "layer_decay": decay, "probe": probe}
    epochs = round(min(100, max(10, 700 / math.sqrt(photos))))
    return {"bs": bs, "epochs": epochs, "lr": 1e-3 * larger, "layer_decay": 1.0, "probe": False}


def _words(chosen: dict[str, Any]) -> str:
    values = {
        name: f"{value:.3g}" if type(value) is float else str(value).strip("(,)") for name, value in chosen.items()
    }
    return ", ".join(f"{name} {value}" for name, value in values.items())


def fit_budget(minutes: float | None, train_sizes: Sequence[int] = ()) -> Callable[[Learner], None] | None:
    """Return the plan of a Learner whose epochs fit into `minutes`, or None without a budget.

    The plan sets `learn.options.epochs`, and the sizes of the training squares unless `train_sizes` are given.
    Raises ValueError on several ranks, which would have to agree.
    """
    if minutes is None:
        return None
    if ranks.count() > 1:
        raise ValueError(f"--minutes on {ranks.count()} processes: give --epochs, such as one process alone finds")

    def plan(learn: Learner) -> None:
        epochs, sizes = epochs_within(learn, minutes, train_sizes)
        learn.options = replace(learn.options, epochs=epochs)
        learn.own_options = dict(learn.own_options) | {"train_sizes": sizes}
        learn.callback(ProgressiveResizing).sizes = list(sizes)

    return plan


def epochs_within(learn: Learner, minutes: float, train_sizes: Sequence[int] = ()) -> tuple[int, tuple[int, ...]]:
    """Return the number of epochs that fit into `minutes` of training, at most MOST, and the sizes of training squares.

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
    spent = perf_counter() - start + len(probe) * valid / SLACK
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
