"""Averaged weights against numpy's arithmetic, what counts and is kept, and that training goes on as without them."""

import csv

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback

from recipes import digits
from toolkit.finetuning.weight_average import WeightAverage
from toolkit.training.begin import begin
from toolkit.training.fit import fit


class FunctionCallback(Callback):
    "Calls a function at one event, after WeightAverage."

    order = 60

    def __init__(self, function, event):
        setattr(self, event, lambda: function(self.learn))


class Seen(Callback):
    "The first weight after each optimiser step."

    order = 90

    def before_fit(self):
        self.weights = []

    def after_step(self):
        self.weights.append(first(self.model))


def first(model):
    return next(model.parameters()).detach().numpy().copy()


@pytest.fixture(scope="module")
def folder(few_digits):
    return few_digits


def learner(folder, *cbs, bs=64):
    learn = digits.learner(folder, device="cpu", bs=bs)
    learn.remove_cb(learn.progress)
    learn.add_cbs(cbs)
    return learn


def _by_accuracy(run):
    return sorted(csv.DictReader(run.path("history.csv").open()), key=lambda row: float(row["accuracy"]))


def fitted(folder, epochs, *cbs):
    learn = learner(folder, *cbs)
    with learn.no_logging():
        learn.fit(epochs)
    return learn


def test_ema_is_the_sum_written_out(folder):
    learn = fitted(folder, 2, WeightAverage("ema", share=0.4), Seen())
    horizon = 0.4 * 2 * 5  # two epochs of five steps
    expected = learn.seen.weights[0]
    for weight in learn.seen.weights[1:]:
        expected = expected + (weight - expected) / horizon
    assert len(learn.seen.weights) == 10
    assert first(learn.average.averaged.module) == pytest.approx(expected, abs=1e-6)


def test_last_is_the_mean_over_the_last_steps(folder):
    learn = fitted(folder, 2, WeightAverage("last", share=0.3), Seen())
    expected = np.mean(learn.seen.weights[-3:], axis=0)
    assert first(learn.average.averaged.module) == pytest.approx(expected, abs=1e-6)
    assert not np.allclose(expected, learn.seen.weights[-1], atol=1e-6)


def test_training_goes_on_as_without_an_average(folder):
    plain, averaged = fitted(folder, 2, Seen()), fitted(folder, 2, WeightAverage("ema"), Seen())
    assert len(plain.seen.weights) == 10
    for one, other in zip(plain.seen.weights, averaged.seen.weights, strict=True):
        assert np.array_equal(one, other)


class Spoil(Callback):
    "Ruin the weights in the last epoch, after its training."

    order = 48  # before WeightAverage

    def before_validate(self):
        if self.epoch == self.n_epoch - 1:
            with torch.no_grad():
                self.model.get_classifier().weight.zero_()


@pytest.mark.long
def test_a_fit_in_a_notebook_leaves_what_it_reported(tmp_path):
    "The last epoch's figures are those of what is left, by `validate` and by predictions."
    learn = learner(tmp_path / "all_digits", WeightAverage("ema", share=0.1), Spoil(), bs=64)
    with learn.no_logging():
        learn.fit(2)
    *_, loss, accuracy = learn.recorder.values[-1]
    assert accuracy > 0.5
    probabilities, labels = learn.get_preds()
    assert float((probabilities.argmax(1) == labels).float().mean()) == pytest.approx(accuracy)
    assert float(-probabilities.log().gather(1, labels[:, None]).mean()) == pytest.approx(loss, rel=1e-4)
    learn.remove_cb(learn.spoil)
    assert list(learn.validate()) == pytest.approx([loss, accuracy], rel=1e-4)
    average, left = learn.average.averaged.module.state_dict(), learn.model.state_dict()
    assert all(torch.equal(left[name], average[name]) for name in left)


def test_an_interrupted_fit_leaves_the_weights_it_was_training(folder):
    class Interrupt(Callback):
        order = 100

        def after_step(self):
            if self.epoch == 2:
                self.learn.end_with(KeyboardInterrupt())

    learn = learner(folder, WeightAverage("ema", share=1.0), Seen(), Interrupt())
    with learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(3)
    assert np.array_equal(first(learn.model), learn.seen.weights[-1])


