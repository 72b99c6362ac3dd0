"""The Learner of a finished run, rebuilt from its recipe.json and weights; nothing is unpickled."""

import warnings
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback
from torch import nn

from toolkit.data.dataloaders import make_loaders
from toolkit.data.dataset import recorded_dataset
from toolkit.learner.device import pick_device
from toolkit.learner.learner import Learner, make_learner
from toolkit.models.losses import make_loss, weights_by_class
from toolkit.models.timm_model import load_weights, make_model


class PredictsOnly(Callback):
    "Ends what would train the learner with a ValueError that says `instead`, before a weight is changed."

    order, run_valid = -100, False

    def __init__(self, instead: str):
        self.instead = instead

    def before_train(self) -> None:
        self.learn.end_with(ValueError(self.instead))


def rebuild(recipe: dict[str, Any], weights: Path, device: str = "auto") -> Learner:
    """The Learner of a run, with its photos and its loss, in float32. It predicts only.

    recipe: the run's recipe.json. weights: best.safetensors in the same folder.

    A run folder has the options of its recipe, not the recipe: dropout, augmentation, schedule and what else took part
    in training is not known, so each kind of fit is a ValueError that says what to do instead. Where the photos are no
    longer those it was trained on, it warns and has none.
    Raises ValueError for a recipe.json or weights that do not fit, FileNotFoundError where there are no weights yet.
    """
    options, folder = recipe["options"], weights.parent
    place = pick_device(device)
    model = make_model(recipe["model"]["arch"], len(recipe["classes"]), "none", image_size=recipe["preprocess"]["crop"])
    load_weights(model, weights)
    data, fault = recorded_dataset(recipe)
    if fault:
        warnings.warn(f"the photos of {folder} {fault}: this learner predicts, but has none to train on", stacklevel=3)
    dls = make_loaders(
        data,
        recipe["preprocess"],
        recipe["augment"],
        bs=options["bs"],
        workers=0,
        device=place,
        seed=options["seed"],
        classes=recipe["classes"],
        sampler=options.get("sampler", "shuffle"),
    )
    exact = options.get("exact", False)
    instead = (
        f"the learner of {folder} predicts only, for the folder does not keep all that it was trained by: train "
        f"further by the recipe's command with --out {folder} --resume and more --epochs, or make a new learner by "
        f"the recipe and load {weights} into its model by toolkit.models.timm_model.load_weights"
    )
    return make_learner(dls, model, _loss(recipe), options["lr"], cbs=[PredictsOnly(instead)], exact=exact)


def _loss(recipe: dict[str, Any]) -> nn.Module:
    "The loss of a recipe.json; where it weights classes, by the photos there were to train on."
    options, counts = recipe["options"], recipe["data"]["counts"] or {}
    weight = weights_by_class(
        options.get("class_weights", "none"), {name: counts.get(name, 0) for name in recipe["classes"]}
    )
    return make_loss(options["loss"], weight, options.get("gamma"), options.get("smoothing"))
