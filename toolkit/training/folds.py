"""The runs in a folder of `--folds`: the options of each, how they end, and their results together."""

import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from toolkit.data.on_disk.folds import (
    HELD_OUT,
    fold_folder,
    is_fold,
    read_folds,
    write_held_out,
)
from toolkit.evaluation.results import read_certificate
from toolkit.files import read_json, replacing, write_json
from toolkit.options import Options
from toolkit.pages.folds_page import write_folds_report
from toolkit.run import Run, lock
from toolkit.training.fold_plan import remove_plan
from toolkit.training.out_of_fold import DONE, TABLE

REFIT = "refit"


def shared_budget(options: Options, own: dict[str, Any]) -> dict[str, Any]:
    "The recipe's own options of one model: a time budget, --minutes, is shared by all models of the command."
    if own.get("minutes") is None:
        return own
    models = options.folds + options.refit
    print(f"--minutes {own['minutes']:g} for {models} models: {own['minutes'] / models:.3g} each", flush=True)
    return own | {"minutes": own["minutes"] / models}


# The runs


@contextmanager
def fold_run(options: Options, fold: int) -> Iterator[Options]:
    "Give the options of one fold's run, in a folder of its own. See `_single`."
    folder = fold_folder(options.out, fold)
    with _single(options, folder, f"fold {fold} of {options.folds}"):
        if not is_fold(folder):
            held_out = {file: label for file, label, number, _ in read_folds(options.out) if number == fold}
            write_held_out(folder, held_out)
        yield replace(options, fold=fold, refit=False, out=folder, resume=True)
        done = read_json(folder / DONE)
        right = f"{done['accuracy']:.2%} of {done['images']} photos"
        print(f"fold {fold} of {options.folds}: out-of-fold accuracy {right}, epoch {done['best_epoch']}", flush=True)


@contextmanager
def refit_run(options: Options) -> Iterator[Options]:
    "Give the options of the run that trains on all photos: those of the same command without --folds. See `_single`."
    folder = options.out / REFIT
    with _single(options, folder, f"{REFIT} on all photos"):
        yield replace(options, folds=None, fold=None, refit=False, out=folder, resume=True)


@contextmanager
def _single(options: Options, folder: Path, name: str) -> Iterator[None]:
    """Around a run of the folder, which is locked: an error or Ctrl-C says how to go on, and memory is free afterwards.

    A run that ended before it began, because its options were refused, leaves nothing behind. Raises FileExistsError if
    another process trains in the folder.
    """
    print(f"{name}: {folder}", flush=True)
    how, held = f"the same command with --out {options.out} --resume goes on from there", lock(folder)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        yield
    except BaseException as error:
        if not (folder / "recipe.json").is_file():
            _remove_unbegun(options.out, folder)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted in {name}; {how}") from None
        if (folder / "recipe.json").is_file():
            error.add_note(f"{name}; {how}")
        raise
    finally:
        held.release()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _remove_unbegun(out: Path, folder: Path) -> None:
    "Remove the folder of a run that did not begin, and the plan if no other run has begun."
    with suppress(OSError):
        for file in (folder / HELD_OUT, folder / ".lock"):
            file.unlink(missing_ok=True)
        folder.rmdir()
        remove_plan(out)


def print_left(options: Options) -> list:
    "Say which folds are left and how to go on, after a command with --fold. Returns [], for no photo is unread."
    folds, out = range(1, options.folds + 1), options.out
    left = [str(fold) for fold in folds if not (fold_folder(out, fold) / DONE).is_file()]
    what = f"folds {', '.join(left)} of {options.folds} are left" if left else f"all {options.folds} folds are done"
    print(f"{what}; the same command without --fold, with --out {out} --resume, goes on")
    return []


def copy_refit(out: Path) -> None:
    "Make the model of the refit that of the folder."
    with replacing(out / "model.onnx") as beside:
        shutil.copyfile(out / REFIT / "model.onnx", beside)


def finish(out: Path, refit: bool) -> Path:
    """Add to metrics.json which model model.onnx is, and its accuracy on validation photos; write the page.

    Returns the path of the page.
    """
    figures = read_json(out / "metrics.json")
    certificate = read_certificate(Run(out))
    figures["model"] = REFIT if refit else "average"
    figures["model_valid_accuracy"] = certificate["accuracy"]
    figures["model_valid_images"] = certificate["images"]
    write_json(out / "metrics.json", figures)
    return write_folds_report(out)


def print_results(out: Path) -> None:
    "Print the out-of-fold accuracy, that of model.onnx on the validation photos, and the paths of the results."
    found = read_json(out / "metrics.json")
    low, high = found["accuracy_interval"]
    model = "the refit on all photos" if found["model"] == REFIT else f"the average of {found['folds']} models"
    print(
        f"out-of-fold accuracy {found['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}, {found['images']} "
        f"training photos, each by the model that has not seen it)\n"
        f"model.onnx is {model}: {found['model_valid_accuracy']:.2%} of {found['model_valid_images']} validation "
        "photos, which chose the epochs"
    )
    for name in ("report.html", TABLE, "model.onnx", "predictions.csv"):
        if (out / name).is_file():
            print(f"{name.partition('.')[0][:11]:<12} {out / name}")