@pytest.mark.parametrize("event", ["before_validate", "after_pred"])
def test_a_fit_that_ends_in_validation_leaves_the_weights_it_was_training(folder, event):
    def end(learn):
        if not learn.training and learn.epoch == 1:
            raise KeyboardInterrupt

    learn = learner(folder, WeightAverage("ema", share=1.0), Seen(), FunctionCallback(end, event))
    model = learn.model
    with learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(3)
    assert learn.model is model
    assert np.array_equal(first(learn.model), learn.seen.weights[-1])
    with learn.no_logging():
        learn.remove_cb(learn.cbs[-1])
        learn.fit(1)
    assert learn.model is model


@pytest.mark.long
def test_the_average_counts_in_figures_and_in_what_is_kept(tmp_path):
    learn = learner(tmp_path / "all_digits", WeightAverage("ema", share=0.1), Spoil(), bs=64)
    run = begin(tmp_path / "run", learn)
    fit(learn, run, 3)
    assert [row["epoch"] for row in _by_accuracy(run)][-1] == "3"
    kept = learn.model.state_dict()
    assert kept["fc.weight"].abs().sum() > 0
    average = learn.average.averaged.module.state_dict()
    assert all(torch.equal(kept[name], average[name]) for name in kept)
    loss, accuracy = learn.validate()
    *_, row = csv.DictReader(run.path("history.csv").open())
    assert float(row["accuracy"]) == pytest.approx(float(accuracy))
    assert float(row["valid_loss"]) == pytest.approx(float(loss), rel=1e-4)


def test_before_its_window_an_average_is_neither_validated_nor_kept(folder):
    "Until then it is the network as the fit found it."

    class Kept(Callback):
        order = 90

        def before_fit(self):
            self.own = []

        def after_epoch(self):
            self.own.append(self.average.validated is self.model)

    learn = learner(folder, WeightAverage("last", share=0.5), Kept())
    with learn.no_logging():
        learn.fit(4)
    assert learn.kept.own == [True, True, False, False]


@pytest.mark.parametrize(
    ("kind", "training"),
    [
        ("ema", False),  # while the average is validated
        pytest.param("ema", True, marks=pytest.mark.slow),  # one with an average is killed in test_resume.py too
        pytest.param("last", True, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_has_the_average_of_an_unbroken_one(folder, tmp_path, kind, training):
    class Stop(Callback):
        "What Ctrl-C does, in the second epoch."

        def after_batch(self):
            if self.training == training and self.epoch == 1 and self.iter == (2 if training else 0):
                self.learn.checkpoint.stop = True

    def go(name, *cbs):
        learn = learner(folder, WeightAverage(kind, share=0.4), *cbs)
        run = begin(tmp_path / name, learn)
        fit(learn, run, 3)
        state = torch.load(run.path("last.pt"), weights_only=True)
        return state["callbacks"]["average"] | {f"trained {name}": weight for name, weight in state["model"].items()}

    whole = go("whole")
    with pytest.raises(KeyboardInterrupt):
        go("broken", Stop())
    resumed = go("broken")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_of_more_epochs_averages_over_the_last_of_them_alone(folder, tmp_path):
    "The last quarter of two epochs is in the average of the shorter run, not in that of the longer one."

    def go(epochs):
        learn = learner(folder, WeightAverage("last", share=0.25), kept, seen)
        fit(learn, begin(tmp_path / "run", learn), epochs)
        return learn

    kept, seen = (
        FunctionCallback(lambda learn: own.append(learn.average.validated is learn.model), "after_epoch"),
        Seen(),
    )
    own = []
    go(2)
    learn = go(4)
    assert own == [True, False, True, False]
    steps = len(learn.dls.train)
    np.testing.assert_allclose(first(learn.average.averaged.module), np.mean(seen.weights[-steps:], 0), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "share", "says"), [("sma", 0.1, "'sma'"), ("ema", 0, "over 0 "), ("last", 2, "over 2 ")]
)
def test_another_kind_or_share_is_refused(kind, share, says):
    with pytest.raises(ValueError, match=says):
        WeightAverage(kind, share)
