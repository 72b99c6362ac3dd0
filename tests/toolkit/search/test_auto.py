"""Numbers found for `auto` are used, recorded and not searched again; the learner is as if nothing had been tried."""

import math
import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch
from fastai.callback.core import Callback
from here import here
from noise import write_noise
from safetensors.torch import load_file

from recipes import hw1, rapid
from toolkit.evaluation.results import read_curve
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.learner.loss_scaler import LossScaler
from toolkit.learner.schedule import OneCycle
from toolkit.options import Options
from toolkit.run import load
from toolkit.search import auto, lr_finder
from toolkit.search.lr_finder import find_lr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "48 photos to train on, 12 to validate, of three shades: a loss that falls."
    root = write_noise(tmp_path_factory.mktemp("shades"), valid=4)
    for path in root.rglob("*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path)) // 4 + 90 * int(path.parent.name[1:]))
    return root


def small(data, **options):
    return hw1.learner(
        data, arch="test_resnet", weights="none", image_size=32, device="cpu",
        **{"bs": 8, "accum": 1, "workers": 0, "precision": "fp32"} | options,
    )  # fmt: skip


def weights(learn):
    return {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# The learning rate


def test_the_rate_is_the_one_that_fastais_lr_find_suggests(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = small(data)
    with plain.no_bar():
        expected = plain.lr_find(show_plot=False).valley
    learn = small(data)
    before, files = weights(learn), sorted((tmp_path / "models").iterdir())
    curve = find_lr(learn)
    assert curve.chosen == float(f"{expected:.1e}")
    assert len(curve.lrs) == len(curve.losses) > 50
    assert_equal(weights(learn), before)
    assert learn.opt is None
    assert (learn.lr, learn.path, hasattr(learn, "lr_finder")) == (1e-3, Path(), False)
    assert sorted((tmp_path / "models").iterdir()) == files


def test_the_finder_tries_layers_at_their_shares_of_the_rate_that_it_tells(data):
    class Rates(Callback):
        order, seen = 90, []  # after all that sets rates

        def before_backward(self):
            self.seen.append({group.get("lr_scale", 1.0): group["lr"] for group in self.opt.opt.param_groups})

    options = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 8, "workers": 0, "device": "cpu"}
    learn = rapid.learner(data, **options, layer_decay=0.5, probe=False)
    learn.add_cb(Rates())
    curve = find_lr(learn)
    assert len(Rates.seen[0]) > 3
    for rates in Rates.seen:
        assert rates == pytest.approx({scale: rates[1.0] * scale for scale in rates}, rel=1e-6)
    told = [rates[1.0] for rates in Rates.seen][10:]  # of 100, as lr_find begins its suggestions
    assert curve.lrs == pytest.approx(told[: len(curve.lrs)])


def test_the_finder_sets_out_from_the_probed_head_that_training_sets_out_from(data, tmp_path):
    options = {"arch": "test_resnet", "image_size": 32, "bs": 8, "workers": 0, "device": "cpu"}
    torch.save(rapid.learner(data, weights="none", **options).model.state_dict(), tmp_path / "weights.pth")
    learn = rapid.learner(data, weights=str(tmp_path / "weights.pth"), **options)
    before = weights(learn)
    curve = find_lr(learn)
    found, _ = learn.probe.ready  # it is not done again
    assert curve.losses[0] < 0.5 * math.log(3)  # a random head's loss of three classes; the probe's is less than 0.2
    assert_equal(weights(learn), before)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert learn.probe.found is found


def test_workers_and_batch_size_are_those_of_training_and_nothing_is_probed_meanwhile(data, tmp_path, monkeypatch):
    def probed(self):
        raise AssertionError("the probe is computed")

    class Sides(Callback):
        def before_batch(self):
            sides.add((self.training, self.xb[0].shape[-1]))

    sides = set()
    options = {"arch": "test_resnet", "image_size": 32, "bs": 8, "workers": 0, "device": "cpu"}
    torch.save(rapid.learner(data, weights="none", **options).model.state_dict(), tmp_path / "weights.pth")
    learn = rapid.learner(data, weights=str(tmp_path / "weights.pth"), epochs=3, train_sizes=(24, 32), **options)
    learn.add_cb(Sides())
    monkeypatch.setattr(LinearProbe, "probed", probed)
    auto.search_batch_size(learn)
    auto.search_workers(learn)
    assert (True, 32) in sides
    assert (True, 24) not in sides
    assert learn.callback(LinearProbe) is learn.probe
    assert learn.probe.found is None


def test_the_finder_takes_its_steps_of_accumulated_mini_batches_with_scaler_and_schedule(data):
    class Rates(Callback):
        order, seen = 6, []  # after AccumulateGradients; the list is the class's: an instance's would be put back

        def before_step(self):
            Rates.seen.append(self.opt.hypers[-1]["lr"])

    learn = small(data, accum=4)
    learn.remove_cb(learn.plateau)
    learn.add_cbs([LossScaler(), OneCycle(), Rates()])
    find_lr(learn, steps=30)
    assert 20 < len(Rates.seen) <= 30
    assert len(learn.dls.train) == 6  # of 4 and 2 mini-batches
    assert Rates.seen[0] < 1e-6
    assert sorted(Rates.seen) == Rates.seen
    assert not hasattr(learn.one_cycle, "scheduler")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda pred, label: pred.sum() * 0 + 1, "the loss falls at no rate"),
        (lambda pred, label: pred.sum() * float("nan"), "the loss diverges before there is a curve"),
    ],
)
def test_a_search_that_comes_to_nothing_says_so(data, loss, message):
    learn = small(data)
    learn.loss_func = loss
    with pytest.raises(ValueError, match=rf"--lr auto: {message} \(24 batches, from 1e-7 up\): give a number"):
        find_lr(learn, steps=24)
    assert learn.opt is None


