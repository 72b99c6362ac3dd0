"""Training into a run folder: begin or take up a run, keep the best weights, write each epoch, evaluate the best."""

import gc
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from toolkit import ranks
from toolkit.data.layouts import check_outside_data
from toolkit.evaluation import metrics
from toolkit.evaluation.results import PREDICTIONS, write_curve
from toolkit.files import write_csv, write_json
from toolkit.learner.device import in_float32, peak_memory
from toolkit.learner.distributed import distributed_gradients
from toolkit.learner.guards import NaNGuard
from toolkit.learner.learner import Learner
from toolkit.learner.performance import uncompiled, whole_batches
from toolkit.learner.profiler import EpochTimer, Profile
from toolkit.models.timm_model import load_weights
from toolkit.pages.formatting import chosen_among
from toolkit.ranges import check_ranges
from toolkit.run import Run, git_revision, load, lock, same_recipe, versions
from toolkit.schema import recipe_fault
from toolkit.training.checkpoint import Checkpoint
from toolkit.training.progress import RunPage, shown
from toolkit.training.signals import stopping_at_a_step
from toolkit.training.state import read_state

NEEDED = {"loss", "arch", "lr", "bs", "accum", "seed"}  # what `toolkit.learner.rebuild.rebuild` goes by
PARTS = {"seconds_data_wait", "seconds_compute", "seconds_validation"}
FREE = set("data epochs workers device processes cache save_every profile log out resume".split())  # data by name


def begin(folder: Path, recipe: str, options: dict[str, Any], learn: Learner) -> Run:
    """The run in `folder`: a new one, its recipe.json written, or the one that is there to be resumed.

    options: the recipe's own, as its command line names them; what `auto` chose is put in their place.
    The run holds its folder, as long as it lives. Raises FileExistsError where another one does, ValueError for options
    too few to rebuild it by, for fewer photos in a mini-batch than processes, for a folder in which photos are looked
    for, and where a run is resumed by another method or on other data than it was begun with.
    Of several processes the first does this; the others go on.
    """
    if ranks.rank():
        return Run(folder)
    check_outside_data(learn.dls.data.path, {"--out": folder})
    if learn.dls.train.bs < ranks.count():
        raise ValueError(
            f"--bs {learn.dls.train.bs} on {ranks.count()} processes, which share each mini-batch: give "
            f"{ranks.count()} photos or more, or fewer processes"
        )
    if missing := sorted(NEEDED - options.keys()):
        raise ValueError(f"options lack {', '.join(missing)}: without it the run can't be rebuilt")
    chosen = {
        "device": str(learn.dls.device),
        "precision": learn.precision,
        "workers": learn.dls.train.fake_l.num_workers,
        **({"processes": ranks.count()} if ranks.count() > 1 else {}),
        **getattr(learn, "settled", {}),  # lr, bs, accum, workers
        **getattr(learn.loss_func, "options", {}),  # focal's gamma, smoothing's
    }
    options = {name: str(value) if isinstance(value, Path) else value for name, value in (options | chosen).items()}
    said = _recipe(recipe, options, learn)
    if fault := recipe_fault(said):
        raise ValueError(f"a recipe.json that {fault} could not be gone by: change it before the run begins")
    run = Run(folder, lock(folder))
    if run.path("recipe.json").is_file():
        if not options.get("resume", True):  # it was begun while this one got ready
            raise FileExistsError(f"{folder} already holds a run: give another --out, or --resume to go on with it")
        _same_method(run, said)
        said |= {"created": run.recipe["created"]}
    if learn.lr_curve is not None:
        write_curve(learn.lr_curve, run)
    write_json(run.path("recipe.json"), said)
    _tell(folder, said)
    return Run(folder, run.held)


def _recipe(recipe: str, options: dict[str, Any], learn: Learner) -> dict[str, Any]:
    "recipe.json: all it takes to know what was run, and to run it again."
    data, model = learn.dls.data, learn.model
    return {
        "recipe": recipe,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": options,
        "classes": list(learn.dls.vocab),
        "preprocess": learn.dls.preprocess,
        "augment": learn.dls.augment,
        "model": {"arch": options["arch"], "parameters": sum(weight.numel() for weight in model.parameters())},
        "weights": model.origin,
        "versions": versions(),
        "git": git_revision(),
        "data": {
            "path": str(data.path.resolve()),
            "fingerprint": data.fingerprint,
            "train": len(data.train),
            "valid": len(data.valid),
            "test": len(data.test),
            "counts": data.counts,
            "left_out": {data.relative(photo): reason for photo, reason in data.left_out.items()},
            "reduced_to": getattr(learn.dls, "reduced_to", None),
        },
    }


