"""The one-cycle schedule against its formula, and what a resumed or another kind of fit makes of it."""

import math

import pytest
import torch
from fastai.callback.core import Callback
from torch import nn

from recipes import digits


class Rates(Callback):
    order, run_valid = 80, False

    def before_fit(self):
        self.seen = []

    def before_step(self):
        self.seen.append(self.opt.opt.param_groups[0]["lr"])


@pytest.fixture(scope="module")
def learn(tmp_path_factory):
    learn = digits.learner(tmp_path_factory.mktemp("digits") / "data", device="cpu", bs=256)
    learn.model = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(3 * 64, 10))
    learn.remove_cb(learn.progress)
    return learn


def cosine(start, end, share):
    return start + (end - start) * (1 - math.cos(math.pi * share)) / 2


def test_one_cycle_warms_up_over_a_quarter_and_anneals(learn):
    rates = Rates()
    with learn.no_logging():
        learn.fit(4, lr=1.0, cbs=rates)
    steps = 4 * 5
    expected = [
        cosine(1 / 25, 1, 4 * step / steps) if step < 5 else cosine(1, 1e-5, (step / steps - 0.25) / 0.75)
        for step in range(steps)
    ]
    assert rates.seen == pytest.approx(expected, rel=1e-6)


def test_a_second_fit_goes_by_its_own_rate(learn):
    "torch's schedulers keep the rate of the first one in the optimiser's groups."
    first, second = Rates(), Rates()
    with learn.no_logging():
        learn.fit(2, lr=1.0, cbs=first)
        learn.fit(2, lr=1e-2, cbs=second)
    assert second.seen == pytest.approx([rate * 1e-2 for rate in first.seen], rel=1e-6)


def test_given_more_epochs_a_resumed_schedule_is_the_longer_ones_rest(learn):
    class Resumed(Callback):  # as a run's Checkpoint: it counts the finished epochs and restores the scheduler's state
        order = 70

        def count_epochs(self):
            self.learn.epochs_done += 1

        def before_fit(self):
            self.one_cycle.scheduler.load_state_dict(state)
            self.opt.opt.param_groups[0]["lr"] = 1e-9

    rates, rest = Rates(), Rates()
    with learn.no_logging():
        learn.fit(1, lr=1.0)
        state = learn.one_cycle.scheduler.state_dict()
        learn.fit(3, lr=1.0, cbs=rates)
        learn.fit(2, lr=1.0, cbs=[Resumed(), rest])
    assert rest.seen == pytest.approx(rates.seen[5:], rel=1e-9)


def test_predictions_and_fit_one_cycle_leave_the_schedule_alone(learn):
    with learn.no_logging():
        learn.fit(1, lr=1.0)
        before = learn.one_cycle.scheduler
        learn.get_preds()
        assert learn.one_cycle.scheduler is before
        learn.fit_one_cycle(1, 1e-3)
    assert learn.one_cycle.scheduler is before
    assert torch.isfinite(learn.recorder.lrs[-1] * torch.ones(()))
    assert max(learn.recorder.lrs) == pytest.approx(1e-3, rel=0.1)
