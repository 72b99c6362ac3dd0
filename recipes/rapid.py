"""A short fine-tuning: a linear probe on the frozen body, then all but the earliest layers, gently.

    python -m recipes.rapid --data data
    python -m recipes.rapid --data data --minutes 5

Measured on 20 classes of groceries (930 photos to train, 104 to validate, 500 to test), --arch mobilenetv2_100 with
ImageNet weights, --image_size 128, fp32, seeds 0 1 2, two CPU cores, 27 Nov 2026, against 20 epochs of hw1 (valid 81.4,
test 85.2 %): 4 epochs, 0.13 of its time, 79.5 and 83.1 %; 8 epochs 82.7 and 85.2 %. That does not show that rapid is as
accurate: on 3 seeds it may be 10 points less or 9 more on the validation photos. Its settings were tuned on these
validation photos with these seeds, hw1's were not. LOG.md has what each part gives, and a set on which it records no
tuning, where rapid is more accurate.
"""

from pathlib import Path
from typing import Annotated

from export.predict import exit_status, predict
from export.to_onnx import to_onnx
from toolkit.command import run_script
from toolkit.data.dataloaders import SAMPLERS, make_loaders
from toolkit.data.dataset import find_data
from toolkit.data.layouts import check_outside_data
from toolkit.data.preprocess import for_size
from toolkit.data.readable import readable
from toolkit.finetuning.frozen_batch_norm import FrozenBatchNorm
from toolkit.finetuning.layer_decay import layer_groups
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.finetuning.progressive_resizing import ProgressiveResizing
from toolkit.finetuning.weight_average import AVERAGES, WeightAverage
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.device import pick_device, pick_precision, pick_workers
from toolkit.learner.learner import Learner, make_learner, set_seed
from toolkit.learner.mixup_cutmix import mixup_cutmix
from toolkit.learner.schedule import OneCycle
from toolkit.loggers.base import LOGGERS, folders, logged, loggers
from toolkit.models.losses import CLASS_WEIGHTS, LOSSES, create_loss, weights_by_class
from toolkit.models.timm_model import check_size, create_model, normalization_of
from toolkit.pages.run_page import write_report
from toolkit.ranges import check_ranges
from toolkit.run import new_folder
from toolkit.search.auto import Auto, Begun, as_begun, number, settle
from toolkit.search.plan import plan_epochs, settings
from toolkit.training.fit import begin, evaluate, fit, tell_results

LR, BS = 6e-4, 32  # where `auto` sets out from
AVERAGED = 0.2  # share of the steps that an average reaches over


def learner(
    data: str | Path = "data",
    loss: str = "ce",
    gamma: float | None = None,
    smoothing: float | None = None,
    class_weights: str = "none",
    sampler: str = "shuffle",
    arch: str = "resnet152.tv2_in1k",
    weights: str = "imagenet",
    epochs: int | None = None,
    lr: float | Auto | None = None,
    bs: int | Auto | None = None,
    accum: int = 1,
    image_size: int = 224,
    train_sizes: tuple[int, ...] = (),
    probe: bool = True,
    layer_decay: float | None = None,
    average: str = "ema",
    mixup: float = 0.0,
    cutmix: float = 0.0,
    workers: int | Auto | None = None,
    device: str = "auto",
    precision: str = "auto",
    exact: bool = False,
    compile: bool = False,
    seed: int = 0,
    skip_unreadable: bool = False,
    cache: str | Path | None = None,
) -> Learner:
    """A fastai Learner that fine-tunes gently and fast: parameters as `main` has them; what is None is chosen by
    `toolkit.search.plan.settings` and told.

    `learn.fit(5)` fits a linear classifier to the frozen body's features in its first epoch, then trains all layers,
    earlier ones slower, by a one-cycle schedule, batch norms' statistics fixed; after each epoch the weights or their
    average count, whichever is more accurate.
    """
    check_ranges(locals())
    place = pick_device(device)
    photos = readable(find_data(data, seed), skip_unreadable)
    criterion = create_loss(loss, weights_by_class(class_weights, photos.counts, sampler), gamma, smoothing)
    set_seed(seed)
    model = create_model(arch, len(photos.classes), weights, dropout=0.2, image_size=image_size)
    told = {"lr": lr, "bs": bs, "layer_decay": layer_decay, "epochs": epochs, "train_sizes": list(train_sizes)}
    plan = settings(len(photos.train), model, image_size, weights != "none", probe, told)
    for size in plan["train_sizes"]:
        check_size(model, size, "train_sizes")
    augment = {"scale": [0.25, 1.0], "flip": 0.5, "degrees": 15}
    readers, batch, rate = pick_workers(number(workers, None)), number(plan["bs"], BS), number(plan["lr"], LR)
    preprocess = for_size(image_size, **normalization_of(model))
    dls = make_loaders(photos, preprocess, augment, batch, readers, place, seed, sampler=sampler, cache=cache)
    cbs = [AccumulateGradients(accum), OneCycle(), ProgressiveResizing(plan["train_sizes"])]
    cbs += [FrozenBatchNorm()] if weights != "none" else []
    cbs += [LinearProbe()] if plan["probe"] else []
    cbs += [WeightAverage(average, AVERAGED)] if average != "none" else []
    cbs += mixup_cutmix(mixup, cutmix)
    groups = layer_groups(plan["layer_decay"])
    learn = make_learner(dls, model, criterion, rate, pick_precision(precision, place), cbs, exact, compile, groups)
    learn = settle(learn, plan["lr"], plan["bs"], workers)
    learn.settled = plan | learn.settled
    return learn


