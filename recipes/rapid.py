"""Short fine-tuning: a linear probe on the frozen body, then a training that suits the photos.

    python -m recipes.rapid --data data
    python -m recipes.rapid --data data --minutes 5
    python -m recipes.rapid --data data --arch auto

Measured with --arch mobilenetv2_100, ImageNet weights, --image_size 128 (digits 64), fp32, two CPU cores, seeds 0 to 2,
27 and 29 Nov 2026, test accuracy and time against 20 epochs of hw1: groceries (930 photos to train) 85.7 % against
82.7 %, 0.16; hand signs (300) 98.0 against 96.8 %, 0.29; digits (1,257) 97.9 against 99.3 %, 0.40. Three seeds show no
difference in accuracy. The settings were chosen on the validation photos of these sets, hw1's were not. docs/recipes.md
says what is chosen by the photos; LOG.md has what each part gives.
"""

from recipes import exit_status, pipeline, recipe  # first: it checks the arguments before torch is imported

# isort: split
from dataclasses import replace
from typing import Annotated, Literal

from fastai.learner import Learner
from torch import nn
from torch.optim import AdamW

from toolkit.command import run_script
from toolkit.data.augment import HorizontalFlip, RandomResizedCrop, Rotate
from toolkit.data.dataloaders import make_dataloaders
from toolkit.data.dataset import DataSet
from toolkit.data.preprocess import resize_center_crop
from toolkit.data.readable import open_dataset
from toolkit.finetuning.frozen_batch_norm import FrozenBatchNorm
from toolkit.finetuning.head_temperature import HeadTemperature
from toolkit.finetuning.layer_decay import layer_groups
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.finetuning.mixup_cutmix import mixup_cutmix
from toolkit.finetuning.progressive_resizing import ProgressiveResizing
from toolkit.finetuning.weight_average import WeightAverage
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.learner import make_learner
from toolkit.learner.schedule import OneCycle
from toolkit.models.losses import make_loss
from toolkit.models.timm_model import make_model, normalization_of
from toolkit.options import FREE, Options
from toolkit.search.method import Method
from toolkit.search.plan import plan, rapid_settings


@recipe(arch="resnet152.tv2_in1k", weights="imagenet", precision="auto")
def learner(
    options: Options,
    minutes: Annotated[float | None, FREE] = None,  # plan as many epochs as training has time for (default: no budget)
    train_sizes: tuple[int, ...] = (),  # sides of the training squares, smaller ones first (default: by the data)
    probe: bool = True,  # fit the new classifier alone at first, as a linear probe
    frozen: float | None = None,  # share of the layers, from the first on, that are not trained (default: by the data)
    layer_decay: float | None = None,  # ratio of a layer's learning rate to the next one's (default: by the data)
    batch_norm: Literal["auto", "adapt", "fixed"] = "auto",  # batch norms take these photos' statistics or keep theirs
    crop_area: float | None = None,  # smallest share of a photo's area in a training crop (default: by the data)
    mirror: Literal["auto", "yes", "no"] = "auto",  # mirror half of the training photos; auto: by the probe's features
    average: Literal["none", "ema", "last"] = "ema",  # average of the weights; it is validated and kept in their place
    mixup: float = 0.0,  # alpha of fastai's MixUp; 0 is none
    cutmix: float = 0.0,  # alpha of fastai's CutMix; 0 is none
) -> Learner:
    """Fit a linear classifier to the frozen body's features, then train the body too, for a few epochs.

    The first epoch is the probe. The others follow one cycle. An average of the weights is validated and kept. Epochs,
    batch size and method are chosen by `rapid_settings`, `search_method` and, with --minutes, short runs on training
    photos. They are printed unless they are given.
    """
    dataset = open_dataset(options)
    model = make_model(options, dataset.classes, dropout=0.2)
    given = {"minutes": minutes, "train_sizes": train_sizes, "probe": probe, "frozen": frozen}
    given |= {"layer_decay": layer_decay, "batch_norm": batch_norm, "crop_area": crop_area, "mirror": mirror}
    settings = rapid_settings(options, given, len(dataset.train), model)

    def build(method: Method, data: DataSet, computing: Options, model: nn.Module | None = None) -> Learner:
        "A learner on photos of `data`, by default of another model with the pretrained weights."
        model = model or make_model(options, dataset.classes, dropout=0.2)
        used = replace(computing, lr=method.lr)
        dls = make_dataloaders(
            used,
            data,
            train=transforms(method),
            valid=resize_center_crop(options.image_size),
            normalize=normalization_of(model),
            classes=dataset.classes,
        )
        cbs = [AccumulateGradients(used.accum), OneCycle(), FrozenBatchNorm(everywhere=method.batch_norm == "fixed")]
        cbs += [ProgressiveResizing(settings.own["train_sizes"]), *mixup_cutmix(mixup, cutmix)]
        cbs += [LinearProbe(), HeadTemperature()] if settings.own["probe"] else []
        cbs += [WeightAverage(average, share=0.2)] if average != "none" else []
        loss, splitter = make_loss(options, dataset.counts), layer_groups(method.layer_decay, frozen=method.frozen)
        return make_learner(used, dls, model, loss, opt_func=AdamW, cbs=cbs, splitter=splitter)

    learn = build(settings.methods[True], dataset, settings.options, model)
    learn.own_options = settings.own | settings.methods[True].own_options()
    learn.plan = plan(settings, build, transforms, options.epochs, minutes, train_sizes)
    return learn


def transforms(method: Method) -> list:
    "The training transforms of a method."
    crop = RandomResizedCrop(scale=(method.crop_area, 1.0))
    return [crop, *([HorizontalFlip(p=0.5)] if method.mirror else []), Rotate(degrees=15)]


main = pipeline(learner)

if __name__ == "__main__":
    run_script(main, exit_status)
