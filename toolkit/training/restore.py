"""A learner's part of a run's state: taken, put back, and a schedule checked against more epochs."""

from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.learner import Learner
from toolkit.learner.schedule import check_extended
from toolkit.training.state import TrainState


def stateful_parts(learn: Learner) -> dict[str, Any]:
    """By the callback's name, what keeps state from step to step: a callback's `scheduler` (a schedule), `scaler` (the
    loss scale) or `averaged` (a weight average). A user's own callback is saved by the same names.
    """
    names = ("scheduler", "scaler", "averaged")
    return {cb.name: vars(cb)[name] for cb in learn.cbs for name in names if name in vars(cb)}


def learner_state(learn: Learner) -> dict[str, Any]:
    "Return bs, accum, model, opt and callbacks, as TrainState has them. Tensors are the learner's own, not copies."
    return {
        "bs": learn.dls.train.bs,
        "accum": learn.accum,
        "model": learn.model.state_dict(),
        "opt": learn.opt.state_dict(),
        "callbacks": {name: part.state_dict() for name, part in stateful_parts(learn).items()},
    }


def restore(learn: Learner, state: TrainState) -> None:
    "Put weights, optimiser, callbacks and batch size back. Raises what torch raises for a state that does not fit."
    learn.model.load_state_dict(state.model)
    learn.opt.load_state_dict(state.opt)
    for name, part in stateful_parts(learn).items():
        part.load_state_dict(state.callbacks[name])
    learn.dls.train.bs = learn.dls.valid.bs = state.bs
    if accumulate := learn.callback(AccumulateGradients):
        accumulate.n = state.accum


def check_there(folder: Path) -> None:
    "Raise FileNotFoundError if `folder` no longer holds its run: a file that is written would make the folder anew."
    if not (folder / "recipe.json").is_file():
        raise FileNotFoundError(f"{folder} no longer holds this run: if it was moved, --resume goes on with it there")


def check_schedule(learn: Learner, state: TrainState, epochs: int) -> None:
    """Raises Unfit if `epochs` are more than the run was planned for, and its schedule can't follow.

    A state that does not say how many were planned is not checked.
    """
    extended = state.epochs is not None and epochs > state.epochs
    for name, part in stateful_parts(learn).items() if extended else ():
        if isinstance(part, LRScheduler):
            check_extended(part, state.callbacks[name])
