"""--best chooses the epoch whose weights are kept, and --patience ends training: both by validation figures."""

import csv

import numpy as np
import pytest
import safetensors.torch
import torch
from fastai.callback.core import Callback
from noise import write_noise
from sklearn.metrics import balanced_accuracy_score, f1_score

from recipes import hw1
from toolkit.evaluation.best_epoch import best_epoch, best_row, history_columns
from toolkit.evaluation.results import read_history
from toolkit.run import load
from toolkit.training.begin import begin
from toolkit.training.evaluate import evaluate
from toolkit.training.fit import fit

SKLEARN = {"balanced_accuracy": balanced_accuracy_score, "macro_f1": lambda *each: f1_score(*each, average="macro")}


OPTIONS = {"weights": "none", "image_size": 32, "bs": 16, "accum": 1, "seed": 0}
HERE = {"workers": 0, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("noise"), 16)


def learner(data, **options):
    "By default one whose epochs are not alike."
    return hw1.learner(data, **OPTIONS | HERE | {"arch": "test_resnet", "lr": 0.02} | options)


def rows_of(columns):
    return [list(row) for row in zip(*columns, strict=True)]


def test_each_figure_chooses_another_epoch_and_ties_go_to_accuracy_then_loss():
    epochs, nothing = [1, 2, 3, 4], [0.0] * 4
    losses, accuracies, figures = [0.5, 0.4, 0.3, 0.6], [0.9, 0.8, 0.8, 0.9], [0.1, 0.7, 0.7, 0.2]
    plain = [epochs, nothing, losses, accuracies, nothing, nothing]
    assert best_row(rows_of(plain), "accuracy")["epoch"] == 1  # of 1 and 4, the lower loss
    assert best_row(rows_of(plain), "loss")["epoch"] == 3
    assert best_row(rows_of([*plain, figures]), "macro_f1")["epoch"] == 3  # of 2 and 3, equally accurate
    history = dict(zip(history_columns("macro_f1"), map(np.array, [*plain, figures]), strict=True))
    assert best_epoch({}, history, "macro_f1") == 3
    assert best_epoch({"best_epoch": 2}, history, "macro_f1") == 2
    assert best_epoch({}, {}, "accuracy") is None


def test_a_loss_that_is_no_number_is_the_worst():
    assert best_row([[1, 0, float("nan"), 0.5, 0, 0], [2, 0, 9.0, 0.4, 0, 0]], "loss")["epoch"] == 2


class EachEpoch(Callback):
    "Keeps what the model answers on the validation photos, and its weights, after each epoch."

    order = 69  # before Checkpoint

    def __init__(self):
        self.answers, self.weights = [], []

    def before_validate(self):
        self.answers.append(([], []))

    def after_pred(self):
        if not self.training:
            labels, predictions = self.answers[-1]
            labels.extend(self.yb[0].tolist())
            predictions.extend(self.pred.argmax(1).tolist())

    def after_epoch(self):
        self.weights.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})


@pytest.fixture(scope="module", params=SKLEARN)
def chosen_by_confusion(tmp_path_factory, noise, request):
    "A run, and what happened in each of its epochs."
    learn = learner(noise, best=request.param)
    run, seen = begin(tmp_path_factory.mktemp("best") / "run", learn), EachEpoch()
    learn.add_cb(seen)
    fit(learn, run, 6)
    evaluate(learn, run)
    return request.param, load(run.folder), seen


def test_the_figure_of_each_epoch_is_scikit_learns(chosen_by_confusion):
    best, run, seen = chosen_by_confusion
    expected = [SKLEARN[best](*answers) for answers in seen.answers[:6]]
    assert read_history(run)[best] == pytest.approx(expected, abs=1e-6)
    with run.path("history.csv").open() as file:
        assert next(csv.reader(file))[-1] == best


def test_the_seconds_are_those_of_the_epochs(chosen_by_confusion):
    _, run, _ = chosen_by_confusion
    assert run.metrics["seconds"] == pytest.approx(read_history(run)["seconds"].sum())


def test_the_weights_kept_are_those_of_the_epoch_with_the_best_figure(chosen_by_confusion):
    best, run, seen = chosen_by_confusion
    epoch = int(np.argmax([SKLEARN[best](*answers) for answers in seen.answers[:6]])) + 1
    assert run.metrics["best_epoch"] == epoch
    kept = safetensors.torch.load_file(run.path("best.safetensors"))
    assert all(torch.equal(kept[name], tensor) for name, tensor in seen.weights[epoch - 1].items())


def test_the_lowest_loss_may_choose_and_history_keeps_its_columns(tmp_path, noise):
    learn = learner(noise, best="loss")
    run = begin(tmp_path / "run", learn)
    fit(learn, run, 6)
    evaluate(learn, run)
    history = read_history(run)
    assert run.read_json("metrics.json")["best_epoch"] == int(np.argmin(history["valid_loss"])) + 1
    assert list(history) == "epoch train_loss valid_loss accuracy lr seconds".split()


def test_a_learner_in_a_notebook_shows_the_figure(noise):
    assert [metric.name for metric in learner(noise, best="macro_f1").metrics] == ["accuracy", "macro_f1"]
    assert [metric.name for metric in learner(noise).metrics] == ["accuracy"]


def test_metrics_without_accuracy_are_refused_before_the_first_epoch(tmp_path, noise):
    learn = learner(noise)
    run = begin(tmp_path / "run", learn)
    learn.metrics = []
    with pytest.raises(ValueError, match="learn.metrics has nothing: add fastai's accuracy"):
        fit(learn, run, 1)


# Patience

SAME = {"arch": "test_vit", "lr": 0.0}  # no weight and no running average changes: no epoch is better than the first


def test_patience_ends_training_and_says_so(tmp_path, noise, capsys):
    learn = learner(noise, patience=2, **SAME)
    run = begin(tmp_path / "run", learn)
    fit(learn, run, 8)
    evaluate(learn, run)
    assert (run.metrics["epochs"], run.metrics["best_epoch"]) == (3, 1)
    said = capsys.readouterr().out
    assert "training ends after 3 of 8 epochs: none of the last 2 had a better accuracy than epoch 1" in said
    assert "epoch 3/8" in said  # the last epoch has its line


@pytest.mark.long
def test_a_resumed_run_keeps_its_patience_and_more_of_it_goes_on(tmp_path, noise, capsys):
    folder = tmp_path / "run"
    fit(learn := learner(noise, patience=2, **SAME), begin(folder, learn), 8)
    hw1.main(noise, out=folder, epochs=8, resume=True, **OPTIONS | HERE | SAME)
    assert load(folder).metrics["epochs"] == 3
    assert "going on after" not in capsys.readouterr().out
    learn = learner(noise, patience=4, resume=True, **SAME)
    fit(learn, begin(folder, learn), 8)
    assert "training ends after 5 of 8 epochs" in capsys.readouterr().out


def test_another_best_is_refused_when_a_run_is_resumed(tmp_path, noise):
    begin(tmp_path / "run", learner(noise))
    with pytest.raises(ValueError, match="begun with --best accuracy, now it is loss"):
        begin(tmp_path / "run", learner(noise, best="loss", resume=True))