def _same_method(run: Run, said: dict[str, Any]) -> None:
    before = run.recipe
    same_recipe(run, said["recipe"])
    names = (said["options"].keys() | before["options"].keys()) - FREE
    for name in sorted(names, key=lambda name: (name != "loss", name)):  # its own options follow from it
        old, new = before["options"].get(name), said["options"].get(name)
        if old != new:
            raise ValueError(
                f"--resume {run.folder}: it was begun with --{name} {old}, now it is {new}; "
                "resume with the old value, or give another --out"
            )
    if before["data"]["fingerprint"] != said["data"]["fingerprint"]:
        raise ValueError(f"--resume {run.folder}: the photos are not those it was begun with; give another --out")
    if before["preprocess"] != said["preprocess"]:
        names = [name for name in said["preprocess"] if before["preprocess"].get(name) != said["preprocess"][name]]
        raise ValueError(
            f"--resume {run.folder}: it was begun with other photos to the network ({', '.join(names)}), by an earlier "
            "version; give another --out"
        )
    old, new = (recipe["data"].get("reduced_to") for recipe in (before, said))
    if old != new:  # with photos that a cache keeps whole, or the same ones reduced, training is the same
        had, has = ("with" if side else "without" for side in (old, new))
        raise ValueError(
            f"--resume {run.folder}: it was begun {had} a --cache that reduces these photos, now it is {has}; "
            f"resume {had} it, or give another --out"
        )


def _tell(folder: Path, said: dict[str, Any]) -> None:
    "Print the recipe, the data, the model with its weights, their licence, the device and the run folder."
    options, data, weights, classes = said["options"], said["data"], said["weights"], len(said["classes"])
    left_out = f", {', '.join(weights['left_out'])} left out" if weights["left_out"] else ""
    place = f"{options['processes']} x {options['device']}" if "processes" in options else options["device"]
    print(
        f"{said['recipe']}: {classes} classes, {data['train']} photos to train, {data['valid']} to validate\n"
        f"{options['arch']}, {said['model']['parameters']:,} parameters; {weights['loaded']} tensors loaded from "
        f"{weights['source']}{left_out}\n"
        f"{_of_the_weights(weights, said['preprocess'])}"
        f"on {place} in {options['precision']}, {options['workers']} workers; run folder {folder}",
        flush=True,
    )


def _of_the_weights(weights: dict[str, Any], preprocess: dict[str, Any]) -> str:
    "A line on pretrained weights: their licence, and where photos are prepared on purpose as they were not made for."
    made_for = weights.get("made_for")
    if made_for is None:
        return ""
    theirs = f"{made_for['input_size']} pixels, crop_pct {made_for['crop_pct']:.3g}, {made_for['interpolation']}"
    ours = f"{preprocess['crop']} pixels, crop_pct {preprocess['crop'] / preprocess['resize']:.3g}, bilinear"
    here = "" if theirs == ours else f"; here {ours}"
    licence, verb = weights.get("license") or "not known", "are taken to be" if weights.get("assumed") else "were"
    return f"licence of the weights: {licence}; they {verb} made for {theirs}{here}\n"


def fit(learn: Learner, run: Run, epochs: int, save_every: int = 0, profile: bool = False) -> None:
    """Train `learn` up to `epochs` epochs from wherever `run` stands; in the end it has the best weights.

    After each epoch history.csv and last.pt are written, and best.safetensors if the accuracy is the best yet; last.pt
    every `save_every` optimiser steps too. SIGINT (Ctrl-C) and SIGTERM write it at the next step and then raise
    KeyboardInterrupt. Where memory runs out, mini-batches are halved and twice as many of them accumulated.
    `profile` prints where an epoch's time went, and `evaluate` records it.
    On several processes all of them train (`learner.distributed`); in the end the first goes on alone, and the others
    end, in here.
    Raises ValueError for a loss that is not finite, naming the photos. Every error says what is saved, in a note.
    """
    check_ranges({"epochs": epochs, "save_every": save_every})
    checkpoint, learn.time_spent = Checkpoint(run, epochs, save_every), EpochTimer()
    learn.profiles = [Profile()] if profile and ranks.rank() == 0 else []
    if checkpoint.finished >= epochs:
        print(f"all {epochs} epochs are done", flush=True)
    elif checkpoint.state:
        print(f"going on after {checkpoint.saved}", flush=True)
    if checkpoint.state:
        checkpoint.write_history()  # a kill may have come between the two files
    with shown(learn), stopping_at_a_step(checkpoint):
        try:
            with distributed_gradients(learn):
                while checkpoint.finished < epochs:
                    _fit_in_memory(learn, checkpoint)
            if checkpoint.stop:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; {_how_to_go_on(checkpoint)}") from None
        except Exception as error:
            error.add_note(_how_to_go_on(checkpoint))
            raise
    load_weights(learn.model, run.path("best.safetensors"))