def main(
    data: Path = Path("data"),  # folder with train/ and val/, folder of class folders, or CSV with columns path,label
    loss: Annotated[str, {"choices": list(LOSSES)}] = "ce",  # what is minimised
    gamma: float | None = None,  # focal's: how little easy photos count, from 0, where it is ce (default: 2)
    smoothing: float | None = None,  # smoothing's: share of the target that all classes get, below 1 (default: 0.1)
    class_weights: Annotated[str, {"choices": CLASS_WEIGHTS}] = "none",  # how much more rare classes count in the loss
    sampler: Annotated[str, {"choices": SAMPLERS}] = "shuffle",  # each photo once an epoch, or classes equally often
    arch: str = "resnet152.tv2_in1k",  # any timm classifier
    weights: str = "imagenet",  # imagenet, none, or a .pth or .safetensors FILE
    epochs: int | None = None,  # passes over the training photos, the probe's too (default: by their number)
    minutes: float | None = None,  # plan as many epochs as training has time for, instead
    lr: float | Auto | None = None,  # AdamW's highest learning rate, or auto: by fastai's finder (default: by the data)
    bs: int | Auto | None = None,  # photos in a mini-batch, or auto: as many as memory holds (default: by the data)
    accum: int = 1,  # mini-batches to an optimiser step
    image_size: int = 224,  # side of the square the network sees, in pixels
    train_sizes: tuple[int, ...] = (),  # of the squares trained on, smaller ones first (default: by the data)
    probe: bool = True,  # train all layers at once, without a linear probe first
    layer_decay: float | None = None,  # of the rate, from one layer to the one before it (default: by the data)
    average: Annotated[str, {"choices": AVERAGES}] = "ema",  # of the weights, validated beside them; the better counts
    mixup: float = 0.0,  # alpha of fastai's MixUp; 0 is none
    cutmix: float = 0.0,  # alpha of fastai's CutMix; 0 is none
    workers: int | Auto | None = None,  # processes that read, or auto: tries some (default: one a core, up to 8)
    device: str = "auto",  # auto, cuda or cpu
    precision: Annotated[str, {"choices": ["auto", "fp16", "bf16", "fp32"]}] = "auto",  # of the forward pass
    exact: bool = False,  # compute as a plain loop does, to the bit: no channels last, fused AdamW, TF32
    compile: bool = False,  # have torch compile the network: minutes to begin with, faster steps from then on
    seed: int = 0,  # of the head, the split, the order and the augmentation
    skip_unreadable: bool = False,  # leave out photos that can't be read, instead of refusing the data
    cache: Path | None = None,  # folder to keep decoded photos in, for this and later runs (default: none)
    save_every: int = 0,  # optimiser steps after which to save inside an epoch too (0: only after each epoch)
    profile: bool = False,  # print where an epoch's time goes, and what may help
    log: Annotated[tuple[str, ...], {"choices": LOGGERS}] = (),  # where to send curves, figures, mistakes and model
    out: Path | None = None,  # run folder (default: runs/rapid/<time>-<loss>)
    resume: bool = False,  # go on with the run in --out
) -> list:
    "Fine-tune gently and fast, and write report, model.onnx and, for a test folder, predictions.csv."
    options = dict(locals())
    check_ranges(options)
    folder = new_folder("rapid", loss, out, resume)
    begun = as_begun(folder, BS, Begun(lr, bs, accum, workers))
    chosen = loggers(log)
    check_outside_data(data, {"--out": folder, "--cache": cache} | folders(chosen))
    learn = learner(
        data, loss, gamma, smoothing, class_weights, sampler, arch, weights, epochs, begun.lr, begun.bs, begun.accum,
        image_size, train_sizes, probe, layer_decay, average, mixup, cutmix, begun.workers, device, precision, exact,
        compile, seed, skip_unreadable, cache,
    )  # fmt: skip
    plan_epochs(learn, folder, epochs, minutes, train_sizes)
    run = begin(folder, "rapid", options | begun._asdict(), learn)
    with logged(learn, run, chosen):
        fit(learn, run, learn.settled["epochs"], save_every, profile)
        evaluate(learn, run)
        device = learn.dls.device.type
        to_onnx(run.folder, device=device, details=False)
        write_report(run)
    photos = learn.dls.data.test
    unread = predict(run.path("model.onnx"), photos, run.path("predictions.csv"), device) if photos else []
    tell_results(run)
    return unread


if __name__ == "__main__":
    run_script(main, status=exit_status)
