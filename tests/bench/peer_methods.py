"""The sides of `peers.py`: a method's training, and its predictions of the validation and test photos.

fastai: the recipe of its book's chapter with `fine_tune(4)` (02_production.ipynb of fastai/fastbook):
`item_tfms=RandomResizedCrop(224, min_scale=0.5), batch_tfms=aug_transforms()`, here with the size asked for, then
`vision_learner` and `fine_tune(4)`, all at their defaults: batches of 64, the body frozen in the first epoch.

timm: what its train.py does on a CPU, by timm's own functions, at train.py's defaults but for the options of the one
command of timm's documentation that fine-tunes (hfdocs/source/training_script.mdx of huggingface/pytorch-image-models,
commit 3034f27): --pretrained --batch-size 32 --epochs 30 --opt adamw --lr 1e-4 --weight-decay 0.01. Its author's
older advice (issue 25) is a tenth of the rate for training from scratch, which for AdamW comes to the same. train.py
keeps the weights of the best epoch. One difference: a worker a core, as for the other sides, in place of train.py's 4.

hw1 and rapid: the recipes' own learners, trained as their commands do; hw1 with batches of 32. By default these two
train in bfloat16 on a CPU that computes it in hardware, fastai and timm in float32 on any.
"""

import importlib
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch

CPU = torch.device("cpu")
FULL = {"fastai": 4, "timm": 30, "hw1": 20}  # epochs; rapid plans its own
Spec = dict
"method, data, arch, weights, size, seed; epochs (None: FULL's, or rapid's own); minutes (None: rapid without a budget)"
Trained = tuple[list[float], Callable[[list[Path]], list[str]], list[int]]
"Validation accuracy of each epoch; a function from photos to the names of their classes; photos to train and validate"


def prepared(spec: Spec, log: Path) -> Callable[[list[Path], list[Path]], dict]:
    """A function of validation and test photos: it trains, predicts and returns the figures; see `measured`.

    To be called in a process of its own, whose output goes to the file `log`. Imports are done and the photos' files
    have been read once before it returns, so that no side pays for them.
    """
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1), os.dup2(handle, 2)
    kind = spec["method"].partition(":")[0]
    train = {"fastai": fastai_side, "timm": timm_side}.get(kind, our_side)
    for name in {"fastai": ["fastai.vision.all"], "timm": TIMM}.get(kind, [f"recipes.{kind}", *OURS]):
        importlib.import_module(name)
    for path in Path(spec["data"]).rglob("*.*"):
        if path.is_file() and path.suffix != ".csv":
            path.read_bytes()
    return partial(measured, train, spec)


def measured(train: Callable, spec: Spec, valid: list[Path], test: list[Path]) -> dict:
    "Train and predict. seconds: from the start to the last weight, predictions excluded. Accuracies are of validation."
    from toolkit.learner.device import peak_memory

    with ExitStack() as stack:
        begun = time.perf_counter()
        accuracies, predict, photos = train(spec, stack)
        seconds = time.perf_counter() - begun
        peak = peak_memory(CPU)
        return {
            **spec,
            "photos": photos,
            "seconds": seconds,
            "peak_memory_bytes": peak,
            "accuracies": accuracies,
            "valid": predict(valid),
            "test": predict(test),
        }


# fastai


def fastai_side(spec: Spec, stack: ExitStack) -> Trained:
    from fastai.vision.all import (
        Callback,
        ImageDataLoaders,
        RandomResizedCrop,
        accuracy,
        aug_transforms,
        set_seed,
        vision_learner,
    )

    class Accuracies(Callback):  # fastai's recorder forgets the first of fine_tune's two fits
        order, found = 60, []

        def after_epoch(self):
            self.found.append(float(self.recorder.values[-1][-1]))

    set_seed(spec["seed"])
    dls = ImageDataLoaders.from_folder(
        spec["data"],
        train="train",
        valid=valid_folder(spec).name,
        item_tfms=RandomResizedCrop(spec["size"], min_scale=0.5),
        batch_tfms=aug_transforms(),
        device=CPU,
    )
    learn = vision_learner(dls, spec["arch"], metrics=accuracy, **timm_weights(spec))
    found = Accuracies()
    with learn.no_bar(), learn.added_cbs(found):
        learn.fine_tune(spec["epochs"] or FULL["fastai"])

    def predict(photos: list[Path]) -> list[str]:
        with learn.no_bar():
            probabilities, _ = learn.get_preds(dl=dls.test_dl(photos))
        return [dls.vocab[index] for index in probabilities.argmax(1)]

    return found.found, predict, [len(dls.train_ds), len(dls.valid_ds)]


def timm_weights(spec: Spec) -> dict:
    "Options of timm.create_model for the pretrained weights: timm's own, those in a file, or none."
    if spec["weights"] in ("imagenet", "none"):
        return {"pretrained": spec["weights"] == "imagenet"}
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(spec["weights"])}}


def valid_folder(spec: Spec) -> Path:
    return next(folder for name in ("val", "valid") if (folder := Path(spec["data"], name)).is_dir())


