"""Parts of the training loop that fastai lacks or gets wrong: accumulation, loss scaling, a Recorder without waits."""

import torch
from fastai.callback.core import Callback, CancelBatchException, CancelStepException
from fastai.callback.progress import ProgressCallback
from fastai.learner import AvgLoss, AvgSmoothLoss, Learner
from fastai.learner import Recorder as FastaiRecorder
from fastai.optimizer import OptimWrapper
from fastai.torch_core import find_bs
from torch import nn
from torch.utils.hooks import RemovableHandle

from toolkit import ranks


class Accumulate(Callback):
    """One optimiser step for every `n` mini-batches, with the gradient of the mean loss over all their samples.

    Each mini-batch's mean loss is weighted by its share of the group's samples, so a short batch or a short last group
    counts as it would in one big batch. The last group of an epoch steps however short it is; nothing is left for the
    next epoch or the next fit. fastai's GradientAccumulation counts samples across epochs and drops that remainder.
    Where the loss weights its classes, the mean is over the weights of all the group's samples, known at its end only.
    """

    order, run_valid = 5, False  # before LossScaler

    def __init__(self, n: int = 2):
        if n < 1:
            raise ValueError(f"cannot accumulate over {n} mini-batches: give 1 or more")
        self.n = n

    def before_train(self) -> None:
        self.opt.zero_grad()  # what an interrupted fit may have left
        self.group_weight = 0

    def before_backward(self) -> None:
        if self.n > 1 or is_shared(self.learn):
            weight = batch_weight(self.learn)
            self.learn.loss_grad = self.loss_grad * (weight / self._group_samples())
            self.group_weight = self.group_weight + weight

    def before_step(self) -> None:
        if (self.iter + 1) % self.n and self.iter + 1 < self.n_iter:
            raise CancelBatchException()
        if isinstance(self.group_weight, torch.Tensor):  # else it is the number of samples, as divided by above
            whole = ranks.add_up(self.group_weight) if is_shared(self.learn) else self.group_weight
            for weight in self.model.parameters():
                if weight.grad is not None:
                    weight.grad *= self._group_samples() / whole
        self.group_weight = 0

    def _group_samples(self) -> int:
        "Samples in the group of mini-batches that the present one belongs to."
        size = self.dl.bs
        total = self.n_iter * size if self.dl.drop_last else self.dl.n
        start = self.iter // self.n * self.n * size
        return min(self.n * size, total - start)


def batch_weight(learn: Learner) -> int | torch.Tensor:
    "The divisor of the present mini-batch's mean loss: its samples, or the sum of their classes' weights."
    weight, samples = getattr(learn.loss_func, "weight", None), own_samples(learn)
    if weight is None:  # fastai's MixUp puts a mean over samples in the loss's place
        return samples
    return weight[learn.yb[0]].sum() if samples else weight.new_zeros(())


def loss_sum(learn: Learner) -> torch.Tensor:
    "The mean loss of the present mini-batch times its samples; of several processes, what adds up to that."
    loss = learn.loss.detach().as_subclass(torch.Tensor)  # fastai's MixUp makes it a TensorCategory
    if is_shared(learn) and isinstance(weight := batch_weight(learn), torch.Tensor):
        return loss * (weight / ranks.add_up(weight.clone()) * all_samples(learn))
    return loss * own_samples(learn)


def is_shared(learn: Learner) -> bool:
    "Whether this process has a part of each mini-batch only, as in `toolkit.learner.distributed.together`."
    return getattr(learn.dl, "share", None) is not None


def own_samples(learn: Learner) -> int:
    "This process's samples in the present mini-batch; 0 where it has a stand-in, for there are fewer than processes."
    return len(learn.dl.share(all_samples(learn))) if is_shared(learn) else find_bs(learn.yb)


def all_samples(learn: Learner) -> int:
    "Samples in the present mini-batch, those of other processes among them."
    return min(learn.dl.bs, learn.dl.n - learn.iter * learn.dl.bs) if is_shared(learn) else find_bs(learn.yb)


