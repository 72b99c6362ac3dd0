"""Gradient accumulation: one optimiser step for several batches; and how many samples of a batch are whose."""

import torch
from fastai.callback.core import Callback, CancelBatchException
from fastai.learner import Learner
from fastai.torch_core import find_bs

from toolkit import ranks
from toolkit.data.photo_loader import PhotoLoader


class AccumulateGradients(Callback):
    """One optimiser step for every `n` batches, with the gradient of the mean loss over all their samples.

    The mean loss of each batch is weighted by its share of the group's samples, so a short batch or a short last group
    counts as it would in one big batch. The last group of an epoch steps however short it is; nothing is left for the
    next epoch or the next fit. fastai's GradientAccumulation counts samples across epochs and drops that remainder.
    If the loss weights its classes, the mean is over the weights of all samples of the group. Their sum is known only
    at the group's end, so gradients are divided by it before the step.
    """

    name, order, run_valid = "accumulate", 5, False  # before LossScaler

    def __init__(self, n: int = 2):
        if n < 1:
            raise ValueError(f"cannot accumulate over {n} batches: give 1 or more")
        self.n = n

    def before_train(self) -> None:
        self.opt.zero_grad()  # an interrupted fit may have left gradients
        self.group_weight = 0

    def before_backward(self) -> None:
        if self.n > 1 or is_shared(self.learn):
            weight = batch_weight(self.learn)
            self.learn.loss_grad = self.loss_grad * (weight / self._group_samples())
            self.group_weight = self.group_weight + weight

    def before_step(self) -> None:
        if (self.iter + 1) % self.n and self.iter + 1 < self.n_iter:
            raise CancelBatchException()
        if isinstance(self.group_weight, torch.Tensor):  # else it is the number of samples, the divisor used above
            whole = ranks.add_up(self.group_weight) if is_shared(self.learn) else self.group_weight
            for weight in self.model.parameters():
                if weight.grad is not None:
                    weight.grad *= self._group_samples() / whole
        self.group_weight = 0

    def _group_samples(self) -> int:
        "Samples in the group of batches that the present one belongs to."
        size = self.dl.bs
        total = self.n_iter * size if self.dl.drop_last else self.dl.n
        start = self.iter // self.n * self.n * size
        return min(self.n * size, total - start)


def batch_weight(learn: Learner) -> int | torch.Tensor:
    "The divisor of the present batch's mean loss: its samples, or the sum of their classes' weights."
    weight, samples = getattr(learn.loss_func, "weight", None), own_samples(learn)  # torch's losses name it so
    if weight is None:  # fastai's MixUp puts a mean over samples in the loss's place
        return samples
    return weight[learn.yb[0]].sum() if samples else weight.new_zeros(())


def loss_sum(learn: Learner) -> torch.Tensor:
    "Sum of the present batch's per-sample losses; on several ranks, this rank's term of that sum."
    loss = learn.loss.detach().as_subclass(torch.Tensor)  # fastai's MixUp makes it a TensorCategory
    if is_shared(learn) and isinstance(weight := batch_weight(learn), torch.Tensor):
        return loss * (weight / ranks.add_up(weight.clone()) * all_samples(learn))
    return loss * own_samples(learn)


def is_shared(learn: Learner) -> bool:
    "True if this rank has only its slice of each batch, as in `toolkit.learner.distributed.distributed_gradients`."
    return isinstance(learn.dl, PhotoLoader) and learn.dl.share is not None


def own_samples(learn: Learner) -> int:
    "This rank's samples in the present batch; 0 if there are fewer samples than ranks and it loaded a placeholder."
    return len(learn.dl.share(all_samples(learn))) if is_shared(learn) else find_bs(learn.yb)


def all_samples(learn: Learner) -> int:
    "Samples in the present batch, those of other ranks included."
    return min(learn.dl.bs, learn.dl.n - learn.iter * learn.dl.bs) if is_shared(learn) else find_bs(learn.yb)