def _fit_in_memory(learn: Learner, checkpoint: Checkpoint) -> None:
    "Fit to the end, or until memory ran out and `checkpoint` stands ready to go on with smaller mini-batches."
    try:
        page = [RunPage(checkpoint.target)] if ranks.rank() == 0 else []
        cbs = [NaNGuard(), checkpoint, learn.time_spent, *page, *learn.profiles]
        learn.fit(checkpoint.epochs - checkpoint.finished, cbs=cbs)
        return
    except torch.OutOfMemoryError as error:
        if checkpoint.halved is None:
            raise ValueError(f"{str(error).splitlines()[0]} Try a smaller --bs, --image_size or --arch") from error
    print(checkpoint.halved, flush=True)
    gc.collect()  # the error held on to all that the failed pass had computed
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _how_to_go_on(checkpoint: Checkpoint) -> str:
    return f"saved: {checkpoint.saved}; go on with --out {checkpoint.target.folder} --resume"


def evaluate(learn: Learner, run: Run) -> dict[str, Any]:
    """metrics.json, returned too, and valid_predictions.csv of `learn` as it is: the best weights, after `fit`.

    In float32, whatever precision it trains in, as the exported file computes.
    """
    data, classes = learn.dls.data, learn.dls.vocab
    with learn.no_bar(), in_float32(learn.model), uncompiled(), whole_batches(learn.dls.device, learn.exact):
        probabilities, labels = (part.numpy() for part in learn.get_preds())
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    rows = [
        [data.relative(photo), label, classes[index], f"{sure:.6f}"]
        for (photo, label), index, sure in zip(data.valid.items(), predicted, confidence, strict=True)
    ]
    write_csv(run.path("valid_predictions.csv"), PREDICTIONS, rows)
    state = read_state(run.path("last.pt"))
    seconds = [row[-1] for row in state.history]
    found = {
        "best_epoch": state.best.epoch,
        "epochs": state.epoch,
        **metrics.summary(probabilities, labels),
        "seconds": sum(seconds),
        "bs": state.bs,
        "accum": state.accum,
        "images_per_second": len(data.train) * len(seconds) / sum(seconds),
        **_epoch_parts(learn, run),
        **_profile(learn, run),
        "peak_memory_bytes": peak_memory(learn.dls.device),
    }
    write_json(run.path("metrics.json"), found)
    return found


def tell_results(run: Run) -> None:
    "The accuracy, and where the run's results lie."
    found = run.read_json("metrics.json")
    interval = "95 % interval {:.2%} to {:.2%}".format(*found["accuracy_interval"])
    print(
        f"validation accuracy {found['accuracy']:.2%} ({interval}, {found['images']} photos), "
        f"epoch {found['best_epoch']} of {found['epochs']}"
    )
    if flattered := chosen_among(found["epochs"]):
        model = shlex.quote(str(run.path("model.onnx")))
        print(f"             {flattered}; an honest figure needs labelled photos that chose nothing:")
        print(f"             python -m export.verify {model} PHOTOS")
    after = f", {found['scaled_ece']:.4f} after the temperature in model.onnx" if found["temperature"] != 1 else ""
    print(f"calibration error {found['ece']:.4f}{after}; details in report.html and by export.verify")
    for name in ("report.html", "curves.png", "model.onnx", "predictions.csv"):
        if run.path(name).is_file():
            print(f"{name.partition('.')[0]:<12} {run.path(name)}")


def _epoch_parts(learn: Learner, run: Run) -> dict[str, float]:
    "Seconds an epoch of the last fit: seconds_data_wait, seconds_compute, seconds_validation."
    told = learn.time_spent.per_epoch() if learn.time_spent else {}
    return told or {name: value for name, value in load(run.folder).metrics.items() if name in PARTS}


def _profile(learn: Learner, run: Run) -> dict[str, Any]:
    "Where the last fit's time went, where that was asked for, or an earlier one's."
    found = next((profile.found() for profile in learn.profiles), {})
    found = found or load(run.folder).metrics.get("profile")
    return {"profile": found} if found else {}
