"""What rapid chooses where it is not told: settings from the number of photos, epochs from a time budget."""

import math
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import nn

from toolkit import ranks
from toolkit.finetune import decay_over
from toolkit.learner import Learner
from toolkit.run import load
from toolkit.trial import epoch_seconds, unchanged

SLACK = 1.05  # an epoch over its timed steps: the page, and what a few steps do not show
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


def plan_epochs(learn: Learner, folder: Path, epochs: int | None, minutes: float | None) -> None:
    """Have `learn.settled["epochs"]` fit into `minutes`, where that is given; a run in `folder` keeps its own number.

    Raises ValueError where both are given, and on several processes, which would have to agree.
    """
    if epochs is not None and minutes is not None:
        raise ValueError(f"--epochs {epochs} and --minutes {minutes:g}: give one of them")
    if minutes is None:
        return
    if ranks.count() > 1:
        raise ValueError(f"--minutes on {ranks.count()} processes: give --epochs, such as one of them alone finds")
    if (folder / "recipe.json").is_file():
        learn.settled["epochs"] = load(folder).recipe["options"]["epochs"]
    else:
        learn.settled["epochs"] = epochs_within(learn, minutes)


def epochs_within(learn: Learner, minutes: float) -> int:
    """How many epochs of `learn` fit into `minutes` of training, a probe counted as the first; timed by a few steps.

    A probe is done meanwhile, for its epoch to put in place, so that its time is known. What comes after training
    (evaluation, model.onnx, page, predictions) is not counted.
    Raises ValueError where there is not even time for one epoch after the probe.
    """
    begun, probe = perf_counter(), [learn.probe] if hasattr(learn, "probe") else []
    with unchanged(learn):
        ready = [callback.probed() for callback in probe]
        learn.remove_cbs(probe)
        train, valid = epoch_seconds(learn, batches=2)
    for callback, result in zip(probe, ready, strict=True):
        callback.ready = result
    each, spent = (train + valid) * SLACK, perf_counter() - begun + len(probe) * valid
    epochs = int((60 * minutes - spent) / each)
    if epochs < 1:
        need = (spent + each) / 60
        raise ValueError(f"--minutes {minutes:g}: one epoch takes {need:.1f}, with what comes before it; give as much")
    first = f", the first a probe that is done after {spent:.1f} s" if probe else ""
    print(f"--minutes {minutes:g}: {epochs + len(probe)} epochs{first}; each takes {each:.1f} s", flush=True)
    return epochs + len(probe)
