"""The figure of --best while a run trains: measured on the validation photos, and patience with it."""

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Metric

from toolkit.evaluation.best_epoch import FROM_CONFUSION, out_of_patience
from toolkit.learner.learner import Learner
from toolkit.training.checkpoint import Checkpoint


class ConfusionFigure(Metric):
    "A fastai metric of the confusion matrix, which is summed on the loss's device and over all ranks."

    def __init__(self, name: str):
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def reset(self) -> None:
        self.total, self.count = 0, 0

    def accumulate(self, learn: Learner) -> None:
        classes = learn.pred.shape[-1]
        labels, predictions = (tensor.as_subclass(torch.Tensor) for tensor in (learn.y, learn.pred.argmax(-1)))
        counts = torch.bincount(labels * classes + predictions, minlength=classes * classes)
        self.total, self.count = self.total + counts.reshape(classes, classes), self.count + len(labels)

    @property
    def value(self) -> float | None:
        return FROM_CONFUSION[self.name](self.total.cpu().numpy()) if self.count else None


def measure_best(learn: Learner) -> None:
    "Add the metric of --best to a learner that lacks it. Raises ValueError if it does not measure accuracy."
    names, best = [metric.name for metric in learn.metrics], learn.options.best
    if "accuracy" not in names:
        raise ValueError(
            f"learn.metrics has {', '.join(names) or 'nothing'}: add fastai's accuracy, which a run records"
        )
    if best in FROM_CONFUSION and best not in names:
        learn.metrics = [*learn.metrics, ConfusionFigure(best)]


class Patience(Callback):
    "Ends the fit when --patience epochs in a row were not better than an earlier one."

    order = 110  # after all others, for which the epoch is one like any other

    def after_epoch(self) -> None:
        checkpoint = self.learn.callback(Checkpoint)
        if out_of_patience(checkpoint.finished, checkpoint.best.epoch, self.learn.options.patience):
            raise CancelFitException


def is_over(checkpoint: Checkpoint, patience: int | None) -> bool:
    "True if a run has had all its epochs, or is out of patience."
    over = out_of_patience(checkpoint.finished, checkpoint.best.epoch, patience)
    return checkpoint.finished >= checkpoint.epochs or over
