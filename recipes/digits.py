"""The whole road in a minute on a CPU, with no download: 1,797 handwritten digits, a small ResNet from scratch.

    python -m recipes.digits

The digits are scikit-learn's, 70 % to train, 15 % to validate, 15 % to predict. Measured on 2 cores of an AMD EPYC,
24 Nov 2026, 12 epochs, seeds 0 1 2: 35 s from start to end; validation accuracy 98.5, 99.6, 100.0 %; accuracy of the
predictions for the test folder 99.6, 99.6, 98.9 %.
"""

from pathlib import Path
from typing import Annotated

from export.predict import exit_status, predict
from export.to_onnx import to_onnx
from toolkit.command import run_script
from toolkit.data.dataloaders import SAMPLERS, make_loaders
from toolkit.data.dataset import find_data
from toolkit.data.digits import write_digits
from toolkit.data.layouts import check_outside_data
from toolkit.data.preprocess import for_size
from toolkit.data.readable import readable
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.device import pick_device, pick_precision, pick_workers
from toolkit.learner.learner import Learner, make_learner, set_seed
from toolkit.learner.schedule import OneCycle
from toolkit.loggers.base import LOGGERS, folders, logged, loggers
from toolkit.models.losses import CLASS_WEIGHTS, LOSSES, create_loss, weights_by_class
from toolkit.models.timm_model import create_model, normalization_of
from toolkit.pages.run_page import write_report
from toolkit.ranges import check_ranges
from toolkit.run import new_folder
from toolkit.search.auto import Auto, Begun, as_begun, number, settle
from toolkit.training.fit import begin, evaluate, fit, tell_results

LR, BS = 4e-3, 64  # where `auto` sets out from


def learner(
    data: str | Path = "data/digits",
    loss: str = "ce",
    gamma: float | None = None,
    smoothing: float | None = None,
    class_weights: str = "none",
    sampler: str = "shuffle",
    arch: str = "test_resnet",
    weights: str = "none",
    lr: float | Auto = LR,
    bs: int | Auto = BS,
    accum: int = 1,
    image_size: int = 32,
    workers: int | Auto | None = 0,
    device: str = "auto",
    precision: str = "fp32",
    exact: bool = False,
    compile: bool = False,
    seed: int = 0,
    skip_unreadable: bool = False,
    cache: str | Path | None = None,
) -> Learner:
    """The digits as a fastai Learner; parameters as `main` has them. Writes the data set where it is not there yet.

    Small shifts, scalings and turns to train, never a flip; one-cycle AdamW.
    """
    check_ranges(locals())
    place = pick_device(device)
    photos = readable(find_data(write_digits(Path(data)), seed), skip_unreadable)
    criterion = create_loss(loss, weights_by_class(class_weights, photos.counts, sampler), gamma, smoothing)
    set_seed(seed)
    model = create_model(arch, len(photos.classes), weights, dropout=0.1, image_size=image_size)
    preprocess = for_size(image_size, **(normalization_of(model) or {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}))
    augment = {"scale": [0.6, 1.0], "flip": 0.0, "degrees": 10}
    readers = pick_workers(number(workers, 0))
    dls = make_loaders(photos, preprocess, augment, number(bs, BS), readers, place, seed, sampler=sampler, cache=cache)
    cbs = [AccumulateGradients(accum), OneCycle()]
    learn = make_learner(dls, model, criterion, number(lr, LR), pick_precision(precision, place), cbs, exact, compile)
    return settle(learn, lr, bs, workers)


def main(
    data: Path = Path("data/digits"),  # where the digits are, or will be written, in the homework's layout
    loss: Annotated[str, {"choices": list(LOSSES)}] = "ce",  # what is minimised
    gamma: float | None = None,  # focal's: how little easy photos count, from 0, where it is ce (default: 2)
    smoothing: float | None = None,  # smoothing's: share of the target that all classes get, below 1 (default: 0.1)
    class_weights: Annotated[str, {"choices": CLASS_WEIGHTS}] = "none",  # how much more rare classes count in the loss
    sampler: Annotated[str, {"choices": SAMPLERS}] = "shuffle",  # each photo once an epoch, or classes equally often
    arch: str = "test_resnet",  # any timm classifier
    weights: str = "none",  # imagenet, none, or a .pth or .safetensors FILE
    epochs: int = 12,  # passes over the training photos
    lr: float | Auto = LR,  # AdamW's highest learning rate, or auto: by fastai's finder
    bs: int | Auto = BS,  # photos in a mini-batch, or auto: as many as memory holds, --accum follows
    accum: int = 1,  # mini-batches to an optimiser step
    image_size: int = 32,  # side of the square the network sees, in pixels
    workers: int | Auto | None = 0,  # processes that read photos, or auto: tries some; small ones read fastest in none
    device: str = "auto",  # auto, cuda or cpu
    precision: Annotated[
        str, {"choices": ["auto", "fp16", "bf16", "fp32"]}
    ] = "fp32",  # of the forward pass; half gains nothing here
    exact: bool = False,  # compute as a plain loop does, to the bit: no channels last, fused AdamW, TF32
    compile: bool = False,  # have torch compile the network: minutes to begin with, faster steps from then on
    seed: int = 0,  # of the weights, the order and the augmentation
    skip_unreadable: bool = False,  # leave out photos that can't be read, instead of refusing the data
    cache: Path | None = None,  # folder to keep decoded photos in, for this and later runs (default: none)
    save_every: int = 0,  # optimiser steps after which to save inside an epoch too (0: only after each epoch)
    profile: bool = False,  # print where an epoch's time goes, and what may help
    log: Annotated[tuple[str, ...], {"choices": LOGGERS}] = (),  # where to send curves, figures, mistakes and model
    out: Path | None = None,  # run folder (default: runs/digits/<time>-<loss>)
    resume: bool = False,  # go on with the run in --out
) -> list:
    "Train on scikit-learn's digits and write report, model.onnx and predictions.csv for the test folder."
    options = dict(locals())
    check_ranges(options)
    folder = new_folder("digits", loss, out, resume)
    begun = as_begun(folder, BS, Begun(lr, bs, accum, workers))
    chosen = loggers(log)
    check_outside_data(data, {"--out": folder, "--cache": cache} | folders(chosen))
    learn = learner(
        data, loss, gamma, smoothing, class_weights, sampler, arch, weights, begun.lr, begun.bs, begun.accum,
        image_size, begun.workers, device, precision, exact, compile, seed, skip_unreadable, cache,
    )  # fmt: skip
    run = begin(folder, "digits", options | begun._asdict(), learn)
    with logged(learn, run, chosen):
        fit(learn, run, epochs, save_every, profile)
        evaluate(learn, run)
        device = learn.dls.device.type
        to_onnx(run.folder, device=device, details=False)
        write_report(run)
    unread = predict(run.path("model.onnx"), learn.dls.data.test, run.path("predictions.csv"), device)
    tell_results(run)
    return unread


if __name__ == "__main__":
    run_script(main, status=exit_status)
