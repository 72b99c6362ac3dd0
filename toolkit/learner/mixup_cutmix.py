"""Two photos in one: fastai's MixUp and CutMix, one of them for each mini-batch."""

import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixHandler, MixUp
from fastai.learner import CastToTensor, Learner
from fastai.torch_core import find_bs
from torch import nn

from toolkit import ranks
from toolkit.ranges import check_ranges


class Mix(MixHandler):
    """fastai's MixUp or its CutMix for each mini-batch; if both are given, one of them, each as often as the other.

    kinds: at least one of the two. A mini-batch of one photo stays as it is.
    Source: https://arxiv.org/abs/1710.09412, https://arxiv.org/abs/1905.04899; timm.data.Mixup (`switch_prob`)
    """

    order = CastToTensor.order + 1  # labels are torch's own tensors by then, and so is the loss

    def __init__(self, *kinds: MixHandler):
        super().__init__()
        self.kinds = kinds

    def before_fit(self) -> None:
        self.stack_y = False  # of the fit before: fastai's would put its loss back where this one ends early

    def before_batch(self) -> None:
        if find_bs(self.yb) == 1:
            self.lam, self.yb1 = torch.ones(1, device=self.x.device), self.yb
            return
        kind = self.kinds[int(torch.randint(len(self.kinds), ())) if len(self.kinds) > 1 else 0]
        kind.learn, kind.stack_y = self.learn, self.stack_y
        kind.before_batch()
        self.lam, self.yb1 = kind.lam, kind.yb1


def mixes(mixup: float, cutmix: float) -> list[Callback]:
    """A Mix of MixUp and CutMix with these alphas, without those that are 0.

    Raises ValueError for one out of range, and on several processes, each of which would mix its own photos by its own
    draws.
    """
    check_ranges({"mixup": mixup, "cutmix": cutmix})
    if (mixup or cutmix) and ranks.count() > 1:
        name = "mixup" if mixup else "cutmix"
        raise ValueError(
            f"--{name} on {ranks.count()} processes: each would mix its own photos; leave it out, or use one"
        )
    kinds = [kind(alpha) for kind, alpha in ((MixUp, mixup), (CutMix, cutmix)) if alpha]
    return [Mix(*kinds)] if kinds else []


def own_loss(learn: Learner) -> nn.Module:
    "The learner's loss, which a MixHandler replaces by its own while it trains."
    loss = learn.loss_func
    while isinstance(handler := getattr(loss, "__self__", None), MixHandler):
        loss = handler.old_lf
    return loss
