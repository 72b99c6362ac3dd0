"""fastai's GradientClip beside our accumulation and loss scaling: it clips the gradient of a whole step, not scaled."""

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip
from noise import write_noise

from recipes import rapid


class Norms(Callback):
    "The norm of the gradient at each optimiser step."

    run_valid = False

    def __init__(self, order):
        self.order, self.seen = order, []

    def before_step(self):
        grads = [each.grad for each in self.model.parameters() if each.grad is not None]
        self.seen.append(float(torch.nn.utils.get_total_norm(grads)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), valid=2)


@pytest.mark.parametrize(("bs", "accum", "precision"), [(24, 1, "fp32"), (8, 3, "fp32"), (8, 3, "fp16")])
def test_the_gradient_of_a_whole_step_is_clipped(photos, bs, accum, precision):
    given = {"arch": "test_vit", "weights": "none", "image_size": 32, "device": "cpu", "workers": 0, "epochs": 1}
    learn = rapid.learner(photos, **given, bs=bs, accum=accum, precision=precision)
    before, after = Norms(10.5), Norms(11.5)
    with learn.no_logging(), learn.no_bar():
        learn.fit(1, cbs=[before, GradientClip(0.5), after])
    assert len(after.seen) == 2  # of 48 photos, 24 to a step; the first batches of a step are not clipped
    assert min(before.seen) > 0.5
    assert after.seen == pytest.approx([0.5, 0.5], rel=1e-3)
    if precision == "fp16":
        assert max(before.seen) < 50  # the loss is scaled by 256
