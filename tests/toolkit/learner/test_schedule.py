"""Schedules against their formula or torch's own schedulers in a plain loop; in a resumed run and in other fits."""

import math

import pytest
import torch
from fastai.callback.core import Callback
from noise import write_noise
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR, StepLR

from recipes import hw1
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.learner.guards import NaNGuard
from toolkit.learner.schedule import OneCycle, Schedule
from toolkit.run import Run
from toolkit.training.checkpoint import Checkpoint


class Rates(Callback):
    order, run_valid = 80, False

    def before_fit(self):
        self.seen = []

    def before_step(self):
        self.seen.append(self.opt.opt.param_groups[0]["lr"])


@pytest.fixture(scope="module")
def learn(tmp_path_factory):
    "A learner with OneCycle alone, 5 steps an epoch."
    photos = write_noise(tmp_path_factory.mktemp("data"), valid=4)
    small = {"arch": "test_resnet", "weights": "none", "image_size": 32, "workers": 0, "precision": "fp32"}
    learn = hw1.learner(photos, bs=10, accum=1, device="cpu", **small)
    assert len(learn.dls.train) == 5
    learn.model = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(3 * 64, 10))
    learn.remove_cbs([learn.progress, learn.plateau])
    learn.add_cb(OneCycle())
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


def cosine_annealing(optimizer, steps):
    return CosineAnnealingLR(optimizer, T_max=steps)


def torchs_one_cycle(optimizer, steps):
    return OneCycleLR(optimizer, max_lr=2.0, total_steps=steps, cycle_momentum=False)


def warm_up_then_cosine(optimizer, steps):
    warm, then = LinearLR(optimizer, 0.1, total_iters=3), CosineAnnealingLR(optimizer, T_max=steps - 3)
    return SequentialLR(optimizer, [warm, then], milestones=[3])


def staircase(optimizer, steps):
    return StepLR(optimizer, step_size=2, gamma=0.5)


def straight_to_zero(optimizer, steps):
    return LambdaLR(optimizer, lambda step: 1 - step / steps)


def plain_loop(make, steps):
    "The learning rate of each of `steps` steps that torch's scheduler sets in a loop without fastai."
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer, steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.fixture
def scheduled(learn):
    "scheduled(make, every): the learner with that schedule instead of the recipe's."
    one_cycle, added = learn.one_cycle, []
    learn.remove_cb(one_cycle)

    def with_schedule(make, every="step"):
        learn.remove_cbs(added)
        added[:] = [Schedule(make, every)]
        return learn.add_cbs(added)

    with learn.no_logging():
        yield with_schedule
    learn.remove_cbs(added)
    learn.add_cb(one_cycle)


MAKES = [cosine_annealing, torchs_one_cycle, warm_up_then_cosine, staircase, straight_to_zero]


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's SequentialLR
@pytest.mark.parametrize("make", MAKES)
def test_a_schedule_sets_the_rates_of_torchs_scheduler_in_a_plain_loop(scheduled, make):
    for _ in range(2):  # a second fit begins anew
        rates = Rates()
        scheduled(make).fit(2, lr=1.0, cbs=rates)
        assert rates.seen == pytest.approx(plain_loop(make, 2 * 5))


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("make", MAKES)
def test_a_schedule_stepped_every_epoch_keeps_its_rate_inside_one(scheduled, make):
    rates = Rates()
    scheduled(make, every="epoch").fit(4, lr=1.0, cbs=rates)
    assert rates.seen == pytest.approx([rate for rate in plain_loop(make, 4) for _ in range(5)])


def test_groups_of_layers_start_at_their_share_of_the_rate(scheduled):
    learn, shares, rates = scheduled(cosine_annealing), [0.5, 1.0], []

    class Shared(Callback):
        order = 59  # before Schedule

        def before_fit(self):
            self.opt.opt.param_groups[:] = [
                dict(self.opt.opt.param_groups[0]) | {"lr_scale": share} for share in shares
            ]

        def before_step(self):
            rates.append([group["lr"] for group in self.opt.opt.param_groups])

    learn.fit(1, lr=1.0, cbs=Shared(), reset_opt=True)
    learn.create_opt()
    expected = [[share * rate for share in shares] for rate in plain_loop(cosine_annealing, 5)]
    assert [pair for step in rates for pair in step] == pytest.approx([pair for step in expected for pair in step])


def test_a_schedule_does_not_count_the_epoch_of_a_linear_probe(scheduled):
    class Probed(LinearProbe):
        "A probe of a network that has no classifier by timm's name: its head stays as it is."

        def before_train(self):
            if self.found is None:
                self.found, self.learn.dl = {"loss": 0.0}, []

    probe, rates = Probed(), Rates()
    scheduled(straight_to_zero, every="epoch").fit(5, lr=1.0, cbs=[probe, rates])
    assert rates.seen == pytest.approx([rate for rate in plain_loop(straight_to_zero, 4) for _ in range(5)])


def fit_in_run(learn, folder, epochs):
    "Train up to `epochs` epochs as a run does; return the learning rates of the steps."
    rates, checkpoint = Rates(), Checkpoint(Run(folder), epochs)
    learn.fit(epochs - checkpoint.finished, lr=1.0, cbs=[NaNGuard(), checkpoint, rates])
    return rates.seen


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("make", MAKES)
def test_a_resumed_schedule_goes_on_where_it_stood(scheduled, make, tmp_path):
    class Stop(Callback):
        def after_epoch(self):
            if self.epoch == 1:
                self.learn.end_with(KeyboardInterrupt())

    learn = scheduled(make)
    stop = Stop()
    learn.add_cb(stop)
    with pytest.raises(KeyboardInterrupt):
        fit_in_run(learn, tmp_path, 4)
    learn.remove_cb(stop)
    assert fit_in_run(learn, tmp_path, 4) == pytest.approx(plain_loop(make, 20)[5:])


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (cosine_annealing, "CosineAnnealingLR ends with T_max=10 "),
        (torchs_one_cycle, "OneCycleLR ends with total_steps=10 "),
        (warm_up_then_cosine, "CosineAnnealingLR ends with T_max=7 "),
        (lambda optimizer, steps: LinearLR(optimizer, 1, 0, steps), "LinearLR ends with total_iters=10 "),
    ],
)
def test_a_schedule_made_for_fewer_epochs_is_not_extended(scheduled, make, fault, tmp_path):
    learn = scheduled(make)
    fit_in_run(learn, tmp_path, 2)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=f"more epochs than this run .* {fault}"):
        fit_in_run(learn, tmp_path, 3)
    assert (tmp_path / "last.pt").read_bytes() == before


def warm_up_only(optimizer, steps):
    return LinearLR(optimizer, 0.1, total_iters=3)


@pytest.mark.parametrize("make", [staircase, straight_to_zero, warm_up_only])
def test_a_schedule_that_follows_is_extended(scheduled, make, tmp_path):
    learn = scheduled(make)
    fit_in_run(learn, tmp_path, 2)
    assert fit_in_run(learn, tmp_path, 4) == pytest.approx(plain_loop(make, 20)[10:])


def test_a_schedule_is_stepped_every_step_or_epoch():
    with pytest.raises(ValueError, match="stepped every 'batch': choose step or epoch"):
        Schedule(cosine_annealing, every="batch")
