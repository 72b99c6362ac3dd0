"""A learner after `restoring_state` is what it was before, and the seconds of an epoch are those that epochs take."""

from functools import partial

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from noise import write_noise
from torch import nn

from recipes import hw1, rapid
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.loss_scaler import LossScaler
from toolkit.learner.random_state import random_state
from toolkit.search.epoch_time import seconds_per_epoch
from toolkit.search.snapshot import restoring_state


class Kept(Callback):
    "A callback with what callbacks keep: averaged weights, a list, a number."

    def __init__(self):
        self.averaged, self.steps, self.names = nn.Linear(2, 2), 0, ["begun"]

    def after_step(self):
        self.steps += 1
        self.names.append("step")
        with torch.no_grad():
            self.averaged.weight += 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "48 photos to train, 30 to validate."
    return write_noise(tmp_path_factory.mktemp("noise"), valid=10)


def small(data, **options):
    learn = hw1.learner(
        data, arch="test_resnet", weights="none", image_size=32, device="cpu", precision="fp32",
        **{"bs": 16, "accum": 1, "workers": 0} | options,
    )  # fmt: skip
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def state(learn):
    "Everything that a fit goes by, copied."
    draws = learn.dls.train.sampler_state
    return {
        "model": {name: tensor.clone() for name, tensor in learn.model.state_dict().items()},
        "gradients": [None if weight.grad is None else weight.grad.clone() for weight in learn.model.parameters()],
        "frozen": [weight.requires_grad for weight in learn.model.parameters()],
        "modes": [module.training for module in learn.model.modules()],
        "opt": learn.opt and {name: value.clone() for name, value in flat(learn.opt.state_dict()).items()},
        "rates": learn.opt and [group["lr"] for group in learn.opt.opt.param_groups],
        "draws": dict(vars(draws)),
        "loaders": [(dl.bs, dl.fake_l.num_workers, dl.rng.getstate()) for dl in learn.dls.loaders],
        "callbacks": [(id(cb), sorted(vars(cb))) for cb in learn.cbs],
        "attributes": sorted(vars(learn)),
        "losses": list(getattr(learn.recorder, "losses", [])),
        "loss": getattr(learn.recorder.loss, "total", None),
        "random": random_state(),
        "lr": learn.lr,
    }


def flat(optimiser):
    return {f"{index}.{name}": value for index, kept in optimiser["state"].items() for name, value in kept.items()}


def assert_same(one, other):
    assert bits(one) == bits(other)


def bits(value):
    if isinstance(value, torch.Tensor):
        return value.dtype, value.numpy(force=True).tobytes()
    if isinstance(value, dict):
        return {name: bits(part) for name, part in value.items()}
    return [bits(part) for part in value] if isinstance(value, (list, tuple)) else value


def disturb(learn):
    "All that a trial may do, and more."
    learn.dls.train.bs, learn.dls.train.fake_l.num_workers = 8, 1
    learn.add_cb(AccumulateGradients(3))
    learn.fit(1, lr=0.1)
    learn.fit(1, lr=0.1, reset_opt=True)
    learn.freeze()
    learn.remove_cb(learn.recorder)
    learn.lr, learn.path = 7.0, None
    next(learn.model.children()).eval()
    np.random.rand()


