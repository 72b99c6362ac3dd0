"""The temperature of a probed head: by torch's own optimiser, in a run that is resumed, and where nothing is scaled."""

import pytest
import torch
from fastai.callback.core import Callback
from torch.nn import functional as F

from recipes import digits
from toolkit.finetuning.frozen_batch_norm import FrozenBatchNorm
from toolkit.finetuning.head_temperature import FACTORS, HeadTemperature
from toolkit.finetuning.linear_probe import LinearProbe, linear_heads
from toolkit.learner.schedule import OneCycle
from toolkit.training.begin import begin
from toolkit.training.fit import fit


@pytest.fixture(scope="module")
def folder(few_digits):
    return few_digits


def learner(folder, *callbacks):
    learn = digits.learner(folder, device="cpu")
    learn.remove_cbs([learn.progress, learn.one_cycle])
    learn.add_cbs([LinearProbe(), HeadTemperature(), OneCycle(), FrozenBatchNorm(), *callbacks])
    learn.model.drop_rate = 0.0  # so that a pass can be repeated
    return learn


def head_of(learn):
    return [weight.detach().clone() for weight in linear_heads(learn.model).parameters()]


class FirstBatch(Callback):
    "Makes the logits of the probe `louder`, and keeps the head and the logits of the first batch of training."

    order, logits = 95, None  # before HeadTemperature

    def __init__(self, louder):
        self.louder = louder

    def before_batch(self):
        if self.training and self.logits is None:
            with torch.no_grad():
                for weight in linear_heads(self.model).parameters():
                    weight.mul_(self.louder)
                self.head, self.logits, self.labels = head_of(self.learn), self.model(self.x), self.y

    def after_pred(self):
        if self.training and not hasattr(self, "scaled"):
            self.scaled, self.answer = head_of(self.learn), self.learn.pred.detach()


@pytest.mark.parametrize("louder", [0.2, 1.0, 20.0])
def test_the_head_is_scaled_to_the_least_loss_on_the_first_batch_but_never_up(folder, louder):
    first = FirstBatch(louder)
    learn = learner(folder, first)
    with learn.no_logging():
        learn.fit(1)
        assert learn.head_temperature.factor is None  # the probe is validated as it is
        learn.fit(1)
    exponent = torch.zeros((), dtype=torch.double, requires_grad=True)
    search = torch.optim.LBFGS([exponent], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        search.zero_grad()
        value = F.cross_entropy(first.logits.double() * exponent.exp(), first.labels)
        value.backward()
        return value

    search.step(loss)
    best, factor, step = exponent.exp().item(), learn.head_temperature.factor, FACTORS[1] / FACTORS[0]
    assert factor == 1 if best > 1 else factor / step < best < factor * step
    assert (best > 1) is (louder == 0.2)
    assert torch.allclose(first.answer, factor * first.logits, atol=1e-4)
    for old, new in zip(first.head, first.scaled, strict=True):
        assert torch.equal(new, factor * old)


def test_it_is_scaled_once(folder):
    learn = learner(folder)
    with learn.no_logging():
        learn.fit(2)
        factor = learn.head_temperature.factor
        assert factor is not None
        learn.head_temperature._scale = None
        learn.fit(1)
        learn.validate()
    assert learn.head_temperature.factor == factor


def test_a_run_that_is_resumed_after_its_probe_is_the_run_that_was_not_interrupted(folder, tmp_path):
    "best.safetensors has the head of the probe, which is not scaled."
    whole = learner(folder)
    fit(whole, begin(tmp_path / "whole", whole), 2)
    begun = learner(folder)
    fit(begun, begin(tmp_path / "run", begun), 1)
    assert begun.head_temperature.factor is None
    again = learner(folder)
    fit(again, begin(tmp_path / "run", again), 2)
    assert again.head_temperature.factor == whole.head_temperature.factor
    assert again.head_temperature.factor is not None
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_a_probe_nothing_is_scaled(folder):
    learn = learner(folder)
    learn.remove_cb(learn.probe)
    with learn.no_logging():
        learn.fit(1)
    assert learn.head_temperature.factor is None
