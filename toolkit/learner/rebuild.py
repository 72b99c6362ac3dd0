"""The Learner of a finished run, rebuilt from its recipe.json and weights; nothing is unpickled."""

import warnings
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback

from toolkit.data.augmentation import Augmentation
from toolkit.data.dataloaders import make_dataloaders
from toolkit.data.dataset import recorded_dataset
from toolkit.learner.device import resolved
from toolkit.learner.learner import Learner, make_learner
from toolkit.models.losses import make_loss
from toolkit.models.pretrained import load_weights
from toolkit.models.timm_model import make_model
from toolkit.options import recorded_options


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
    folder, preprocess = weights.parent, recipe["preprocess"]
    fixed = {"device": device, "precision": "fp32", "workers": 0, "cache": None}
    fixed |= {"compile": False, "cuda_graphs": False}
    options = resolved(
        recorded_options(
            recipe["options"], arch=recipe["model"]["arch"], weights="none", image_size=preprocess["crop"], **fixed
        ),
    )
    model = make_model(options, recipe["classes"])
    load_weights(model, weights)
    data, fault = recorded_dataset(recipe)
    if fault:
        warnings.warn(f"the photos of {folder} {fault}: this learner predicts, but has none to train on", stacklevel=3)
    dls = make_dataloaders(
        options,
        data,
        train=Augmentation.from_recipe(recipe["augment"]),
        valid={name: preprocess[name] for name in ("resize", "crop")},
        normalize={name: preprocess[name] for name in ("mean", "std")},
        classes=recipe["classes"],
    )
    instead = (
        f"the learner of {folder} predicts only, for the folder does not keep all that it was trained by: train "
        f"further by the recipe's command with --out {folder} --resume and more --epochs, or make a new learner by "
        f"the recipe and load {weights} into its model by toolkit.models.pretrained.load_weights"
    )
    counts = recipe["data"]["counts"] or {}
    loss = make_loss(options, {name: counts.get(name, 0) for name in recipe["classes"]})
    return make_learner(options, dls, model, loss, cbs=[PredictsOnly(instead)])