def test_a_new_learner_is_what_it_was_after_a_trial(data):
    learn = small(data)
    before = state(learn)
    with restoring_state(learn):
        disturb(learn)
    assert learn.opt is None
    assert_same(state(learn), before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_trained_learner_is_what_it_was_though_the_trial_failed(data, error):
    learn = small(data)
    learn.add_cbs([LossScaler(init_scale=2.0), Kept()])
    learn.fit(1)
    learn.one_batch(0, learn.dls.train.one_batch())  # leaves gradients
    before, kept, opt = state(learn), learn.kept, learn.opt
    scale, scheduler = learn.loss_scaler.scaler.state_dict(), learn.plateau.scheduler.state_dict()
    averaged, steps = kept.averaged.weight.clone(), kept.steps

    def fail(learn):
        disturb(learn)
        raise error

    with pytest.raises(error), restoring_state(learn):
        fail(learn)
    assert learn.opt is opt
    assert_same(state(learn), before)
    assert (learn.loss_scaler.scaler.state_dict(), learn.plateau.scheduler.state_dict()) == (scale, scheduler)
    assert_same((kept.averaged.weight, kept.steps, len(kept.names)), (averaged, steps, steps + 1))


def test_training_goes_on_as_if_there_had_been_no_trial(data):
    plain = small(data, accum=2)
    plain.fit(2, lr=1e-3)
    tried = small(data, accum=2)
    with restoring_state(tried):
        disturb(tried)
    tried.fit(2, lr=1e-3)
    assert_same(state(tried)["model"], state(plain)["model"])
    assert_same(tried.recorder.losses, plain.recorder.losses)


def test_ctrl_c_in_the_middle_of_a_step_leaves_the_learner_as_it_was(data):
    class Interrupt(Callback):
        run_valid = False

        def after_backward(self):
            if self.iter == 1:
                raise KeyboardInterrupt

    learn = small(data)
    before = state(learn)
    with pytest.raises(KeyboardInterrupt), restoring_state(learn):
        learn.fit(1, cbs=Interrupt())
    assert_same(state(learn), before)


class Clock:
    "A clock that goes only when told to: epochs of 0.5 s to begin a pass, 0.01 s a batch to read, 0.03 s to compute."

    def __init__(self, monkeypatch, learn):
        self.now = self.steps = self.passes = 0
        monkeypatch.setattr("toolkit.search.epoch_time.perf_counter", lambda: self.now)
        for loader in learn.dls.loaders:
            loader.before_iter = partial(self.go, 0.5, loader.before_iter)
            loader.do_batch = partial(self.go, 0.01, loader.do_batch)
        learn.add_cb(Computing(self))

    def go(self, seconds, function=lambda: None, *arguments):
        self.now += seconds
        return function(*arguments)


class Computing(Callback):
    def __init__(self, clock):
        self.clock = clock

    def after_pred(self):
        self.clock.steps += 1
        self.clock.go(0.03 if self.clock.steps > 1 else 3.0)


def test_the_seconds_of_an_epoch_are_those_of_its_batches_and_passes_without_the_slow_first_step(data, monkeypatch):
    learn = small(data, bs=2, accum=3)
    clock, before = Clock(monkeypatch, learn), state(learn)
    seconds = seconds_per_epoch(learn, 5)
    assert_same(state(learn), before)
    assert clock.steps == 3 + 6 + 1 + 5  # of training whole optimiser steps, of validation batches
    photos = len(learn.dls.data.train) + len(learn.dls.data.valid)
    assert seconds == pytest.approx(2 * 0.5 + 0.04 * photos / 2)


def test_batches_that_workers_read_ahead_are_left_out(data, monkeypatch):
    learn = small(data, bs=2, accum=3, workers=1)
    clock = Clock(monkeypatch, learn)
    seconds_per_epoch(learn, 5)
    assert clock.steps == 3 + 6 + 3 + 5
    learn = small(data, bs=2, accum=1, workers=2)
    clock = Clock(monkeypatch, learn)
    seconds_per_epoch(learn, 5)
    assert clock.steps == 2 * (5 + 5)


def test_a_short_epoch_is_timed_whole_and_training_the_second_time(data, monkeypatch):
    learn = small(data)
    clock, before = Clock(monkeypatch, learn), state(learn)
    seconds = seconds_per_epoch(learn, 50)
    batches = len(learn.dls.train) + len(learn.dls.valid)
    assert clock.steps == 2 * batches
    assert seconds == pytest.approx(2 * 0.5 + 0.04 * batches)
    assert_same(state(learn), before)


def test_slow_steps_cut_the_trial_short(data, monkeypatch):
    learn = small(data, bs=2, accum=2)
    clock = Clock(monkeypatch, learn)
    seconds = seconds_per_epoch(learn, 50, at_most=0.0)
    assert clock.steps == 4 + 2  # one step left out and one timed
    photos = len(learn.dls.data.train) + len(learn.dls.data.valid)
    assert seconds == pytest.approx(2 * 0.5 + 0.04 * photos / 2)


def test_no_batches_can_not_be_timed(data):
    with pytest.raises(ValueError, match="cannot time 0 batches: give 1 or more"):
        seconds_per_epoch(small(data), 0)


def test_squares_of_several_sizes_are_timed_at_the_largest_and_stay_as_they_were(data):
    class Seen(Callback):
        order = 200

        def before_batch(self):
            if self.training:
                seen.add(self.xb[0].shape[-1])

    seen = set()
    small = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 16, "workers": 0, "device": "cpu"}
    learn = rapid.learner(data, epochs=4, train_sizes=(24, 32), **small)
    learn.add_cb(Seen())
    seconds_per_epoch(learn, batches=1)
    assert seen == {32}
    assert learn.progressive_resizing.sizes == [24, 32]