def test_a_search_that_is_interrupted_leaves_neither_files_nor_steps(data, tmp_path, monkeypatch):
    class Interrupt(Callback):
        def before_step(self):
            if self.train_iter == 5:
                raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lr_finder.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    learn = small(data)
    before = weights(learn)
    learn.add_cb(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        find_lr(learn)
    assert_equal(weights(learn), before)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "temporary"]


# Mini-batches


def test_a_step_is_of_as_many_photos_as_before(data, capsys, monkeypatch):
    monkeypatch.setattr(auto, "largest_batch_size", lambda learn, photos: (photos // 4, "so it is told"))
    learn = small(data, bs="auto", accum=2)
    assert (learn.options.bs, learn.options.accum) == (64, 4)
    assert (learn.dls.train.bs, learn.dls.valid.bs, learn.accumulate.n) == (64, 64, 4)
    assert "--bs auto: 64, 4 of them to a step of 256 photos; so it is told" in capsys.readouterr().out


# Workers


@pytest.mark.parametrize(
    ("cores", "numbers"), [(1, [0, 1]), (2, [0, 1, 2]), (3, [0, 1, 3]), (8, [0, 4, 8]), (64, [0, 16])]
)
def test_numbers_of_workers_follow_from_the_cores(cores, numbers, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(auto.sys, "platform", "linux")
    assert auto._numbers_of_workers() == numbers
    monkeypatch.setattr(auto.sys, "platform", "darwin")
    assert auto._numbers_of_workers() == [0]


@pytest.mark.parametrize(("seconds", "chosen"), [([9, 5, 4.9], 1), ([9, 5, 4], 2), ([3, 3.1, 4], 0), ([4, 4, 4], 0)])
def test_the_fastest_is_taken_and_of_nearly_equal_ones_the_smallest(data, seconds, chosen, monkeypatch, capsys):
    monkeypatch.setattr(auto, "_numbers_of_workers", lambda: [0, 1, 2])
    monkeypatch.setattr(auto, "_seconds", lambda learn, count: float(seconds[count]))
    learn = small(data, workers="auto")
    assert learn.options.workers == chosen
    assert [loader.fake_l.num_workers for loader in learn.dls.loaders] == [chosen, chosen]
    assert f"--workers auto: {chosen}, with which an epoch takes {seconds[chosen]:.1f} s" in capsys.readouterr().out


def test_each_number_of_workers_is_tried_with_that_number(data, monkeypatch):
    tried = []

    def seconds_per_epoch(learn, batches, at_most):
        tried.append([loader.fake_l.num_workers for loader in learn.dls.loaders])
        return 1.0

    monkeypatch.setattr(auto, "seconds_per_epoch", seconds_per_epoch)
    monkeypatch.setattr(auto, "_numbers_of_workers", lambda: [0, 3])
    small(data, workers="auto")
    assert tried == [[0, 0], [3, 3]]


# All of them


def test_words_other_than_auto_are_refused(data):
    with pytest.raises(ValueError, match="'most' is neither a number nor auto"):
        small(data, bs="most")


def test_several_processes_are_asked_for_a_number(data, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="--bs auto on 2 processes: give a number"):
        auto.search_auto(SimpleNamespace(), Options(bs="auto", workers="auto"))


def test_a_run_not_begun_yet_has_nothing_to_go_by(tmp_path):
    options = Options(lr="auto", bs="auto", accum=2)
    assert hw1.learner.recipe.resumed(tmp_path, options, {}) == (options, {})


@pytest.mark.long
def test_a_run_with_auto_is_the_run_with_its_numbers_and_resumes_without_a_search(data, tmp_path, capsys, no_export):
    options = "--arch test_resnet --weights none --image_size 32 --device cpu --precision fp32".split()
    searched = "--lr auto --bs auto --workers auto".split()
    assert here("--data", data, *options, *searched, "--epochs", 1, "--out", tmp_path / "auto") == 0
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines() if " auto: " in line] == [
        "--bs auto",
        "--workers auto",
        "--lr auto",
    ]
    found = load(tmp_path / "auto").recipe["options"]
    assert (found["bs"], found["accum"]) == (64, 4)  # the smallest that holds all 48 photos
    assert type(found["workers"]) is int
    assert found["lr"] == read_curve(load(tmp_path / "auto")).chosen
    assert "Learning-rate finder" in (tmp_path / "auto" / "report.html").read_text()
    assert here("--data", data, *options, *searched, "--epochs", 2, "--out", tmp_path / "auto", "--resume") == 0
    assert " auto: " not in capsys.readouterr().out
    assert load(tmp_path / "auto").recipe["options"] == found | {"epochs": 2, "resume": True}
    numbers = [word for name in ("lr", "bs", "accum", "workers") for word in (f"--{name}", found[name])]
    assert here("--data", data, *options, *numbers, "--epochs", 2, "--out", tmp_path / "given") == 0
    one, other = (torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("auto", "given"))
    assert_equal(one, other)
    assert_equal(*(load_file(tmp_path / name / "best.safetensors") for name in ("auto", "given")))
    assert not (tmp_path / "given" / "lr_finder.csv").exists()
    assert here("--data", data, *options, *searched, "--accum", 3, "--out", tmp_path / "auto", "--resume") == 2
    assert "it was begun with --accum 4, now it is 3" in capsys.readouterr().err
