"""Search of `--bs auto`, `--workers auto` and `--lr auto` on the learner, whose state is restored afterwards."""

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

NEARLY = 0.95  # of an epoch's seconds: fewer workers are preferred if more are hardly faster
MOST_WORKERS = 16


def search_auto(learn: Learner, asked: Options) -> None:
    """Search --bs, --workers and --lr in this order, each if it is auto in `asked`, by trying values on `learn`.

    A printed line has each result and its reason. `learn.options` has the values, with --accum that follows from --bs,
    and `learn.lr_curve` has the learning-rate finder's curve. Weights and random states are restored.
    Raises ValueError on several ranks, which would have to agree, and if a search finds nothing.
    """
    names = [name for name in ("bs", "workers", "lr") if getattr(asked, name) == "auto"]
    if names and ranks.count() > 1:
        raise ValueError(
            f"--{names[0]} auto on {ranks.count()} processes: give a number, such as one process alone finds"
        )
    searches = {"bs": search_batch_size, "workers": search_workers, "lr": search_lr}
    for name in names:
        searches[name](learn)


def _report(name: str, chosen: object, why: str) -> None:
    print(f"--{name} auto: {chosen}, {why}", flush=True)


# The batch size


def search_batch_size(learn: Learner) -> None:
    """Set the largest batch size that fits in memory. Accumulate so that a step has as many photos as before.

    The gradient of an optimiser step is the same. Batch norm sees smaller or larger batches.
    """
    accum = learn.accumulate.n
    photos = learn.dls.train.bs * accum
    bs, memory = largest_batch_size(learn, photos)
    for loader in learn.dls.loaders:
        loader.bs = bs
    learn.accumulate.n = photos // bs
    learn.options = replace(learn.options, bs=bs, accum=photos // bs)
    _report("bs", bs, f"{photos // bs} of them to a step of {photos} photos; {memory}")


# Workers


def search_workers(learn: Learner) -> None:
    """Pick the worker count with the shortest measured epoch among 0, half the cores and all cores (at most 16).

    Among nearly equal ones the smallest is picked. `seconds_per_epoch` measures a few steps.
    """
    seconds = {count: _seconds(learn, count) for count in _numbers_of_workers()}
    best = min(seconds.values())
    chosen = next(count for count, spent in seconds.items() if best >= NEARLY * spent)
    _set_workers(learn, chosen)
    learn.options = replace(learn.options, workers=chosen)
    others = ", ".join(f"{count}: {spent:.1f} s" for count, spent in seconds.items() if count != chosen)
    _report(
        "workers", chosen, f"with which an epoch takes {seconds[chosen]:.1f} s" + (f" ({others})" if others else "")
    )


def _numbers_of_workers() -> list[int]:
    "The worker counts to try, in ascending order; only 0 on macOS, as fastai uses no other there."
    if sys.platform == "darwin":
        return [0]
    count = cores()
    return sorted({0, min(max(1, count // 2), MOST_WORKERS), min(count, MOST_WORKERS)})


def _seconds(learn: Learner, workers: int) -> float:
    with restoring_state(learn):
        _set_workers(learn, workers)
        return seconds_per_epoch(learn, batches=4, at_most=10.0)


def _set_workers(learn: Learner, workers: int) -> None:
    for loader in learn.dls.loaders:
        loader.fake_l.num_workers = workers


# The learning rate


def search_lr(learn: Learner) -> None:
    "Set the learning rate that `find_lr` suggests."
    learn.lr_curve = curve = find_lr(learn)
    learn.lr = curve.chosen
    learn.options = replace(learn.options, lr=curve.chosen)
    _report("lr", f"{curve.chosen:g}", f"at which the loss falls well; tried {curve.lrs[0]:.0e} to {curve.lrs[-1]:.0e}")
