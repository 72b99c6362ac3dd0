"""The parts of a Learner that a checkpoint saves: which they are, and how they are restored."""

from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from toolkit.finetuning.weight_average import WeightAverage
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.learner import Learner
from toolkit.learner.schedule import check_extended
from toolkit.training.state import TrainState


def stateful_parts(learn: Learner) -> dict[str, Any]:
    """Return by the callback's name the objects that keep state from step to step.

    They are a callback's attribute `scheduler` (a schedule), `scaler` (the loss scale) or `averaged` (a weight
    average). A user's own callback is saved by the same names.
    """
    names = ("scheduler", "scaler", "averaged")
    return {cb.name: vars(cb)[name] for cb in learn.cbs for name in names if name in vars(cb)}


def restore_learner(learn: Learner, state: TrainState) -> None:
    "Load the weights, the optimiser, the parts that keep state, the batch size and the accumulation of `state`."
    learn.model.load_state_dict(state.model)
    learn.opt.load_state_dict(state.opt)
    for name, part in stateful_parts(learn).items():
        part.load_state_dict(state.callbacks[name])
    learn.dls.train.bs = learn.dls.valid.bs = state.bs
    if accumulate := learn.callback(AccumulateGradients):
        accumulate.n = state.accum


def evaluated_weights(learn: Learner) -> dict[str, Tensor]:
    "Return the state dict of the evaluated weights: the model's, or the average of them if that is better."
    average = learn.callback(WeightAverage)
    model = average.better if average else learn.model
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def check_schedules(learn: Learner, state: TrainState, epochs: int) -> None:
    "Raises Unfit if `epochs` is more than the run was planned for and a schedule can't be extended."
    extended = state.epochs is not None and epochs > state.epochs
    for name, part in stateful_parts(learn).items() if extended else ():
        if isinstance(part, LRScheduler):
            check_extended(part, state.callbacks[name])