class LossScaler(Callback):
    """torch's GradScaler around the optimiser step, on any device: what fp16 gradients need.

    Overflow is not a fault: that step is skipped and the scale halved. A fused optimiser skips it on the device, where
    a schedule counts it; another one makes the host wait for the gradients at each step, to know. fastai's own lives in
    a MixedPrecision callback that is tied to CUDA. Callbacks of a higher order (gradient clipping) see unscaled
    gradients.

    init_scale: 256. At torch's 65536 the first gradients of a new head on pretrained weights overflow, which cost a
    short run 5 of its steps. At 256 nothing is lost, by those or by the gradients of a loss of 4e-5 (LOG.md, 26 Nov
    2026).
    """

    order, run_valid = 10, False

    def __init__(self, init_scale: float = 2.0**8):
        self.init_scale = init_scale

    def before_fit(self) -> None:
        self.scaler = torch.amp.GradScaler(self.dls.device.type, self.init_scale)

    def before_backward(self) -> None:
        self.learn.loss_grad = self.scaler.scale(self.loss_grad)

    def before_step(self) -> None:
        self.overflow = True
        self.scaler.unscale_(self)
        self.scaler.step(self)  # calls self.step(), unless it waited and knows of a gradient that is not finite
        if self.overflow:
            raise CancelStepException()

    def after_step(self) -> None:
        self.scaler.update()
        if self._step_supports_amp_scaling:
            del self.opt.opt.found_inf

    @property
    def param_groups(self) -> list[dict]:
        "GradScaler asks this of the optimiser it steps, here this callback. fastai's own list takes a millisecond."
        return self.opt.opt.param_groups

    @property
    def _step_supports_amp_scaling(self) -> bool:
        "GradScaler asks this too; where it is true, it has put into `found_inf` whether the gradients are not finite."
        return bool(self.opt.opt.param_groups[0].get("fused"))

    def step(self, *_: object) -> None:
        self.overflow = False
        if self._step_supports_amp_scaling:
            self.opt.opt.found_inf = self.found_inf


class LastPhoto(Callback):
    """A mini-batch of one photo is trained on where torch's batch norm raises: a layer with one value per channel.

    Such a layer goes by its running statistics until the next epoch, which begins in training mode. All others, and
    those of larger mini-batches, do what torch does.
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


class FiniteLoss(Callback):
    """Ends a fit whose loss is NaN or infinite with a ValueError that names epoch, step and photos.

    On the CPU before that mini-batch can change a weight. On a GPU a few steps later, for want of asking it at each:
    `check` asks. An overflow of fp16 gradients, which LossScaler skips, leaves the loss finite.
    """

    order = -5

    def before_train(self) -> None:
        self._begin()

    def before_validate(self) -> None:
        self._begin()

    def _begin(self) -> None:
        device = self.dls.device
        self.first = torch.full((), -1, device=device)  # mini-batch with a loss that is not finite
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
        "End the fit where any loss of this pass was not finite, waiting for the device to know."
        self._stop_at(ranks.largest(int(self.first)) if is_shared(self.learn) else int(self.first))

    def _stop_at(self, batch: int) -> None:
        if batch < 0:
            return
        group = self.accumulate.n if hasattr(self.learn, "accumulate") else 1
        epoch = self.dls.train.draws.epoch + 1
        where = f"step {batch // group + 1}" if self.training else f"validation batch {batch + 1}"
        photos = ", ".join(self.dls.data.relative(photo) for photo in self.dl.batch_photos(batch))
        error = ValueError(
            f"the loss is not finite in epoch {epoch}, {where}: try a lower --lr, or --precision fp32\n"
            f"its photos: {photos}"
        )
        self.learn.end_with(ranks.end(error) if is_shared(self.learn) else error)


class _SmoothLoss(AvgSmoothLoss):
    "fastai's smoothed training loss, kept on the loss's own device instead of copied to the host at every batch."

    def accumulate(self, learn: Learner) -> None:
        self.count += 1
        self.val = torch.lerp(learn.loss.detach().mean().to(self.val.dtype), self.val, self.beta)


class _MeanLoss(AvgLoss):
    "fastai's validation loss; where classes have weights, the weighted mean over all photos, whatever the batches."

    def accumulate(self, learn: Learner) -> None:
        weight = batch_weight(learn)
        self.total += learn.to_detach(learn.loss.mean()) * weight
        self.count += weight


class Recorder(FastaiRecorder):
    "fastai's Recorder, which does not make a GPU wait for the host at each batch: losses come over once an epoch."

    def __init__(self, **options: object):
        super().__init__(**options)
        self.loss, self.smooth_loss = _MeanLoss(), _SmoothLoss()

    def before_train(self) -> None:
        super().before_train()
        self.smooth_loss.val = self.smooth_loss.val.to(self.dls.device)  # now, for at a batch the host would wait

    def after_batch(self) -> None:
        "fastai's, but for the rate: to have the hyperparameters of all layers' groups listed takes 2 ms of each step."
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
