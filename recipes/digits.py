"""The whole pipeline in a minute on a CPU, without a download: a small ResNet from scratch on 1,797 digits.

    python -m recipes.digits

The handwritten digits are scikit-learn's: 70 % for training, 15 % for validation, 15 % for the test folder. Measured on
2 cores of an AMD EPYC, 24 Nov 2026, 12 epochs, seeds 0 1 2: 35 s from start to end; validation accuracy 98.5, 99.6,
100.0 %; test accuracy 99.6, 99.6, 98.9 %.
"""

from recipes import exit_status, pipeline, recipe  # first: it checks the arguments before torch is imported

# isort: split
from dataclasses import replace

from fastai.learner import Learner
from torch.optim import AdamW

from toolkit.command import run_script
from toolkit.data.augment import RandomResizedCrop, Rotate
from toolkit.data.dataloaders import make_dataloaders
from toolkit.data.digits import write_digits
from toolkit.data.preprocess import resize_center_crop
from toolkit.data.readable import open_dataset
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.learner import make_learner
from toolkit.learner.schedule import OneCycle
from toolkit.models.losses import make_loss
from toolkit.models.timm_model import make_model, normalization_of
from toolkit.options import Options

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@recipe(
    data="data/digits",
    arch="test_resnet",
    weights="none",
    epochs=12,
    lr=4e-3,
    bs=64,
    image_size=32,
    workers=0,  # the training process reads small photos fastest
    precision="fp32",  # mixed precision is no faster here
)
def learner(options: Options) -> Learner:
    "Train a small network from random weights by one cycle. The digits are written to --data if they are missing."
    dataset = open_dataset(replace(options, data=write_digits(options.data)))
    loss = make_loss(options, dataset.counts)
    model = make_model(options, dataset.classes, dropout=0.1)
    dls = make_dataloaders(
        options,
        dataset,
        train=[RandomResizedCrop(scale=(0.6, 1.0)), Rotate(degrees=10)],  # no flip: it changes a digit
        valid=resize_center_crop(options.image_size),
        normalize=normalization_of(model) or HALF,
    )
    cbs = [AccumulateGradients(options.accum), OneCycle()]
    return make_learner(options, dls, model, loss, opt_func=AdamW, cbs=cbs)


main = pipeline(learner)

if __name__ == "__main__":
    run_script(main, exit_status)
