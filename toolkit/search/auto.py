"""`--workers auto`, `--bs auto`, `--lr auto`: numbers found by trying them on the learner, which stays as it was."""

import sys
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from toolkit import ranks
from toolkit.learner.learner import Learner
from toolkit.machine import cores
from toolkit.run import load
from toolkit.search.batch_size import largest_fitting
from toolkit.search.epoch_time import seconds_per_epoch
from toolkit.search.lr_finder import find_lr
from toolkit.search.snapshot import unchanged

Auto = Literal["auto"]
Number = TypeVar("Number", int, float, None)

BARELY = 0.95  # of an epoch's seconds: fewer workers that are not slower than this are preferred
MOST_WORKERS = 16


def number(value: Number | Auto, otherwise: Number) -> Number:
    "`value`, or where it is auto what to begin with until `settle` finds out. Raises ValueError for other words."
    if isinstance(value, str) and value != "auto":
        raise ValueError(f"{value!r} is neither a number nor auto")
    return otherwise if value == "auto" else value


def settle(learn: Learner, lr: float | Auto, bs: int | Auto, workers: int | Auto | None) -> Learner:
    """`learn` with a number for each of the three that is auto, found by trying in this order: bs, workers, lr.

    A line says what was chosen and why; `learn.settled` has the numbers as options, `accum` with `bs`, and
    `learn.lr_curve` what the finder saw. Weights, random draws and all else are as if nothing had been tried.
    Raises ValueError on several processes, which would have to agree, and where a search comes to nothing.
    """
    learn.settled = {}
    asked = [f"--{name}" for name, value in {"bs": bs, "workers": workers, "lr": lr}.items() if value == "auto"]
    if asked and ranks.count() > 1:
        raise ValueError(
            f"{asked[0]} auto on {ranks.count()} processes: give a number, such as one of them alone finds"
        )
    if bs == "auto":
        settle_bs(learn)
    if workers == "auto":
        settle_workers(learn)
    if lr == "auto":
        settle_lr(learn)
    return learn


class Begun(NamedTuple):
    "The options that may be auto, and accum, which follows bs."

    lr: float | Auto
    bs: int | Auto
    accum: int
    workers: int | Auto | None


def as_begun(folder: Path, batch: int, begun: Begun) -> Begun:
    """`begun`, where it has an auto with the number that the run in `folder`, if there is one, was begun with, so that
    nothing is searched again. accum follows bs where an optimiser step is of the same photos.

    batch: the mini-batch that auto starts from.
    """
    if "auto" not in begun or not (folder / "recipe.json").is_file():
        return begun
    before = load(folder).recipe["options"]
    asked = [name for name in ("lr", "bs", "workers") if getattr(begun, name) == "auto"]
    found = {name: before[name] for name in asked if name in before}
    if "bs" in found and before["bs"] * before["accum"] == batch * begun.accum:
        found["accum"] = before["accum"]
    return begun._replace(**found)


def _say(name: str, chosen: object, why: str) -> None:
    print(f"--{name} auto: {chosen}, {why}", flush=True)


# Mini-batches


def settle_bs(learn: Learner) -> None:
    """The largest mini-batch that `largest_fitting` finds room for, and as many of them accumulated as make up the same
    photos to an optimiser step as before. To the gradient that is the same; batch norm sees other mini-batches.
    """
    accum = learn.accumulate.n
    photos = learn.dls.train.bs * accum
    bs, memory = largest_fitting(learn, photos)
    for loader in learn.dls.loaders:
        loader.bs = bs
    learn.accumulate.n = photos // bs
    learn.settled |= {"bs": bs, "accum": photos // bs}
    _say("bs", bs, f"{photos // bs} of them to a step of {photos} photos; {memory}")


# Workers


def settle_workers(learn: Learner) -> None:
    """Of none, one for every other core and one for each core this process may use, at most 16, that number of workers
    with which an epoch takes least by `seconds_per_epoch`, from a few steps; of nearly equal ones the smallest.
    """
    seconds = {count: _seconds(learn, count) for count in _numbers_of_workers()}
    best = min(seconds.values())
    chosen = next(count for count, spent in seconds.items() if best >= BARELY * spent)
    _work(learn, chosen)
    learn.settled["workers"] = chosen
    others = ", ".join(f"{count}: {spent:.1f} s" for count, spent in seconds.items() if count != chosen)
    _say("workers", chosen, f"with which an epoch takes {seconds[chosen]:.1f} s" + (f" ({others})" if others else ""))


def _numbers_of_workers() -> list[int]:
    "From the smallest; on macOS none but 0, where fastai uses no other."
    if sys.platform == "darwin":
        return [0]
    count = cores()
    return sorted({0, min(max(1, count // 2), MOST_WORKERS), min(count, MOST_WORKERS)})


def _seconds(learn: Learner, workers: int) -> float:
    with unchanged(learn):
        _work(learn, workers)
        return seconds_per_epoch(learn, batches=4, at_most=10.0)


def _work(learn: Learner, workers: int) -> None:
    for loader in learn.dls.loaders:
        loader.fake_l.num_workers = workers


# The learning rate


def settle_lr(learn: Learner) -> None:
    "The rate that `find_lr` suggests."
    learn.lr_curve = curve = find_lr(learn)
    learn.lr = curve.chosen
    learn.settled["lr"] = curve.chosen
    _say("lr", f"{curve.chosen:g}", f"where the loss falls well; tried {curve.lrs[0]:.0e} to {curve.lrs[-1]:.0e}")
