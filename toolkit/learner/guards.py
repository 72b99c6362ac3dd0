"""Guards of a fit: against losses that are not finite, batches of one photo, callbacks that collide with ours, and
callbacks that act in fastai's other fits.
"""

import torch
from fastai.callback.core import Callback, GatherPredsCallback
from fastai.callback.fp16 import MixedPrecision, NonNativeMixedPrecision
from fastai.callback.schedule import ParamScheduler
from fastai.callback.training import GradientAccumulation
from fastai.torch_core import find_bs
from torch import nn
from torch.utils.hooks import RemovableHandle

from toolkit import ranks
from toolkit.learner.accumulate import is_shared


class NaNGuard(Callback):
    """Ends a fit whose loss is NaN or infinite with a ValueError that names epoch, step and photos.

    On a CPU it does so before that batch can change a weight. On a GPU it does so a few steps later, because it does
    not wait for the device at each step; `check` waits. An overflow of fp16 gradients, which LossScaler skips, leaves
    the loss finite.
    """

    name, order = "nan_guard", -5

    def before_train(self) -> None:
        self._start()

    def before_validate(self) -> None:
        self._start()

    def _start(self) -> None:
        device = self.dls.device
        self.first = torch.full((), -1, device=device)  # number of the first batch with a loss that is not finite
        self.seen = torch.full((), -1, pin_memory=device.type == "cuda")  # the same, as far as the host knows

    def after_loss(self) -> None:
        finite = torch.isfinite(self.loss.detach()).all() | (self.first >= 0)
        self.first = torch.where(finite, self.first, self.iter)
        self.seen.copy_(self.first, non_blocking=True)
        if not is_shared(self.learn):
            self._stop_at(int(self.seen))

    def before_step(self) -> None:
        if is_shared(self.learn):
            self._stop_at(ranks.largest(int(self.seen)))

    def after_train(self) -> None:
        self.check()

    def after_validate(self) -> None:
        self.check()

    def check(self) -> None:
        "End the fit if any loss of this pass was not finite. Waits for the device."
        self._stop_at(ranks.largest(int(self.first)) if is_shared(self.learn) else int(self.first))

    def _stop_at(self, batch: int) -> None:
        if batch < 0:
            return
        epoch = self.dls.train.sampler_state.epoch + 1
        where = f"step {batch // self.learn.accum + 1}" if self.training else f"validation batch {batch + 1}"
        photos = ", ".join(self.dls.data.relative(photo) for photo in self.dl.batch_photos(batch))
        error = ValueError(
            f"the loss is not finite in epoch {epoch}, {where}: try a lower --lr, or --precision fp32\n"
            f"its photos: {photos}"
        )
        self.learn.end_with(ranks.end(error) if is_shared(self.learn) else error)


class LastPhoto(Callback):
    """Trains on a batch of one photo, for which torch's batch norm raises: a layer with one value per channel.

    Such a layer uses its running statistics until the next epoch, which begins in training mode. All other layers, and
    all layers for larger batches, do what torch does.
    """

    order, run_valid = 90, False

    def before_fit(self) -> None:
        self.watches: list[RemovableHandle] = []

    def before_batch(self) -> None:
        self.after_batch()
        if self.xb and find_bs(self.xb) == 1:
            norms = (layer for layer in self.model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm))
            own = [layer for layer in norms if not isinstance(layer, nn.SyncBatchNorm)]
            self.watches = [layer.register_forward_pre_hook(_by_running_statistics) for layer in own]

    def after_batch(self) -> None:
        for watch in self.watches:
            watch.remove()
        self.watches = []


def _by_running_statistics(layer: nn.modules.batchnorm._BatchNorm, inputs: tuple[torch.Tensor]) -> None:
    if inputs[0].numel() == layer.num_features:
        layer.eval()


def checked_callback(given: Callback | type[Callback]) -> Callback:
    "The callback, made if it is a class. Raises ValueError for one of fastai's that repeats a part of our Learner."
    callback = given() if isinstance(given, type) else given
    if isinstance(callback, MixedPrecision | NonNativeMixedPrecision):
        raise ValueError("fastai's MixedPrecision beside our own precision: call learn.to_fp16() or to_bf16() instead")
    if isinstance(callback, GradientAccumulation):
        raise ValueError(
            "fastai's GradientAccumulation beside our own: give --accum instead, accum= in a notebook, the number "
            "of batches to an optimiser step"
        )
    return callback


class Validation(Callback):
    "Present while `Learner.validate` runs, which fastai runs as a fit."


OTHER_FITS = (ParamScheduler, GatherPredsCallback, Validation)
"Callbacks of fit_one_cycle, lr_find and the like, of get_preds, of our Learner's validate."
