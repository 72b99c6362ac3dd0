"""fastai's Recorder and progress bar, without a wait for the GPU at each batch."""

import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import AvgLoss, AvgSmoothLoss, Learner
from fastai.learner import Recorder as FastaiRecorder
from fastai.optimizer import OptimWrapper

from toolkit import ranks
from toolkit.learner.accumulate import batch_weight, is_shared


class _SmoothLoss(AvgSmoothLoss):
    "fastai's smoothed training loss, kept on the loss's own device instead of copied to the host at every batch."

    def accumulate(self, learn: Learner) -> None:
        self.count += 1
        self.val = torch.lerp(learn.loss.detach().mean().to(self.val.dtype), self.val, self.beta)


class _MeanLoss(AvgLoss):
    "fastai's validation loss; if classes have weights, the weighted mean over all photos, whatever the batches."

    def accumulate(self, learn: Learner) -> None:
        weight = batch_weight(learn)
        self.total += learn.to_detach(learn.loss.mean()) * weight
        self.count += weight


class Recorder(FastaiRecorder):
    "fastai's Recorder without a GPU wait at each batch: losses are copied to the host once an epoch."

    def __init__(self, **options: object):
        super().__init__(**options)
        self.loss, self.smooth_loss = _MeanLoss(), _SmoothLoss()

    def before_train(self) -> None:
        super().before_train()
        self.smooth_loss.val = self.smooth_loss.val.to(self.dls.device)  # here, because in a batch the host would wait

    def after_batch(self) -> None:
        "fastai's, but for the learning rate: its list of all groups' hyperparameters takes 2 ms of each step."
        if not self.yb:
            return
        for figure in self._train_mets if self.training else self._valid_mets:
            figure.accumulate(self.learn)
        if self.training:
            self.lrs.append(self._rate())
            self.losses.append(self.smooth_loss.value)
            self.learn.smooth_loss = self.losses[-1]

    def _rate(self) -> float:
        "The learning rate of the last parameter group, the head's."
        if isinstance(self.opt, OptimWrapper):
            return self.opt.opt.param_groups[-1]["lr"]
        return self.opt.hypers[-1]["lr"]

    def after_train(self) -> None:
        self._fetch()
        super().after_train()

    def after_validate(self) -> None:
        if is_shared(self.learn):
            for figure in self._valid_mets:
                figure.total, figure.count = ranks.total(figure.total), ranks.total(figure.count)
        super().after_validate()

    def after_fit(self) -> None:
        self._fetch()  # lr_find ends inside an epoch

    def _fetch(self) -> None:
        pending = [loss for loss in self.losses if loss.device.type != "cpu"]
        if pending:
            done = len(self.losses) - len(pending)
            self.losses[done:] = list(torch.stack(pending).cpu())


class Progress(ProgressCallback):
    "fastai's progress bar without the loss beside it, which would be copied to the host at every batch."

    def after_batch(self) -> None:
        self.pbar.update(self.iter + 1)
