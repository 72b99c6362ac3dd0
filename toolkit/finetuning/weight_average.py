"""An average of the weights being trained; after each epoch both are validated and the better one is used."""

from copy import deepcopy

import torch
from fastai.callback.core import Callback
from fastai.learner import AvgMetric, Metric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from toolkit import ranks
from toolkit.learner.performance import by_dtype

AVERAGES = ["ema", "last", "none"]


class WeightAverage(Callback):
    """An average of weights and buffers over the optimiser steps of a fit, validated beside the weights themselves.

    kind: `ema`, an exponential average with a weight of 1 / horizon for each new step, or `last`, the plain mean over
    the last `horizon` steps; horizon is `share` of the fit's steps. torch's own AveragedModel, `averaged`, keeps it.
    At an epoch's end `better` is the one of the two with the higher accuracy, the average if they are equal; the loss
    and metrics of the epoch are those of `better`. In a run best.safetensors holds it. After a fit in a notebook
    the model has the last epoch's `better`. An average that no step has entered yet is not considered. Training itself
    goes on with the weights as they are.
    Source: https://arxiv.org/abs/1803.05407, https://docs.pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema

    Raises ValueError for another kind, and for a share that is not above 0 and at most 1.
    """

    name = "average"  # its key in last.pt
    order = 49  # before the Recorder, whose figures it may replace
    better: nn.Module | None = None

    def __init__(self, kind: str = "ema", share: float = 0.1):
        if kind not in ("ema", "last"):
            raise ValueError(f"unknown average {kind!r}: choose ema or last")
        if not 0 < share <= 1:
            raise ValueError(f"an average over {share} of the steps: give more than 0, at most 1")
        self.kind, self.share = kind, share

    def before_fit(self) -> None:
        self.run = self.learn.is_plain_fit
        if not self.run:
            return
        steps = max(self.learn.optimizer_steps(), 1)
        horizon = max(self.share * steps, 1)
        mean = get_ema_multi_avg_fn(1 - 1 / horizon) if self.kind == "ema" else get_swa_multi_avg_fn()
        self.averaged = AveragedModel(self.model, multi_avg_fn=mean, use_buffers=True).eval()
        self.pairs = by_dtype(_tensors(self.averaged.module), _tensors(self.model))
        self.averaged.register_buffer("steps", torch.tensor(0))  # taken, those of a resumed run included
        vars(self.averaged.module).pop("forward_head", None)  # `toolkit.learner.distributed` replaced it
        self.first = steps - horizon if self.kind == "last" else 0

    def before_train(self) -> None:
        self.better = self.model

    def after_step(self) -> None:
        self.averaged.steps += 1
        if self.averaged.steps > self.first:
            self._update()

    @torch.no_grad()
    def _update(self) -> None:
        """Do what AveragedModel.update_parameters does, without its search for both models' tensors at each step: 11 of
        its 13 ms for a mobilenetv2. Tensors that are not floating point are copied from the trained model.
        """
        for averaged, trained in self.pairs:
            if self.averaged.n_averaged > 0 and averaged[0].is_floating_point():
                self.averaged.multi_avg_fn(averaged, trained, self.averaged.n_averaged)
            else:
                torch._foreach_copy_(averaged, trained)
        self.averaged.n_averaged += 1

    def before_validate(self) -> None:
        self.figures = [deepcopy(figure) for figure in self._recorded()]
        for figure in self.figures:
            figure.reset()

    def after_batch(self) -> None:
        "Validate the average on the batch that the weights were just validated on."
        if self.training or not self.yb or not self._has_started():
            return
        kept = self.pred, self.loss
        self.learn.pred = self.averaged(*self.xb)
        self.learn.loss = self.loss_func(self.pred, *self.yb)
        for figure in self.figures:
            figure.accumulate(self.learn)
        self.learn.pred, self.learn.loss = kept

    def after_validate(self) -> None:
        if not self._has_started():
            return
        if _over_ranks(self.figures[1]) >= _over_ranks(self.recorder.metrics[0]):
            self.better = self.averaged.module
            for recorded, own in zip(self._recorded(), self.figures, strict=True):
                vars(recorded).update(vars(own))

    def after_fit(self) -> None:
        if self.better not in (None, self.model) and not self.learn.in_run:  # a run loads its best
            self.model.load_state_dict(self.better.state_dict())
        self.better = None

    def _has_started(self) -> bool:
        "True if a step has entered the average; before that it is the model as the fit found it."
        return bool(self.averaged.n_averaged > 0)

    def _recorded(self) -> list[Metric]:
        "The Recorder's validation figures: the loss, the accuracy and any other metrics."
        return [self.recorder.loss, *self.recorder.metrics]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _over_ranks(metric: AvgMetric) -> float:
    return float(ranks.total(metric.total)) / ranks.total(metric.count)
