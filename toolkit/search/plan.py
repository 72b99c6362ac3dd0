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

SLACK = 1.05  # an epoch over its timed steps: the page, and what a few steps do not show
SMALLEST = 7 / 8  # of the image size, that squares are trained on for the sake of one more epoch
MOST = 1000  # epochs to plan: ten times those of random weights and few photos
FIRST_LAYER = 0.02  # times the head's rate: what the first layer of pretrained weights would learn at


def rapid_settings(
    options: Options, given: dict[str, Any], photos: int, model: nn.Module
) -> tuple[Options, dict[str, Any]]:
    """Batch size, epochs, learning rate, and rapid's own train_sizes, layer_decay and probe, for `photos` to train on.

    What is given (neither None nor empty) stays; the rest is chosen by `default_settings` and printed.
    Raises ValueError if both --epochs and --minutes are given, and for sizes that the model does not take.
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
    """bs, epochs, lr, layer_decay and probe by default.

    Pretrained weights are changed gently and for few epochs, fewer if there are more photos; the first epoch is the
    linear probe. Random weights have nothing to probe or to keep: all layers learn at one rate, for more epochs.
    bs: if it is given. The learning rate grows with its square root.
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
    """The plan of a Learner whose epochs are to fit into `minutes`; None without a budget.

    It sets `learn.options.epochs`, and the sizes of the training squares unless `train_sizes` are given.
    Raises ValueError on several ranks, which would have to agree.
    """
    if minutes is None:
        return None
    if ranks.count() > 1:
        raise ValueError(f"--minutes on {ranks.count()} processes: give --epochs, such as one of them alone finds")

    def plan(learn: Learner) -> None:
        epochs, sizes = epochs_within(learn, minutes, train_sizes)
        learn.options = replace(learn.options, epochs=epochs)
        learn.own_options = dict(learn.own_options) | {"train_sizes": sizes}
        learn.callback(ProgressiveResizing).sizes = list(sizes)

    return plan


def epochs_within(learn: Learner, minutes: float, train_sizes: Sequence[int] = ()) -> tuple[int, tuple[int, ...]]:
    """The epochs of `learn` that fit into `minutes` of training, at most MOST, and the sizes of the training squares.

    A few steps are timed. A linear probe counts as the first epoch; it is done meanwhile, so that its time is known,
    and its epoch puts it in place. The sizes are those given, else by `epochs_and_size`.
    What comes after training (evaluation, model.onnx, page, predictions) is not counted.
    Raises ValueError if there is not even time for one epoch after the probe.
    """
    begun, probe = perf_counter(), [learn.probe] if learn.callback(LinearProbe) else []
    with restoring_state(learn):
        ready = [callback.probed() for callback in probe]
        learn.remove_cbs(probe)
        train, valid = (SLACK * seconds for seconds in epoch_seconds(learn, batches=2))
    for callback, result in zip(probe, ready, strict=True):
        callback.ready = result
    spent = perf_counter() - begun + len(probe) * valid / SLACK
    size, left = learn.dls.preprocess["crop"], 60 * minutes - spent
    fixed = train_sizes or learn.model.pretrained_cfg["fixed_input_size"]
    epochs, smaller = (int(left / (train + valid)), size) if fixed else epochs_and_size(left, train, valid, size)
    if epochs < 1:
        need = (spent + train + valid) / 60
        raise ValueError(f"--minutes {minutes:g}: one epoch takes {need:.1f}, with what comes before it; give as much")
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
    """The epochs that fit into `seconds`, and the side of the training squares in the first half of them.

    They are as many as there is time for at `size` pixels, or one more if smaller squares make room for it that are at
    most an eighth smaller.
    train, valid: seconds of the two parts of an epoch at `size`; training takes time by the area.
    """
    epochs = max(0, int(seconds / (train + valid)))
    more = epochs + 1
    half = (more + 1) // 2  # as `toolkit.finetuning.progressive_resizing.ProgressiveResizing` counts
    area = (seconds - more * valid - (more - half) * train) / (half * train)
    smaller = 8 * int(size * math.sqrt(max(area, 0)) / 8)
    return (more, smaller) if smaller >= SMALLEST * size else (epochs, size)
