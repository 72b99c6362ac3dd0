"""Two photos in one: fastai's MixUp and CutMix, one of them for each batch."""

import inspect

import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixHandler, MixUp
from fastai.learner import CastToTensor, Learner
from fastai.torch_core import find_bs
from torch import nn

from toolkit import ranks
from toolkit.ranges import check_ranges


class Mix(MixHandler):
    """fastai's MixUp or its CutMix for each batch; if both are given, one of them, drawn with equal chances.

    kinds: at least one of the two. A batch of one photo stays as it is.
    Source: https://arxiv.org/abs/1710.09412, https://arxiv.org/abs/1905.04899; timm.data.Mixup (`switch_prob`)
    """

    order = CastToTensor.order + 1  # labels are torch's own tensors by then, and so is the loss

    def __init__(self, *kinds: MixHandler):
        super().__init__()
        self.kinds = kinds

    def before_fit(self) -> None:
        self.stack_y = False  # left by the fit before: fastai would put its loss back if this fit ends early

    def before_batch(self) -> None:
        if find_bs(self.yb) == 1:
            self.lam, self.yb1 = torch.ones(1, device=self.x.device), self.yb
            return
        kind = self.kinds[int(torch.randint(len(self.kinds), ())) if len(self.kinds) > 1 else 0]
        kind.learn, kind.stack_y = self.learn, self.stack_y
        kind.before_batch()
        self.lam, self.yb1 = kind.lam, kind.yb1


def mixup_cutmix(mixup: float, cutmix: float) -> list[Callback]:
    """Return a Mix of MixUp and CutMix with these alphas, in a list; an alpha of 0 leaves one out, two an empty list.

    Raises ValueError for an alpha out of range, and on several ranks, each of which would mix its own photos by its own
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
    "The learner's loss; while a MixHandler trains, the loss that it has replaced by its own."
    loss = learn.loss_func
    while inspect.ismethod(loss) and isinstance(loss.__self__, MixHandler):
        loss = loss.__self__.old_lf
    return loss
