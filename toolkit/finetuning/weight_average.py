"""An average of the weights being trained, which is validated and kept in their place."""

import torch
from fastai.callback.core import Callback
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from toolkit.learner.performance import by_dtype


class WeightAverage(Callback):
    """An average of weights and buffers over the optimiser steps of a fit, which counts in place of the weights.

    kind: `ema`, an exponential average with a weight of 1 / horizon for each new step, or `last`, the plain mean over
    the last `horizon` steps; horizon is `share` of the fit's steps. torch's own AveragedModel, `averaged`, keeps it.
    An epoch's loss and metrics are those of the average; those of the weights if no step has entered it yet. In a run
    best.safetensors holds what was validated, `validated`. After a fit in a notebook the model has the last epoch's.
    Training itself goes on with the weights as they are.
    Source: https://arxiv.org/abs/1803.05407, https://docs.pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema

    Raises ValueError for another kind, and for a share that is not above 0 and at most 1.
    """

    name = "average"  # its key in last.pt
    order = 49  # before Checkpoint, which keeps the model that was trained
    validated: nn.Module | None = None  # the model of this epoch's figures
    trained: nn.Module | None = None  # while the average sees a batch

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
        self.validated = None

    def after_step(self) -> None:
        self.averaged.steps += 1
        if self.averaged.steps > self.first:
            self._update()
        else:  # a run of fewer epochs, which is given more now, had an average already
            self.averaged.n_averaged.zero_()

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

    def before_batch(self) -> None:
        if not self.training and self._has_started():
            self.trained, self.learn.model = self.model, self.averaged.module

    def after_batch(self) -> None:
        self._put_back()

    def after_validate(self) -> None:
        self.validated = self.averaged.module if self._has_started() else self.model

    def after_cancel_fit(self) -> None:
        self._put_back()

    def _put_back(self) -> None:
        if self.trained is not None:
            self.learn.model, self.trained = self.trained, None

    def after_fit(self) -> None:
        if self.validated not in (None, self.model) and not self.learn.in_run:  # a run loads its best
            self.model.load_state_dict(self.validated.state_dict())
        self.validated = None

    def _has_started(self) -> bool:
        "True if a step has entered the average; before that it is the model as the fit found it."
        return bool(self.averaged.n_averaged > 0)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
