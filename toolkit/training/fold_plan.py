"""The plan of `--folds`: which fold holds out which training photo, written once."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from toolkit import ranks
from toolkit.data.dataset import DataSet
from toolkit.data.on_disk.folds import ABOUT, FOLDS, holds_folds, write_folds
from toolkit.data.preprocess import fitted, preprocessing, resize_center_crop
from toolkit.data.readable import FoldUnknown
from toolkit.errors import first_few
from toolkit.features import duplicates
from toolkit.features.extract import features_and_thumbnails, linear_heads
from toolkit.features.folds import grouped_folds
from toolkit.files import file_lock, read_json, size_text, write_json
from toolkit.learner.device import resolved
from toolkit.models.timm_model import create_model, normalization_of
from toolkit.options import Options
from toolkit.recipe.begun import OF_A_COMMAND
from toolkit.recipe.signature import Recipe
from toolkit.run import git_revision, versions
from toolkit.training.begin import all_as_json

LOCK = f".{ABOUT}.lock"
LARGEST = 2**31 - 2**20
"Bytes of the models together: an ONNX file holds 2 GiB."


def dataset_of(recipe: Recipe, options: Options, own: dict[str, Any]) -> DataSet:
    """The whole data set that a recipe opens, before a fold is held out.

    Raises ValueError on several ranks, for --arch auto, and for a recipe that opens its data in another way than by
    `open_dataset`.
    """
    if options.arch == "auto":
        raise ValueError(
            f"--folds {options.folds} --arch auto: each fold might choose another network; run --arch auto alone, and "
            "give the name that it chooses"
        )
    if ranks.count() > 1:
        raise ValueError(
            f"--folds {options.folds} on {ranks.count()} processes: one process trains a fold; on several GPUs start "
            "one process for each fold, with --fold 1, --fold 2 ..., the same --out and --resume"
        )
    try:
        recipe.build(resolved(replace(recipe.without_auto(options), fold=1)), **own)
    except FoldUnknown as found:
        return found.data
    raise ValueError(f"--folds {options.folds}: recipe {recipe.name} does not open its data by open_dataset(options)")


def plan(recipe: Recipe, options: Options, own: dict[str, Any], data: DataSet) -> None:
    """Write folds.csv and folds.json into `options.out`, or check that those there are of these options and photos.

    Raises ValueError for another number of folds or other photos than the folds were begun with, and for folds that
    `fold_numbers` can't fill.
    """
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / LOCK), _removed_unless_written(out):  # processes with one --fold each may start together
        if holds_folds(out):
            check_plan(options, data)
            return record_options(recipe, options, own)
        groups, how = near_duplicate_groups(data, options)
        numbers = fold_numbers(data, groups, options)
        rows = zip(map(data.relative, data.train), data.train.values(), numbers.tolist(), groups.tolist(), strict=True)
        write_folds(out, rows)
        found = {"grouped_by": how, "groups": int(groups.max()) + 1}
        write_json(out / ABOUT, about(recipe, options, own, data) | found)
    print(f"{len(numbers)} training photos in {options.folds} folds; {how}", flush=True)
    print_in_no_fold(data, numbers)


@contextmanager
def _removed_unless_written(out: Path) -> Iterator[None]:
    "A plan that is refused leaves nothing behind."
    try:
        yield
    except BaseException:
        if not holds_folds(out):
            remove_plan(out)
        raise


def remove_plan(out: Path) -> None:
    "Remove the files of the plan, and the folder if nothing else is in it, unless a fold's folder is there."
    if any(path.is_dir() for path in out.iterdir()):
        return
    for name in (ABOUT, FOLDS, LOCK, ".lock"):
        (out / name).unlink(missing_ok=True)
    with suppress(OSError):
        out.rmdir()


def about(recipe: Recipe, options: Options, own: dict[str, Any], data: DataSet) -> dict[str, Any]:
    "The content of folds.json but how photos were grouped: the command, its options as given, the photos, versions."
    return {
        "recipe": recipe.name,
        "command": list(recipe.command),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": all_as_json(vars(options) | own),
        "folds": options.folds,
        "classes": data.classes,
        "data": {"path": str(data.path.resolve()), "fingerprint": data.fingerprint, "counts": data.counts},
        "versions": versions(),
        "git": git_revision(),
    }


def check_plan(options: Options, data: DataSet) -> None:
    "Raises ValueError if the folds in `options.out` are not as many as asked for, or not of these photos."
    about = read_json(options.out / ABOUT)
    if about["folds"] != options.folds:
        raise ValueError(
            f"--resume {options.out}: it was begun with --folds {about['folds']}, now it is {options.folds}; resume "
            "with the old value, or give another --out"
        )
    if not data.is_recorded(about["data"]["fingerprint"]):
        raise ValueError(f"--resume {options.out}: the photos are not those it was begun with; give another --out")


def record_options(recipe: Recipe, options: Options, own: dict[str, Any]) -> None:
    "Record options that may change and have changed, such as more epochs, for a later command that resumes the folds."
    about, kept = read_json(options.out / ABOUT), recipe.free - OF_A_COMMAND
    kept = kept - {"refit"} if options.fold else kept  # of one fold alone there is none
    now = {name: value for name, value in all_as_json(vars(options) | own).items() if name in kept}
    if (changed := about["options"] | now) != about["options"]:
        write_json(options.out / ABOUT, about | {"options": changed})


def near_duplicate_groups(data: DataSet, options: Options) -> tuple[np.ndarray, str]:
    """The group of near-duplicates of each training photo, int64 [photos] from 0, and in words how they were found.

    With pretrained weights: `toolkit.features.duplicates.near_duplicates`, by the network before it is trained. Without
    them, or if the network's classifier is not linear: files of the same content.
    Raises ValueError for --arch, --weights and --image_size as `create_model` does, and for an average of more than
    LARGEST bytes.
    """
    photos = [*data.train]
    model = create_model(options.arch, len(data.classes), options.weights, image_size=options.image_size)
    if not options.refit and not options.fold:
        check_average(options, model)
    try:
        linear_heads(model)
        reason = "" if options.weights != "none" else "--weights none has no features to find near-duplicates by"
    except ValueError as error:
        reason = str(error).partition(":")[0]
    if reason:
        return duplicates.equal_files(photos), f"only files of the same content are kept together, because {reason}"
    print(f"near-duplicates are looked for among {len(photos)} training photos", flush=True)
    used = resolved(options)
    geometry = fitted(resize_center_crop(options.image_size), options.fit)
    preprocess = preprocessing(geometry, **normalization_of(model))
    seen = features_and_thumbnails(model.to(used.device), photos, preprocess, used.device, used.workers)
    pairs = duplicates.near_duplicates(*seen)
    how = f"near-duplicates, found by the features of {options.arch}, are kept together (pairs: {len(pairs.first)})"
    return duplicates.groups(pairs, len(photos)), how


def check_average(options: Options, model: nn.Module) -> None:
    "Raises ValueError if the average of the models, in float32, would be larger than an ONNX file can be."
    size = 4 * options.folds * sum(weight.numel() for weight in model.state_dict().values())
    if size > LARGEST:
        raise ValueError(
            f"--folds {options.folds}: the average of the models has {size_text(size)}, and an ONNX file holds 2.1 GB; "
            "give --refit, fewer folds or a smaller --arch"
        )


def fold_numbers(data: DataSet, groups: np.ndarray, options: Options) -> np.ndarray:
    """The fold of each training photo, int64 [photos] from 1; 0 for a photo that no fold holds out.

    `toolkit.features.folds.grouped_folds`, drawn by --seed. Raises ValueError for a fold without photos.
    """
    index = {name: number for number, name in enumerate(data.classes)}
    labels = np.array([index[name] for name in data.train.values()])
    numbers = grouped_folds(labels, groups, options.folds, options.seed) + 1
    if empty := sorted(set(range(1, options.folds + 1)) - set(numbers.tolist())):
        raise ValueError(f"--folds {options.folds}: no photo is left for fold {empty[0]}; give fewer folds")
    return numbers


def print_in_no_fold(data: DataSet, numbers: np.ndarray) -> None:
    "Say which classes have photos that no fold holds out."
    left = [label for label, number in zip(data.train.values(), numbers, strict=True) if number == 0]
    if left:
        classes = first_few(list(dict.fromkeys(left)))
        why = "a fold with all different photos of a class would leave none to train on"
        print(f"{len(left)} of them are in no fold, of {classes}: {why}", flush=True)
