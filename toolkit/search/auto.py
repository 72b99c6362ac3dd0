"""`--workers auto`, `--bs auto`, `--lr auto`: numbers found by trying them on the learner, which stays as it was."""

import sys
from dataclasses import replace

from toolkit import ranks
from toolkit.learner.learner import Learner
from toolkit.machine import cores
from toolkit.options import Options
from toolkit.search.batch_size import largest_batch_size
from toolkit.search.epoch_time import seconds_per_epoch
from toolkit.search.lr_finder import find_lr
from toolkit.search.snapshot import restoring_state

BARELY = 0.95  # of an epoch's seconds: fewer workers that are not slower than this are preferred
MOST_WORKERS = 16


def search_auto(learn: Learner, asked: Options) -> None:
    """Find --bs, --workers and --lr by trying them, in this order, those of `asked` that are auto.

    A line says what was chosen and why. `learn.options` has the numbers, with --accum that follows from --bs, and
    `learn.lr_curve` what the learning-rate finder measured. Weights, random states and all else are as if nothing had
    been tried. Raises ValueError on several ranks, which would have to agree, and if a search finds nothing.
    """
    names = [name for name in ("bs", "workers", "lr") if getattr(asked, name) == "auto"]
    if names and ranks.count() > 1:
        raise ValueError(
            f"--{names[0]} auto on {ranks.count()} processes: give a number, such as one of them alone finds"
        )
    searches = {"bs": search_batch_size, "workers": search_workers, "lr": search_lr}
    for name in names:
        searches[name](learn)


def _say(name: str, chosen: object, why: str) -> None:
    print(f"--{name} auto: {chosen}, {why}", flush=True)


# Mini-batches


def search_batch_size(learn: Learner) -> None:
    """The mini-batch that `largest_batch_size` finds room for, and as many of them accumulated as make up the same
    photos to an optimiser step as before. To the gradient that is the same; batch norm sees other mini-batches.
    """
    accum = learn.accumulate.n
    photos = learn.dls.train.bs * accum
    bs, memory = largest_batch_size(learn, photos)
    for loader in learn.dls.loaders:
        loader.bs = bs
    learn.accumulate.n = photos // bs
    learn.options = replace(learn.options, bs=bs, accum=photos // bs)
    _say("bs", bs, f"{photos // bs} of them to a step of {photos} photos; {memory}")


# Workers


def search_workers(learn: Learner) -> None:
    """Of none, one for every other core and one for each core this process may use, at most 16, that number of workers
    with which an epoch takes least by `seconds_per_epoch`, from a few steps; of nearly equal ones the smallest.
    """
    seconds = {count: _seconds(learn, count) for count in _numbers_of_workers()}
    best = min(seconds.values())
    chosen = next(count for count, spent in seconds.items() if best >= BARELY * spent)
    _work(learn, chosen)
    learn.options = replace(learn.options, workers=chosen)
    others = ", ".join(f"{count}: {spent:.1f} s" for count, spent in seconds.items() if count != chosen)
    _say("workers", chosen, f"with which an epoch takes {seconds[chosen]:.1f} s" + (f" ({others})" if others else ""))


def _numbers_of_workers() -> list[int]:
    "From the smallest; on macOS none but 0, where fastai uses no other."
    if sys.platform == "darwin":
        return [0]
    count = cores()
    return sorted({0, min(max(1, count // 2), MOST_WORKERS), min(count, MOST_WORKERS)})


def _seconds(learn: Learner, workers: int) -> float:
    with restoring_state(learn):
        _work(learn, workers)
        return seconds_per_epoch(learn, batches=4, at_most=10.0)


def _work(learn: Learner, workers: int) -> None:
    for loader in learn.dls.loaders:
        loader.fake_l.num_workers = workers


# The learning rate


def search_lr(learn: Learner) -> None:
    "The rate that `find_lr` suggests."
    learn.lr_curve = curve = find_lr(learn)
    learn.lr = curve.chosen
    learn.options = replace(learn.options, lr=curve.chosen)
    _say("lr", f"{curve.chosen:g}", f"where the loss falls well; tried {curve.lrs[0]:.0e} to {curve.lrs[-1]:.0e}")
