"""What rapid chooses where it is not told: settings from the number of photos, epochs from a time budget."""

import math
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import nn

from toolkit import ranks
from toolkit.finetuning.layer_decay import decay_over
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.finetuning.progressive_resizing import ProgressiveResizing
from toolkit.learner.learner import Learner
from toolkit.run import load
from toolkit.search.epoch_time import epoch_seconds
from toolkit.search.snapshot import restoring_state

SLACK = 1.05  # an epoch over its timed steps: the page, and what a few steps do not show
SMALLEST = 7 / 8  # of the image size, that squares are trained on for the sake of one more epoch
MOST = 1000  # epochs to plan: ten times those of random weights and few photos
FIRST_LAYER = 0.02  # times the head's rate: what the first layer of pretrained weights would learn at


def settings(
    photos: int, model: nn.Module, image_size: int, pretrained: bool, probe: bool, told: dict[str, Any]
) -> dict[str, Any]:
    """bs, epochs, lr, layer_decay, train_sizes and probe for `photos` to train on, but for what is `told` (neither None
    nor empty); says which.

    Pretrained weights are changed gently and for few epochs, the fewer the more photos there are; the first one is the
    linear probe. Random weights have nothing to probe or to keep: all layers learn at one rate, for more epochs.
    """
    bs = told["bs"] if isinstance(told["bs"], int) else 32 if photos < 4000 else 64 if photos < 40000 else 128
    larger = math.sqrt(bs / 32)
    if pretrained:
        epochs = round(min(20, max(3, 200 / math.sqrt(photos)))) + probe
        decay = round(decay_over(model, FIRST_LAYER), 3)
        chosen = {"bs": bs, "epochs": epochs, "lr": 6e-4 * larger, "layer_decay": decay, "probe": probe}
    else:
        epochs = round(min(100, max(10, 700 / math.sqrt(photos))))
        chosen = {"bs": bs, "epochs": epochs, "lr": 1e-3 * larger, "layer_decay": 1.0, "probe": False}
    chosen["train_sizes"] = [image_size]
    told = {name: value for name, value in told.items() if value not in (None, [])}
    mine = {name: value for name, value in chosen.items() if name not in told}
    print(f"{photos} photos, {'pretrained' if pretrained else 'random'} weights: {_words(mine)}", flush=True)
    return chosen | told


def _words(chosen: dict[str, Any]) -> str:
    values = {
        name: f"{value:.3g}" if type(value) is float else str(value).strip("[]") for name, value in chosen.items()
    }
    return ", ".join(f"{name} {value}" for name, value in values.items())


def plan_epochs(
    learn: Learner, folder: Path, epochs: int | None, minutes: float | None, train_sizes: Sequence[int] = ()
) -> None:
    """Have `learn.settled["epochs"]` fit into `minutes`, where that is given; a run in `folder` keeps its own number.

    So do the squares trained on, but for `train_sizes` that are given.
    Raises ValueError where both are given, and on several processes, which would have to agree.
    """
    if epochs is not None and minutes is not None:
        raise ValueError(f"--epochs {epochs} and --minutes {minutes:g}: give one of them")
    if minutes is None:
        return
    if ranks.count() > 1:
        raise ValueError(f"--minutes on {ranks.count()} processes: give --epochs, such as one of them alone finds")
    if (folder / "recipe.json").is_file():
        before = load(folder).recipe["options"]
        found = {name: before[name] for name in ("epochs", "train_sizes") if name in before}
    else:
        found = within(learn, minutes, train_sizes)
    learn.settled |= found
    learn.callback(ProgressiveResizing).sizes = learn.settled["train_sizes"]


def within(learn: Learner, minutes: float, train_sizes: Sequence[int] = ()) -> dict[str, Any]:
    """How many `epochs` of `learn` fit into `minutes` of training, at most MOST, a probe counted as the first, and the
    `train_sizes` (those given, else by `fitting`, where the network takes other sizes); by the time that a few steps
    take.

    A probe is done meanwhile, for its epoch to put in place, so that its time is known. What comes after training
    (evaluation, model.onnx, page, predictions) is not counted.
    Raises ValueError where there is not even time for one epoch after the probe.
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
    epochs, smaller = (int(left / (train + valid)), size) if fixed else fitting(left, train, valid, size)
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
    sizes = list(train_sizes) or sorted({smaller, size})
    return {"epochs": epochs + len(probe), "train_sizes": sizes}


def fitting(seconds: float, train: float, valid: float, size: int) -> tuple[int, int]:
    """How many epochs fit into `seconds`, and the side of the squares that the first half of them trains on: as many as
    there is time for at `size` pixels, or one more, where it is enough that these are smaller, by an eighth at most.

    train, valid: seconds that the two parts of an epoch take at `size`; training goes by the area.
    """
    epochs = max(0, int(seconds / (train + valid)))
    more = epochs + 1
    half = (more + 1) // 2  # as `toolkit.finetuning.progressive_resizing.ProgressiveResizing` counts
    area = (seconds - more * valid - (more - half) * train) / (half * train)
    smaller = 8 * int(size * math.sqrt(max(area, 0)) / 8)
    return (more, smaller) if smaller >= SMALLEST * size else (epochs, size)
