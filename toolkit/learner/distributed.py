"""Training on several ranks, as `accelerate launch` or `torchrun` start them, with the results of one process.

Each rank takes its slice of every batch, with the augmentation those photos have on one process. The gradient is that
of the whole batch's mean loss, or of the whole group's if gradients are accumulated. The head's dropout draws what it
draws on one process. Rounding errors remain, and batch norm: on CUDA its statistics are those of the whole batch; on a
CPU, for which torch has no such layer, each rank has its own.

fastai's distrib_ctx (2.8.12) does not do that. Its DistributedDL pads an epoch by repeating photos, which then count
twice, takes --bs for each rank's own and sends lists by CUDA. Its DistributedTrainer averages ranks whatever their
samples, synchronises at each accumulated batch, and replaces timm's BatchNormAct2d by a layer without its activation.
What it does right is done here too: torch's DistributedDataParallel around the model while it trains.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from timm.layers import convert_sync_batchnorm
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from toolkit import ranks
from toolkit.learner.accumulate import AccumulateGradients, all_samples
from toolkit.learner.learner import Learner


@contextmanager
def distributed_gradients(learn: Learner) -> Iterator[None]:
    """Inside, all ranks train `learn` together; after it the first rank is on its own and the others have ended.

    Raises ConnectionError if another rank is gone.
    """
    if ranks.count() == 1:
        yield
        return
    ranks.join()
    model = learn.model
    if learn.dls.device.type == "cuda":
        learn.model = model = convert_sync_batchnorm(model)
    added = [] if learn.callback(AccumulateGradients) else [AccumulateGradients(1)]
    gradients = DistributedGradients()
    with _shares(learn), learn.added_cbs([*added, gradients]), _dropout_of_one(learn, gradients), ranks.meeting():
        try:
            yield
        finally:
            learn.model = model
    ranks.separate()


@contextmanager
def _shares(learn: Learner) -> Iterator[None]:
    "Inside, the data loaders give this rank's slice of every batch."
    for loader in learn.dls.loaders:
        loader.share = ranks.share
    try:
        yield
    finally:
        for loader in learn.dls.loaders:
            loader.share = None


class DistributedGradients(Callback):
    """The gradient of all ranks' samples, by torch's DistributedDataParallel, in a step's last backward pass.

    learn.model is wrapped for forward passes in training only: the plain model is saved, validated and averaged.
    """

    order = 75  # after Checkpoint, which knows a resumed epoch's first batch

    def before_fit(self) -> None:
        self.plain = self.model
        self.wrapped = DistributedDataParallel(self.model)  # gives all ranks the first one's weights

    def before_batch(self) -> None:
        self.whole = all_samples(self.learn)
        self.mine = ranks.share(self.whole)
        if self.training:
            ends_step = (self.iter + 1) % self.learn.accum == 0 or self.iter + 1 == self.n_iter
            self.wrapped.require_backward_grad_sync = ends_step
            self.learn.model = self.wrapped
        elif not self.mine:
            self.learn.yb = ()  # a placeholder, so that ranks have equally many batches: nothing of it counts

    def after_pred(self) -> None:
        self.learn.model = self.plain

    def before_backward(self) -> None:
        self.learn.loss_grad = self.loss_grad * ranks.count()  # DistributedDataParallel averages over ranks, we sum

    def before_validate(self) -> None:
        for buffer in self.model.buffers():  # batch norm's averages, which differ by rank on a CPU
            torch.distributed.broadcast(buffer, 0)

    def after_fit(self) -> None:
        self.wrapped = None  # and its hooks


@contextmanager
def _dropout_of_one(learn: Learner, gradients: DistributedGradients) -> Iterator[None]:
    "Inside, the model's head drops the units that it would drop on one process."
    head = getattr(learn.model, "forward_head", None)  # timm's models have one
    if head is None:
        yield
        return

    def forward_head(*inputs: Tensor, **options: bool) -> Tensor:
        with _WholeDropout(gradients):
            return head(*inputs, **options)

    learn.model.forward_head = forward_head
    try:
        yield
    finally:
        del learn.model.forward_head


class _WholeDropout(TorchFunctionMode):
    "Dropout draws for the whole batch; this rank takes its rows of them."

    def __init__(self, gradients: DistributedGradients):
        self.gradients = gradients

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function is not F.dropout:
            return function(*arguments, **(options or {}))
        return self._dropout(*arguments, **(options or {}))

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return input
        rows = self.gradients.mine or range(1)
        with torch._C.DisableTorchFunction():
            kept = F.dropout(input.new_ones(self.gradients.whole, *input.shape[1:]), p)
        return input * kept[rows.start : rows.stop]
