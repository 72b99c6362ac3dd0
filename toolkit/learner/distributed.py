"""Training on several processes, as `accelerate launch` or `torchrun` start them, that is the training of one.

Each rank takes its slice of every mini-batch, with the augmentation those photos have on one process, and the gradient
is that of the whole batch's mean, or of the whole group's where mini-batches accumulate. The head's dropout draws what
it draws on one process. What is left are rounding errors, and batch norm: on CUDA its statistics are those of the whole
mini-batch; on a CPU, for which torch has no such layer, each rank's own.

fastai's distrib_ctx (2.8.12) is not that. Its DistributedDL pads an epoch by repeating photos, which then count twice,
takes --bs for each rank's own and sends lists by CUDA; its DistributedTrainer averages ranks whatever their samples,
synchronises at each accumulated mini-batch, and replaces timm's BatchNormAct2d by a layer without its activation. What
it does right is done here too: torch's DistributedDataParallel around the model while it trains.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.learner import Learner
from timm.layers import convert_sync_batchnorm
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from toolkit import ranks
from toolkit.learner.callbacks import Accumulate, all_samples


@contextmanager
def together(learn: Learner) -> Iterator[None]:
    """Inside, the fits of `learn` are those of all ranks; after, the first is on its own and the others have ended.

    Raises ConnectionError where another rank is gone.
    """
    if ranks.count() == 1:
        yield
        return
    ranks.join()
    model = learn.model
    if learn.dls.device.type == "cuda":
        learn.model = model = convert_sync_batchnorm(model)
    added = [] if hasattr(learn, "accumulate") else [Accumulate(1)]
    with _shares(learn), learn.added_cbs([*added, Together()]), _dropout_of_one(learn), ranks.meeting():
        try:
            yield
        finally:
            learn.model = model
    ranks.separate()


@contextmanager
def _shares(learn: Learner) -> Iterator[None]:
    "Inside, the loaders give this rank's part of every mini-batch."
    for loader in learn.dls.loaders:
        loader.share = ranks.share
    try:
        yield
    finally:
        for loader in learn.dls.loaders:
            loader.share = None


class Together(Callback):
    """The gradient of all ranks' samples, by torch's DistributedDataParallel, in a step's last backward pass.

    learn.model is wrapped for a forward pass in training and is itself otherwise, so that what is saved, validated or
    averaged is the plain model.
    """

    order = 75  # after Checkpoint, which knows a resumed epoch's first mini-batch

    def before_fit(self) -> None:
        self.plain = self.model
        self.wrapped = DistributedDataParallel(self.model)  # gives all ranks the first one's weights

    def before_batch(self) -> None:
        self.whole = all_samples(self.learn)
        self.mine = ranks.share(self.whole)
        if self.training:
            group = self.accumulate.n
            self.wrapped.require_backward_grad_sync = (self.iter + 1) % group == 0 or self.iter + 1 == self.n_iter
            self.learn.model = self.wrapped
        elif not self.mine:
            self.learn.yb = ()  # of a stand-in, so that ranks have as many batches: nothing of it counts

    def after_pred(self) -> None:
        self.learn.model = self.plain

    def before_backward(self) -> None:
        self.learn.loss_grad = self.loss_grad * ranks.count()  # DistributedDataParallel means over ranks, we sum

    def before_validate(self) -> None:
        for buffer in self.model.buffers():  # batch norm's averages, where ranks have their own
            torch.distributed.broadcast(buffer, 0)

    def after_fit(self) -> None:
        self.wrapped = None  # and its hooks


@contextmanager
def _dropout_of_one(learn: Learner) -> Iterator[None]:
    "Inside, the model's head drops what it would on one process."
    head = getattr(learn.model, "forward_head", None)
    if head is None:
        yield
        return

    def forward_head(*inputs: Tensor, **options: bool) -> Tensor:
        with _WholeDropout(learn.together):
            return head(*inputs, **options)

    learn.model.forward_head = forward_head
    try:
        yield
    finally:
        del learn.model.forward_head


class _WholeDropout(TorchFunctionMode):
    "Dropout draws for the whole mini-batch, of which this rank takes its rows."

    def __init__(self, together: Together):
        self.together = together

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function is not F.dropout:
            return function(*arguments, **(options or {}))
        return self._dropout(*arguments, **(options or {}))

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return input
        rows = self.together.mine or range(1)
        with torch._C.DisableTorchFunction():
            kept = F.dropout(input.new_ones(self.together.whole, *input.shape[1:]), p)
        return input * kept[rows.start : rows.stop]