# timm

TIMM = ["timm", "timm.data", "timm.loss", "timm.optim", "timm.scheduler", "timm.utils"]


def timm_side(spec: Spec, stack: ExitStack) -> Trained:
    import timm
    from timm.data import create_transform, resolve_data_config
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import random_seed

    random_seed(spec["seed"], 0)
    classes = sorted(folder.name for folder in Path(spec["data"], "train").iterdir() if folder.is_dir())
    model = timm.create_model(spec["arch"], num_classes=len(classes), drop_rate=0.0, **timm_weights(spec))
    config = resolve_data_config({"input_size": (3, spec["size"], spec["size"])}, model=model)
    train, valid = timm_loaders(spec, classes, config)
    epochs = spec["epochs"] or FULL["timm"]
    optimiser = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.01, momentum=0.9)
    schedule, epochs = create_scheduler_v2(
        optimiser, sched="cosine", num_epochs=epochs, warmup_epochs=5, warmup_lr=1e-5, min_lr=0
    )
    loss, accuracies, best = LabelSmoothingCrossEntropy(smoothing=0.1), [], None
    for epoch in range(epochs):
        timm_epoch(model, train, loss, optimiser)
        accuracies.append(timm_accuracy(model, valid))
        if accuracies[-1] > max(accuracies[:-1], default=-1):
            best = deepcopy(model.state_dict())
        schedule.step(epoch + 1, accuracies[-1])
    model.load_state_dict(best)
    transform = create_transform(**config, is_training=False)
    counts = [len(loader.dataset) for loader in (train, valid)]
    return accuracies, partial(timm_predictions, model, transform, classes), counts


def timm_loaders(spec: Spec, classes: list[str], config: dict) -> list:
    "Batches to train and to validate on, as train.py makes them."
    from timm.data import create_dataset, create_loader

    loaders = []
    for folder in (Path(spec["data"], "train"), valid_folder(spec)):
        training, kept = folder.name == "train", {name: config[name] for name in ("input_size", "mean", "std")}
        numbers = {name: index for index, name in enumerate(classes)}
        dataset = create_dataset("", root=str(folder), search_split=False, class_map=numbers)
        if training:
            own = {"is_training": True, "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "interpolation": "random"}
        else:
            own = {"interpolation": config["interpolation"], "crop_pct": config["crop_pct"]}
        loaders.append(create_loader(dataset, batch_size=32, num_workers=os.cpu_count(), device=CPU, **kept, **own))
    return loaders


def timm_epoch(model, batches, loss, optimiser) -> None:
    model.train()
    for images, labels in batches:
        loss(model(images), labels).backward()
        optimiser.step()
        optimiser.zero_grad()


@torch.no_grad()
def timm_accuracy(model, batches) -> float:
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in batches)
    return right / len(batches.dataset)


@torch.no_grad()
def timm_predictions(model, transform, classes: list[str], photos: list[Path]) -> list[str]:
    from PIL import Image

    model.eval()
    found = []
    for begin in range(0, len(photos), 64):
        images = [transform(Image.open(photo).convert("RGB")) for photo in photos[begin : begin + 64]]
        found += [classes[index] for index in model(torch.stack(images)).argmax(1)]
    return found


# Ours

OURS = ["toolkit.training.begin", "toolkit.training.fit", "toolkit.evaluation.results"]


def our_side(spec: Spec, stack: ExitStack) -> Trained:
    "hw1, or rapid at its defaults, with --minutes if the spec has them."
    from toolkit.evaluation.best_epoch import HISTORY
    from toolkit.files import read_csv
    from toolkit.learner.device import in_float32
    from toolkit.training.begin import begin
    from toolkit.training.fit import fit

    kind = spec["method"].partition(":")[0]
    own = {"bs": 32, "epochs": spec["epochs"] or FULL["hw1"]} if kind == "hw1" else {}
    if kind == "rapid":
        own = {"minutes": spec["minutes"]} if spec["minutes"] else {"epochs": spec["epochs"]} if spec["epochs"] else {}
    recipe = importlib.import_module(f"recipes.{kind}")
    learn = recipe.learner(
        spec["data"],
        arch=spec["arch"],
        weights=str(spec["weights"]),
        image_size=spec["size"],
        seed=spec["seed"],
        device="cpu",
        **own,
    )
    run = begin(Path(stack.enter_context(tempfile.TemporaryDirectory()), "run"), learn)
    fit(learn, run)
    rows = read_csv(run.path("history.csv"), HISTORY)[1:]

    def predict(photos: list[Path]) -> list[str]:
        with learn.no_bar(), in_float32(learn.model):
            probabilities, _ = learn.get_preds(dl=learn.dls.test_dl(photos))
        return [learn.dls.vocab[index] for index in probabilities.argmax(1)]

    data = learn.dls.data
    return [float(row[HISTORY.index("accuracy")]) for row in rows], predict, [len(data.train), len(data.valid)]
