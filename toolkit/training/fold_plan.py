"""The plan of `--folds`: which fold holds out which training photo, written once."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from toolkit import ranks
from toolkit.data.dataset import DataSet
from toolkit.data.on_disk.folds import ABOUT, holds_folds, write_folds
from toolkit.data.readable import FoldUnknown
from toolkit.files import file_lock, read_json, write_json
from toolkit.learner.device import resolved
from toolkit.options import Options
from toolkit.recipe.signature import Recipe
from toolkit.run import git_revision, versions
from toolkit.training.begin import as_json


def dataset_of(recipe: Recipe, options: Options, own: dict[str, Any]) -> DataSet:
    """The whole data set that a recipe opens, before a fold is held out.

    Raises ValueError on several ranks, and for a recipe that opens its data in another way than by `open_dataset`.
    """
    if ranks.count() > 1:
        raise ValueError(
            f"--folds {options.folds} on {ranks.count()} processes: each fold is trained by one process; with several "
            f"GPUs start one process for each fold, by --fold 1, --fold 2 ... and the same --out"
        )
    try:
        recipe.build(resolved(replace(recipe.without_auto(options), fold=1)), **own)
    except FoldUnknown as found:
        return found.data
    raise ValueError(f"--folds {options.folds}: recipe {recipe.name} does not open its data by open_dataset(options)")


def plan(recipe: Recipe, options: Options, own: dict[str, Any], data: DataSet) -> None:
    """Write folds.csv and folds.json into `options.out`, or check that those there are of these options and photos.

    Raises ValueError for another number of folds or other photos than the folds were begun with, and for a class that
    one fold would hold out whole.
    """
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / f".{ABOUT}.lock"):  # processes with one --fold each may start together
        if holds_folds(out):
            return check_plan(options, data)
        numbers, groups, how = assign(data, options)
        rows = zip(map(data.relative, data.train), data.train.values(), numbers, groups, strict=True)
        rows = [(file, label, int(number) + 1, int(group)) for file, label, number, group in rows]
        check_classes(rows, options.folds)
        write_folds(out, rows)
        asked = {name: as_json(value) for name, value in (vars(options) | own).items()}
        about = {"recipe": recipe.name, "command": list(recipe.command)}
        about |= {"created": datetime.now(UTC).isoformat(timespec="seconds"), "options": asked}
        about |= {"folds": options.folds, "grouped_by": how, "groups": len(set(groups)), "classes": data.classes}
        about |= {"data": {"path": str(data.path.resolve()), "fingerprint": data.fingerprint, "counts": data.counts}}
        write_json(out / ABOUT, about | {"versions": versions(), "git": git_revision()})
    print(f"{len(rows)} photos in {options.folds} folds, {how}", flush=True)


def check_plan(options: Options, data: DataSet) -> None:
    "Raises ValueError if the folds in `options.out` are not as many as asked for, or not of these photos."
    about = read_json(options.out / ABOUT)
    if about["folds"] != options.folds:
        raise ValueError(
            f"--resume {options.out}: it was begun with --folds {about['folds']}, now it is {options.folds}; resume "
            "with the old value, or give another --out"
        )
    if about["data"]["fingerprint"] != data.fingerprint:
        raise ValueError(f"--resume {options.out}: the photos are not those it was begun with; give another --out")


def check_classes(rows: list[tuple[str, str, int, int]], folds: int) -> None:
    "Raises ValueError for a class whose photos are all in one fold, which would leave none to train on."
    where: dict[str, set[int]] = {}
    for _, label, fold, _ in rows:
        where.setdefault(label, set()).add(fold)
    if alone := [label for label, held in where.items() if len(held) < 2]:
        raise ValueError(
            f"--folds {folds}: class {alone[0]} has one photo to train on, or copies of one, and a fold that holds it "
            f"out has none ({len(alone)} such): give each class two different photos or more"
        )


def assign(data: DataSet, options: Options):
    import hashlib

    from sklearn.model_selection import StratifiedGroupKFold

    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in data.train]
    index = {d: i for i, d in enumerate(dict.fromkeys(digests))}
    groups = [index[d] for d in digests]
    split = StratifiedGroupKFold(options.folds, shuffle=True, random_state=options.seed)
    numbers = [0] * len(groups)
    for k, (_, test) in enumerate(split.split(groups, list(data.train.values()), groups)):
        for i in test:
            numbers[i] = k
    return numbers, groups, "copies in one fold"
