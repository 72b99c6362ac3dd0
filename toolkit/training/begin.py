"""The start of a run: recipe.json is written, or an existing one is checked to be of the same method."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit import ranks
from toolkit.data.augmentation import Augmentation, difference
from toolkit.data.dataloaders import check_own
from toolkit.data.on_disk.layouts import check_outside_data
from toolkit.data.preprocess import discarded
from toolkit.evaluation.results import write_curve
from toolkit.files import write_json
from toolkit.learner.learner import Learner
from toolkit.models.losses import ClassificationLoss
from toolkit.options import Options, data_text
from toolkit.run import Run, git_revision, lock, same_recipe, versions
from toolkit.schema import recipe_fault
from toolkit.search.halving import KEPT


def begin(folder: str | Path, learn: Learner) -> Run:
    """Return the run in `folder`: a new one with its recipe.json, or the existing one, which is resumed.

    The run holds a lock on its folder as long as it lives. Rank 0 does this; other ranks get a run without a lock.
    All ranks raise ValueError if their photos differ.
    Raises FileExistsError if another process holds the folder, TypeError as `check_own` does. Raises ValueError for
    fewer photos in a batch than ranks, for a folder inside the data set, and if a run is resumed by another method or
    on other data.
    """
    folder = Path(folder)
    check_own(learn.dls)
    _check_same_photos(learn)
    if ranks.rank():
        return Run(folder)
    check_outside_data(learn.dls.data.path, {"--out": folder})
    if learn.dls.train.bs < ranks.count():
        raise ValueError(
            f"--bs {learn.dls.train.bs} on {ranks.count()} processes, which share each batch: give {ranks.count()} "
            "photos or more, or fewer processes"
        )
    recipe = recorded(learn)
    if fault := recipe_fault(recipe):
        raise ValueError(f"recipe.json would be of no use, because it {fault}: change it before the run begins")
    run = Run(folder, lock(folder))
    if run.path("recipe.json").is_file():
        if not learn.options.resume and learn.options.out:  # another process created it meanwhile
            raise FileExistsError(f"{folder} already holds a run: give another --out, or --resume to go on with it")
        check_resume(run, recipe, learn)
        recipe |= {name: run.recipe[name] for name in ("created", "searched") if name in run.recipe}
    if learn.lr_curve is not None:
        write_curve(learn.lr_curve, run)
    write_json(run.path("recipe.json"), recipe)
    run.path(KEPT).unlink(missing_ok=True)
    print_summary(folder, recipe)
    return Run(folder, run.held)


def _check_same_photos(learn: Learner) -> None:
    "Raises ValueError, on all ranks, if they do not have the same photos with the same labels."
    mine = learn.dls.data.fingerprint if ranks.count() > 1 else None
    if ranks.largest(mine != ranks.from_first(lambda: mine)):
        path = learn.dls.data.path
        raise ValueError(f"the photos in {path} are not the same for all processes: copy one folder to each machine")


def recorded(learn: Learner) -> dict[str, Any]:
    "Return the content of recipe.json, which describes the run and suffices to repeat it."
    data, options = learn.dls.data, used_options(learn)
    return {
        "recipe": learn.recipe,
        "command": list(learn.command),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": options,
        "classes": list(learn.dls.vocab),
        "preprocess": learn.dls.preprocess,
        "augment": learn.dls.augment.recorded,
        "model": {"arch": options["arch"], "parameters": sum(weight.numel() for weight in learn.model.parameters())},
        "weights": learn.model.origin,
        "versions": versions(),
        "git": git_revision(),
        "data": {
            "path": str(data.path.resolve()),
            **({"source": data.source} if data.source else {}),
            "fingerprint": data.fingerprint,
            "fingerprint_with_test": data.fingerprints[1],
            "train": len(data.train),
            "valid": len(data.valid),
            "test": len(data.test),
            "counts": data.counts,
            "left_out": {data.relative(photo): reason for photo, reason in data.left_out.items()},
            "reduced_to": learn.dls.reduced_to,
            "discarded": discarded(learn.dls.preprocess, data.squareness),
            **({"held_out": [data.relative(photo) for photo in data.held_out]} if data.held_out else {}),
        },
        **({"searched": dict(learn.searched)} if learn.searched else {}),
    }


def used_options(learn: Learner) -> dict[str, Any]:
    "Return the values finally used of all options, shared and the recipe's own, as JSON has them."
    used = vars(learn.options) | learn.own_options
    used |= {"device": str(learn.dls.device), "precision": learn.precision, "lr": learn.lr}
    used |= {"workers": learn.dls.train.fake_l.num_workers, "bs": learn.dls.train.bs, "accum": learn.accum}
    if ranks.count() > 1:
        used |= {"processes": ranks.count()}
    if isinstance(learn.loss_func, ClassificationLoss):
        used |= learn.loss_func.options  # gamma or smoothing
    return all_as_json(used)


def all_as_json(options: dict[str, Any]) -> dict[str, Any]:
    "Return options with their values as JSON has them, --cache as a path that holds in every folder."
    cache = options.get("cache")
    return {name: as_json(value) for name, value in (options | {"cache": cache and Path(cache).absolute()}).items()}


def as_json(value: Any) -> Any:
    "Return an option's value as JSON has it: a path as text, a tuple as a list."
    return data_text(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def check_resume(run: Run, recipe: dict[str, Any], learn: Learner) -> None:
    "Raises ValueError if `recipe`, of the learner that resumes `run`, has another method or other labelled photos."
    before = run.recipe
    same_recipe(run, recipe["recipe"])
    names = (recipe["options"].keys() | before["options"].keys()) - learn.free - {"processes"}
    defaults = vars(Options())  # of an option that an older version did not have
    if unknown := sorted(name for name in names if name not in before["options"] and name not in defaults):
        raise ValueError(
            f"--resume {run.folder}: it was begun by an earlier version, without --{unknown[0]}; give another --out"
        )
    for name in sorted(names, key=lambda name: (name != "loss", name)):  # its own options follow from it
        old, new = (one["options"].get(name, as_json(defaults.get(name))) for one in (before, recipe))
        if old != new:
            raise ValueError(
                f"--resume {run.folder}: it was begun with --{name} {old}, now it is {new}; "
                "resume with the old value, or give another --out"
            )
    if not learn.dls.data.is_recorded(before["data"]["fingerprint"]):
        raise ValueError(f"--resume {run.folder}: the photos are not those it was begun with; give another --out")
    if before["preprocess"] != recipe["preprocess"]:
        names = [name for name in recipe["preprocess"] if before["preprocess"].get(name) != recipe["preprocess"][name]]
        raise ValueError(
            f"--resume {run.folder}: it was begun with other photos to the network ({', '.join(names)}), by an earlier "
            "version; give another --out"
        )
    old, new = (Augmentation.from_recipe(one["augment"]).recorded for one in (before, recipe))
    if old != new:
        was, now = difference(old, new)
        raise ValueError(
            f"--resume {run.folder}: it was begun with the training transforms {was}, now they are {now}; restore "
            "them, or give another --out"
        )
    old, new = (one["data"].get("reduced_to") for one in (before, recipe))
    if old != new:  # a cache that reduces none of these photos does not change training
        had, has = ("with" if side else "without" for side in (old, new))
        raise ValueError(
            f"--resume {run.folder}: it was begun {had} a --cache that reduces these photos, now it is {has}; "
            f"resume {had} it, or give another --out"
        )


def print_summary(folder: Path, recipe: dict[str, Any]) -> None:
    "Print a summary: data set; model and pretrained weights; device, precision, workers and run folder."
    options, data, weights, classes = recipe["options"], recipe["data"], recipe["weights"], len(recipe["classes"])
    left_out = f", {', '.join(weights['left_out'])} left out" if weights["left_out"] else ""
    loaded = f"{weights['loaded']} tensors loaded from {weights['source']}{left_out}"
    loaded = "random weights" if weights["source"] == "none" else loaded
    held_out = f", {len(data['held_out'])} held out" if "held_out" in data else ""
    device = f"{options['processes']} x {options['device']}" if "processes" in options else options["device"]
    print(
        f"{recipe['recipe']}: {classes} classes, {data['train']} photos to train{held_out}, "
        f"{data['valid']} to validate\n"
        f"{options['arch']}, {recipe['model']['parameters']:,} parameters; {loaded}\n"
        f"{_weights_line(weights, recipe['preprocess'])}"
        f"on {device} in {options['precision']}, {options['workers']} workers; run folder {folder}",
        flush=True,
    )


def _weights_line(weights: dict[str, Any], preprocess: dict[str, Any]) -> str:
    "A line on pretrained weights: their licence and preprocessing, and this run's preprocessing if it differs."
    made_for = weights.get("made_for")
    if made_for is None:
        return ""
    theirs = f"{made_for['input_size']} pixels, crop_pct {made_for['crop_pct']:.3g}, {made_for['interpolation']}"
    ours = f"{preprocess['crop']} pixels, crop_pct {preprocess['crop'] / preprocess['resize']:.3g}, bilinear"
    here = "" if theirs == ours else f"; here {ours}"
    licence, verb = weights.get("license") or "not known", "are taken to be" if weights.get("assumed") else "were"
    return f"licence of the weights: {licence}; they {verb} made for {theirs}{here}\n"
