"""What goes wrong under a run: it says so, ends or goes on as it should, and what was written before still loads."""

import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import forked
import numpy as np
import onnx
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import EarlyStoppingCallback
from here import here
from noise import write_noise
from safetensors.torch import load_file
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR, StepLR

from export.convert.model_card import literal, model_card
from export.to_onnx import to_onnx
from recipes import hw1, rapid
from toolkit.evaluation.best_epoch import HISTORY
from toolkit.evaluation.formatting import percent
from toolkit.files import write_csv, write_json
from toolkit.finetuning.linear_probe import LinearProbe, is_probing
from toolkit.models.pretrained import load_weights
from toolkit.pages import run_page
from toolkit.run import Run, load
from toolkit.training.begin import begin as begin_run
from toolkit.training.evaluate import evaluate
from toolkit.training.fit import fit
from toolkit.training.state import Best, read_state, write_state

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    "loss": "ce",
    "arch": "test_resnet",
    "weights": "none",
    "lr": 0.01,
    "image_size": 32,
    "workers": 0,
    "device": "cpu",
    "precision": "fp32",
    "seed": 0,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "48 photos of noise to train, 12 to validate."
    return write_noise(tmp_path_factory.mktemp("data"), valid=4)


def begin(photos, out, bs=4, accum=2, recipe=hw1, **changed):
    "(run, learner) of a recipe on those photos."
    options = OPTIONS | {"bs": bs, "accum": accum} | changed
    learn = recipe.learner(photos, **options)
    return begin_run(out, learn), learn


def fail(learn, calls, error):
    "Have the model's forward pass raise `error` at these calls, counted from 1 over training and validation."
    forward, count = learn.model.forward, 0

    def failing(x):
        nonlocal count
        count += 1
        output = forward(x)  # batch norm has seen the batch by now
        if count in calls:
            raise error
        return output

    learn.model.forward = failing


def history(run):
    return [line.rpartition(",")[0] for line in run.path("history.csv").read_text().splitlines()]


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def test_out_of_memory_in_a_first_step_gives_the_bits_of_a_run_begun_with_the_smaller_mini_batch(
    photos, tmp_path, capsys
):
    """Twice: 16 to 8 to 4, the second time with batch norm's averages moved and half a gradient there, and in the words
    of another library.
    """
    run, learn = begin(photos, tmp_path / "halved", bs=16, accum=1)
    fail(learn, {1}, OUT_OF_MEMORY)
    fail(learn, {3}, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    fit(learn, run, 2)
    said = capsys.readouterr().out
    assert "out of memory: going on with 2 batches of 8 to a step, not 1 of 16" in said
    assert "out of memory: going on with 4 batches of 4 to a step, not 2 of 8" in said
    small, other = begin(photos, tmp_path / "small", bs=4, accum=4)
    fit(other, small, 2)
    assert history(run) == history(small)
    ours, theirs = (load_file(one.path("best.safetensors")) for one in (run, small))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    found = evaluate(learn, run)
    assert (found["bs"], found["accum"]) == (4, 4)


@pytest.mark.parametrize("call", [6, 14])  # in the middle of a step, and in validation
def test_out_of_memory_later_on_changes_no_step_of_a_model_without_batch_norm(call, photos, tmp_path):
    run, learn = begin(photos, tmp_path / "halved", arch="test_vit", lr=1e-3)
    fail(learn, {call}, OUT_OF_MEMORY)
    fit(learn, run, 2)
    whole, other = begin(photos, tmp_path / "whole", arch="test_vit", lr=1e-3)
    for one in (learn, other):
        assert not [part for part in one.model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    fit(other, whole, 2)
    ours, theirs = (
        [[float(figure) for figure in line.split(",")] for line in history(one)[1:]] for one in (run, whole)
    )
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    assert (learn.dls.train.bs, learn.accumulate.n) == (2, 4)


def test_out_of_memory_with_one_photo_is_an_error_that_says_what_to_do(photos, tmp_path):
    run, learn = begin(photos, tmp_path / "run", arch="test_vit", bs=1, accum=1)
    fail(learn, {3}, OUT_OF_MEMORY)
    with pytest.raises(
        ValueError, match="out of memory. Tried .* Try a smaller --bs, --image_size or --arch"
    ) as caught:
        fit(learn, run, 1)
    assert caught.value.__notes__ == [f"saved: 0 of 1 epochs; go on with --out {run.folder} --resume"]


def test_smaller_batches_are_not_tried_for_a_probe_that_lacks_memory(photos, tmp_path, monkeypatch):
    def linear_probe(*_):
        nonlocal tried
        tried += 1
        raise OUT_OF_MEMORY

    tried = 0
    run, learn = begin(photos, tmp_path / "run")
    learn.add_cb(LinearProbe())
    with monkeypatch.context() as patch:
        patch.setattr("toolkit.finetuning.linear_probe.linear_probe", linear_probe)
        with pytest.raises(ValueError, match="^CUDA out of memory. Tried .* Leave out the linear probe"):
            fit(learn, run, 1)
    assert tried == 1
    assert is_probing(learn)  # as it was left
    learn.probe.found = {"loss": 1.0}  # the next fit begins after a probe
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert not is_probing(learn)


def test_an_error_of_the_model_itself_is_not_taken_for_a_lack_of_memory(photos, tmp_path):
    run, learn = begin(photos, tmp_path / "run")
    fail(learn, {3}, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="^shapes do not fit"):
        fit(learn, run, 1)


@pytest.mark.parametrize("full", ["write_state", "settle_best"])
def test_the_best_weights_are_those_that_the_state_tells_of_wherever_a_run_ends(full, photos, tmp_path, monkeypatch):
    "Between the two files: the disk takes no state beside the new weights, or the run is killed after the state."

    def ends(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(
        "toolkit.training.checkpoint.best_row", lambda rows, by: dict(zip(HISTORY, rows[-1], strict=True))
    )
    run, learn = begin(photos, tmp_path / "run")
    fit(learn, run, 1)
    first = load_file(run.path("best.safetensors"))
    run, learn = begin(photos, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(f"toolkit.training.checkpoint.{full}", ends)
        with pytest.raises(OSError, match="the disk is full"):
            fit(learn, run, 2)
    second = {name: weight.clone() for name, weight in learn.model.state_dict().items()}
    told = read_state(run.path("last.pt")).best.epoch
    assert told == (1 if full == "write_state" else 2)
    fit(learn, run, told)  # all epochs are done
    kept, expected = load_file(run.path("best.safetensors")), (first, second)[told - 1]
    assert all(torch.equal(kept[name], expected[name]) for name in expected)
    assert not [path for path in run.folder.glob(".*") if path.name != ".lock"]


class EndsLike(Callback):
    "fastai's EarlyStoppingCallback: the order in which it is called, and how it ends a fit, at that epoch of it."

    order = EarlyStoppingCallback.order

    def __init__(self, epoch):
        self.last, self.fits = epoch, 0

    def before_fit(self):
        self.fits += 1

    def after_epoch(self):
        if self.epoch == self.last:
            raise CancelFitException


def test_a_fit_that_a_callback_ends_is_not_begun_again_and_its_epochs_count(photos, tmp_path, capsys):
    run, learn = begin(photos, tmp_path / "run")
    learn.add_cb(EarlyStoppingCallback(min_delta=100, patience=2))  # no loss falls by that much
    fit(learn, run, 5)
    assert len(history(run)) == 1 + 3
    assert read_state(run.path("last.pt")).epoch == 3
    assert "training ends after 3 of 5 epochs: a callback ended it" in capsys.readouterr().out
    run, learn = begin(photos, tmp_path / "run")
    learn.add_cb(EndsLike(0))
    fit(learn, run, 5)
    assert learn.ends_like.fits == 1
    assert len(history(run)) == 1 + 4
    whole, other = begin(photos, tmp_path / "whole")
    fit(other, whole, 4)
    assert history(run) == history(whole)


def test_a_fit_that_a_callback_ends_in_its_first_epoch_is_an_error(photos, tmp_path):
    class Ends(Callback):
        def after_batch(self):
            raise CancelFitException

    run, learn = begin(photos, tmp_path / "run")
    learn.add_cb(Ends())
    with pytest.raises(ValueError, match="a callback ended training in its first epoch: there are no weights"):
        fit(learn, run, 2)


def test_a_loss_that_is_not_finite_ends_the_run_naming_epoch_step_and_photos(photos, tmp_path):
    run, learn = begin(photos, tmp_path / "run")
    fit(learn, run, 1)
    before = run.path("last.pt").read_bytes()
    run, learn = begin(photos, tmp_path / "run")
    drawn = []

    def forward(x, forward=learn.model.forward):
        drawn.append(len(x))
        return forward(x) * (float("nan") if len(drawn) == 7 else 1.0)

    learn.model.forward = forward
    with pytest.raises(ValueError, match="the loss is not finite in epoch 2, step 4: ") as caught:
        fit(learn, run, 3)
    order = np.random.default_rng((0, 1)).permutation(48)[24:28]  # the seventh four of the epoch's order
    names = [learn.dls.data.relative(list(learn.dls.data.train)[index]) for index in order]
    assert str(caught.value).splitlines()[1] == f"its photos: {', '.join(names)}"
    assert run.path("last.pt").read_bytes() == before
    assert all(bool(weight.isfinite().all()) for weight in learn.model.parameters())


def test_gradients_that_overflow_in_fp16_are_no_fault(photos, tmp_path):
    "The loss scaler's first scale is too large for the gradients of a loss times 1e6; it halves until they are finite."
    run, learn = begin(photos, tmp_path / "run", precision="fp16")
    learn.loss_func.register_forward_hook(lambda module, inputs, loss: loss * 1e6)
    fit(learn, run, 2)
    assert learn.loss_scaler.scaler.get_scale() < learn.loss_scaler.init_scale
    assert len(history(run)) == 3


def test_a_disk_that_is_full_is_an_error_naming_the_file_and_the_state_before_still_loads(photos, tmp_path):
    run, learn = begin(photos, tmp_path / "run")
    fit(learn, run, 1)
    before = torch.load(run.path("last.pt"), weights_only=True)
    run, learn = begin(photos, tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # a write beyond fails as on a full disk
    try:
        with pytest.raises(OSError, match=r"last\.pt|\.best\.2\.safetensors") as caught:
            fit(learn, run, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.__notes__ == [f"saved: 1 of 2 epochs; go on with --out {run.folder} --resume"]
    after = torch.load(run.path("last.pt"), weights_only=True)
    assert all(torch.equal(after["model"][name], before["model"][name]) for name in before["model"])
    assert not [path for path in run.folder.glob(".*") if path.name != ".lock"]
    fit(learn, run, 2)
    assert len(history(run)) == 3


def mounted(folder, options):
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("may not mount a file system here")


@pytest.mark.parametrize(("options", "reason"), [("size=1m", "No space left"), ("ro", "Read-only file system")])
def test_a_folder_that_takes_nothing_more_ends_the_command_with_2_and_the_reason(
    options, reason, photos, tmp_path, capfd
):
    folder = tmp_path / "small"
    mounted(folder, options)
    try:
        status = here(*words(photos, folder / "run", "--epochs", 2))
    finally:
        gc.collect()  # the run holds its lock in there until the learner is gone
        subprocess.run(["umount", folder], check=True)
    stderr = capfd.readouterr().err
    assert status == 2
    assert reason in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("inside"),  # as an earlier version wrote it
        lambda state: state["history"].append("row"),
        lambda state: state["model"].popitem(),
        lambda state: state["opt"].update(param_groups=[]),
        lambda state: state["random"].update(torch=torch.zeros(3)),
    ],
)
def test_a_last_state_that_does_not_fit_is_refused_and_left_as_it_is(change, photos, tmp_path):
    run, learn = begin(photos, tmp_path / "run")
    fit(learn, run, 1)
    state = torch.load(run.path("last.pt"), weights_only=True)
    change(state)
    torch.save(state, run.path("last.pt"))
    before = run.path("last.pt").read_bytes()
    run, learn = begin(photos, tmp_path / "run")
    with pytest.raises(ValueError, match=r"last.pt is not a state .*: begin a new "):
        fit(learn, run, 2)
    assert run.path("last.pt").read_bytes() == before


def test_photos_left_out_are_recorded_and_the_run_is_rebuilt_without_them(photos, tmp_path, recwarn):
    shutil.copytree(photos, tmp_path / "data")
    for name in ("train/c1/3.png", "val/c2/0.png"):
        (tmp_path / "data" / name).write_bytes(b"no photo")
    with pytest.raises(ValueError, match="2 photos .* read: train/c1/3.png: not a photo.*\n.*--skip_unreadable"):
        begin(tmp_path / "data", tmp_path / "run")
    run, learn = begin(tmp_path / "data", tmp_path / "run", skip_unreadable=True)
    fit(learn, run, 1)
    assert sorted(run.recipe["data"]["left_out"]) == ["train/c1/3.png", "val/c2/0.png"]
    assert (run.recipe["data"]["train"], run.recipe["data"]["valid"]) == (47, 11)
    again = run.learner("cpu")
    assert (len(again.dls.train_ds), len(again.dls.valid_ds)) == (47, 11)
    assert not [said for said in recwarn if "have changed" in str(said.message)]


def test_a_run_folder_keeps_a_file_name_that_is_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    write_json(tmp_path / "a.json", {"file": name, "class": "Käse"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"file": name, "class": "Käse"}
    write_csv(tmp_path / "a.csv", ["file"], [[name]])
    assert (tmp_path / "a.csv").read_bytes() == b"file\ncaf\xe9.jpg\n"


def test_a_run_is_complete_if_names_of_its_photos_and_of_their_folder_are_not_utf8(photos, tmp_path, capfd):
    data = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(photos, data)
    odd = data / "val" / "c1" / os.fsdecode(b"1\xff.png")
    (data / "val" / "c1" / "1.png").rename(odd)
    arguments = [
        word for name, value in (OPTIONS | {"data": data, "epochs": 1}).items() for word in (f"--{name}", value)
    ]
    assert here(*arguments, "--out", tmp_path / "run") == 0, capfd.readouterr().err
    metadata = {prop.key: json.loads(prop.value) for prop in onnx.load(tmp_path / "run" / "model.onnx").metadata_props}
    assert f"val/c1/{odd.name}" in [name for name, *_ in metadata["verification"]["worst"]]
    assert metadata["recipe"]["options"]["data"] == str(data)
    assert here(*arguments, "--out", tmp_path / os.fsdecode(b"r\xe9")) == 2
    assert "is not Unicode text: give a folder whose name is" in capfd.readouterr().err


def test_photos_to_predict_may_be_added_after_training(photos, tmp_path, recwarn):
    data = shutil.copytree(photos, tmp_path / "data")
    (data / "test").mkdir()
    shutil.copy(data / "val" / "c0" / "0.png", data / "test" / "0.png")
    run, learn = begin(data, tmp_path / "run")
    fit(learn, run, 1)
    shutil.copy(data / "val" / "c0" / "1.png", data / "test" / "1.png")
    assert len(run.dataset().test) == 2
    del run
    run, learn = begin(data, tmp_path / "run")
    fit(learn, run, 2)
    assert not [said for said in recwarn if "have changed" in str(said.message)]


@pytest.mark.parametrize("way", ["moved", "removed"])
def test_a_run_folder_that_goes_ends_the_training_and_is_not_made_anew(photos, tmp_path, way):
    run, learn = begin(photos, tmp_path / "run")

    def go():
        run.folder.rename(tmp_path / "there") if way == "moved" else shutil.rmtree(run.folder)

    learn.add_cb(AtEpoch(2, go))
    with pytest.raises(
        FileNotFoundError, match="no longer holds this run: if it was moved, --resume goes on with i"
    ) as e:
        fit(learn, run, 3)
    assert not hasattr(e.value, "__notes__")  # that it goes on here
    assert not run.folder.exists()
    if way == "moved":
        assert torch.load(tmp_path / "there/last.pt", weights_only=True)["epoch"] == 1


class AtEpoch(Callback):
    "Call `act` when the training of an epoch, from 1, begins."

    def __init__(self, number, act):
        self.number, self.act = number, act

    def before_train(self):
        if self.epoch + 1 == self.number:
            self.act()


@pytest.mark.long
def test_test_photos_that_are_gone_leave_the_page_and_are_told(photos, tmp_path, capfd):
    data = shutil.copytree(photos, tmp_path / "data")
    (data / "test").mkdir()
    shutil.copy(data / "val" / "c0" / "0.png", data / "test" / "0.png")
    assert here(*words(data, tmp_path / "run", "--epochs", 1)) == 0
    assert 'id="test"' in (tmp_path / "run/report.html").read_text()
    shutil.rmtree(data / "test")
    assert here(*words(data, tmp_path / "run", "--epochs", 1, "--resume")) == 0
    assert f"{tmp_path / 'run/predictions.csv'} labels earlier test photos, which are gone\n" in capfd.readouterr().out
    assert not (tmp_path / "run/least_certain.csv").exists()
    assert 'id="test"' not in (tmp_path / "run/report.html").read_text()


def test_a_last_mini_batch_of_one_photo_is_trained_on_by_the_running_statistics(photos, tmp_path):
    "torch's batch norm raises where a layer has one value per channel, as this network's last ones have at 32 pixels."
    run, learn = begin(photos, tmp_path / "run", bs=47, accum=1)
    norms, seen = [layer for layer in learn.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)], []

    def forward(x, forward=learn.model.forward):
        before = [layer.running_mean.clone() for layer in norms]
        output = forward(x)
        moved = [not torch.equal(layer.running_mean, mean) for layer, mean in zip(norms, before, strict=True)]
        if learn.training:
            seen.append((len(x), all(moved), any(moved)))
        return output

    learn.model.forward = forward
    fit(learn, run, 2)
    assert seen == [(47, True, True), (1, False, True)] * 2  # those with more than one value per channel move on


def test_of_one_photo_a_layer_with_more_than_one_value_per_channel_does_what_torchs_does(photos, tmp_path):
    "At 128 pixels all have: the bits are those of a learner without the callback."
    weights = []
    for without in (True, False):
        _, learn = begin(photos, tmp_path / str(without), bs=47, accum=1, image_size=128, exact=True)
        if without:
            learn.remove_cb(learn.last_photo)
        torch.manual_seed(0)
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
        weights.append(list(learn.model.state_dict().values()))
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    assert not [layer for layer in learn.model.modules() if layer._forward_pre_hooks]


def test_of_equally_accurate_epochs_the_one_with_the_lowest_validation_loss_is_kept(photos, tmp_path):
    run, learn = begin(photos, tmp_path / "run")
    losses = iter([1.5, 1.2, 1.3, 1.2])

    def accuracy(predictions, labels):
        return torch.tensor(0.5)

    learn.metrics = [accuracy]

    class Losses(Callback):
        order = 55  # between the Recorder and Checkpoint

        def after_validate(self):
            self.recorder.loss.total, self.recorder.loss.count = torch.tensor(next(losses)), 1

    learn.add_cb(Losses())
    fit(learn, run, 4)
    assert [line.split(",")[3] for line in history(run)[1:]] == ["0.5"] * 4
    assert read_state(run.path("last.pt")).best == Best(2, 0.5, pytest.approx(1.2))


def test_what_the_weights_were_made_for_and_their_licence_are_told_and_recorded(photos, tmp_path, capsys):
    run, learn = begin(photos, tmp_path / "none")
    torch.save(learn.model.state_dict(), tmp_path / "w.pth")
    said = capsys.readouterr().out
    assert "parameters; random weights\n" in said
    assert "licence" not in said
    run, learn = begin(photos, tmp_path / "run", weights=str(tmp_path / "w.pth"))
    said = capsys.readouterr().out
    assert f" tensors loaded from {tmp_path / 'w.pth'}" in said
    assert (
        "licence of the weights: not known; they are taken to be made for 160 pixels, crop_pct 0.95, bilinear; "
        "here 32 pixels, crop_pct 0.865, bilinear\n" in said
    )
    assert run.recipe["weights"]["made_for"]["mean"] == run.recipe["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    learn.model.origin["license"] = "cc-by-nc-4.0"  # as timm tells it of its own
    run, learn = begin_run(tmp_path / "other", learn), learn
    assert "licence of the weights: cc-by-nc-4.0; " in capsys.readouterr().out
    fit(learn, run, 1)
    evaluate(learn, run)
    to_onnx(run.folder, device="cpu")
    said = {prop.key: json.loads(prop.value) for prop in onnx.load(run.path("model.onnx")).metadata_props}
    assert said["weights_license"] == "cc-by-nc-4.0"
    assert said["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    card = model_card(run.recipe, run.metrics, "name", has_onnx=True)
    assert f"Licence of the weights that training began with: {literal('cc-by-nc-4.0')}." in card


def test_a_run_of_other_normalisation_is_not_gone_on_with(photos, tmp_path):
    "One that an earlier version began, which knew ImageNet's only."
    run, learn = begin(photos, tmp_path / "run")
    run.recipe["preprocess"]["mean"] = [0.1, 0.1, 0.1]
    write_json(run.path("recipe.json"), run.recipe)
    with pytest.raises(ValueError, match=r"begun with other photos to the network \(mean\), by an earlier version"):
        begin(photos, tmp_path / "run")


@pytest.fixture(scope="module")
def uneven(photos, tmp_path_factory):
    "40 of those photos to train: a class has half as many as each other one."
    copy = tmp_path_factory.mktemp("uneven") / "data"
    shutil.copytree(photos, copy)
    for photo in sorted((copy / "train" / "c1").iterdir())[8:]:
        photo.unlink()
    return copy


RAPID = {"recipe": rapid, "epochs": 2, "average": "none"}
IN_A_STEP, IN_VALIDATION = (
    (3, 16),
    (11, 40),
)  # the forward pass that is interrupted, and the photos of the epoch till then


@pytest.mark.parametrize(
    ("when", "options"),
    [
        (IN_A_STEP, {}),
        (IN_VALIDATION, {"loss": "smoothing"}),
        (IN_A_STEP, {"class_weights": "balanced"}),
        (IN_A_STEP, {"sampler": "balanced"}),
        (IN_A_STEP, RAPID | {"mixup": 0.4}),
        (IN_VALIDATION, RAPID | {"cutmix": 1.0}),
        (IN_A_STEP, RAPID | {"mixup": 0.4, "cutmix": 1.0}),
        (IN_A_STEP, RAPID | {"average": "last"}),
        (IN_A_STEP, RAPID | {"average": "ema"}),
        ((1, 40), RAPID | {"probe": True}),  # in validation: the learner was made with the probe's features
    ],
)
def test_a_run_stopped_in_a_step_or_in_validation_goes_on_from_there_with_the_same_bits(
    when, options, uneven, tmp_path
):
    if "probe" in options:  # of weights from somewhere
        torch.save(begin(uneven, tmp_path / "other")[1].model.state_dict(), tmp_path / "weights.pth")
        options = options | {"weights": str(tmp_path / "weights.pth")}
    whole, learn = begin(uneven, tmp_path / "whole", **options)
    fit(learn, whole, 2)
    run, learn = begin(uneven, tmp_path / "run", **options)

    (call, seen), calls = when, []

    def forward(x, forward=learn.model.forward):
        calls.append(len(x))
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(x)

    learn.model.forward = forward
    with pytest.raises(KeyboardInterrupt, match=f"saved: 0 of 2 epochs and {seen} photos of the next"):
        fit(learn, run, 2)
    run, learn = begin(uneven, tmp_path / "run", **options)
    fit(learn, run, 2)
    assert history(run) == history(whole)
    ours, theirs = (torch.load(one.path("last.pt"), weights_only=True) for one in (run, whole))
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])
    assert torch.equal(ours["random"]["torch"], theirs["random"]["torch"])


def test_a_state_that_could_not_be_read_back_does_not_take_the_place_of_one_that_can(photos, tmp_path):
    run, learn = begin(photos, tmp_path / "run")
    fit(learn, run, 1)
    before = run.path("last.pt").read_bytes()
    kept = read_state(run.path("last.pt"))
    for state in (replace(kept, epoch=3), replace(kept, best=Best(1, Path("no number")))):
        with pytest.raises(ValueError, match="last.pt"):
            write_state(run.path("last.pt"), state)
        assert run.path("last.pt").read_bytes() == before
    assert [path.name for path in run.folder.iterdir() if path.name.startswith(".last")] == []


# Under the real command


HW1 = [sys.executable, "-m", "recipes.hw1"]


def words(photos, out, *arguments):
    flags = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
    given = ["--data", photos, "--out", out, "--bs", 4, *flags, *arguments]  # of two values the last one counts
    return [str(word) for word in given]


def started(photos, out, *arguments):
    "A process that has finished its first epoch."
    process = forked.Popen(
        [*HW1, *words(photos, out, "--epochs", 500, *arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert any(line.startswith("epoch 1/") for line in process.stdout), process.stderr.read()
    return process


def test_a_learning_rate_that_blows_up_ends_the_command_with_2(photos, tmp_path, capfd):
    assert here(*words(photos, tmp_path / "run", "--lr", "1e30")) == 2
    stderr = capfd.readouterr().err
    assert stderr.startswith("error: the loss is not finite in epoch 1, ")
    assert stderr.splitlines()[1].startswith("its photos: ")
    assert "Traceback" not in stderr


@pytest.mark.long
def test_photos_that_vanish_end_the_command_with_2_and_the_run_goes_on_when_they_are_back(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "data")
    process = started(tmp_path / "data", tmp_path / "run", "--workers", 2)
    (tmp_path / "data").rename(tmp_path / "away")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    lines = stderr.splitlines()
    assert lines[0].endswith(".png: no such file")
    assert lines[1].startswith("saved: ")
    (tmp_path / "away").rename(tmp_path / "data")
    finished = len(history(load(tmp_path / "run"))) - 1
    assert here(*words(tmp_path / "data", tmp_path / "run", "--epochs", finished + 1, "--resume")) == 0
    assert len(history(load(tmp_path / "run"))) - 1 == finished + 1


def test_a_worker_killed_by_the_system_is_reported_within_seconds(photos, tmp_path):
    process = started(photos, tmp_path / "run", "--workers", 2)
    children = []
    while len(children) < 2:  # between two epochs there are none
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    killed = time.monotonic()
    os.kill(int(children[0]), signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - killed < 20
    assert process.returncode == 2, stderr
    assert "a process that reads photos is gone, as if memory ran out; try fewer --workers" in stderr
    assert "go on with --out" in stderr
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["epoch"] >= 1


@pytest.mark.long
def test_with_stdin_stdout_and_stderr_closed_a_run_is_complete(photos, tmp_path):
    line = " ".join([*HW1, *words(photos, tmp_path / "run", "--epochs", 1, "--workers", 2)]) + " <&- >&- 2>&-"
    assert subprocess.run(line, shell=True, cwd=ROOT, check=False).returncode == 0
    run = load(tmp_path / "run")
    assert len(history(run)) == 2
    assert json.loads(run.path("metrics.json").read_text())["best_epoch"] == 1
    assert run.path("model.onnx").is_file()


def test_a_reader_that_leaves_the_pipe_ends_the_command_saying_what_is_saved(photos, tmp_path):
    process = started(photos, tmp_path / "run")
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert stderr.startswith("saved: ")
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["epoch"] >= 2


# In a notebook


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken")])
@pytest.mark.parametrize("call", [3, 13])  # in training, in validation
def test_an_interrupted_fit_leaves_the_learner_as_it_was(error, call, photos):
    learn = hw1.learner(photos, **OPTIONS | {"precision": "bf16"}, bs=4)
    before, callbacks = learn.loss_func, {cb.name for cb in learn.cbs}
    fail(learn, {call}, error)
    with learn.no_bar(), pytest.raises(type(error)) as caught:
        learn.fit(2, cbs=MixUp())
    assert caught.value is error
    assert learn.loss_func is before  # MixUp puts its own in its place
    assert {cb.name for cb in learn.cbs} == callbacks
    assert not learn.model.training
    assert not torch.is_autocast_enabled("cpu")
    assert all(weight.grad is None or not weight.grad.any() for weight in learn.model.parameters())
    with learn.no_bar(), learn.no_logging():
        assert learn.predict(photos / "val/c0/0.png")[0] in learn.dls.vocab
        learn.fit(1)
    assert len(learn.recorder.values) == 1


def test_the_best_weights_can_be_restored_after_an_interruption(photos, tmp_path):
    run, learn = begin(photos, tmp_path / "run")
    fail(learn, {20}, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="saved: 1 of 3 epochs"):
        fit(learn, run, 3)
    load_weights(learn.model, run.path("best.safetensors"))
    best = load_file(run.path("best.safetensors"))
    assert all(torch.equal(tensor, best[name]) for name, tensor in learn.model.state_dict().items())


class Anneal(Callback):
    "A torch schedule in a recipe of one's own, made for so many epochs."

    order = 60

    def __init__(self, make):
        self.make = make

    def before_fit(self):
        if self.opt is not None:
            self.scheduler = self.make(self.opt.opt)

    def after_epoch(self):
        self.scheduler.step()


def rates_of(photos, out, make, epochs):
    run, learn = begin(photos, out)
    learn.remove_cb(learn.plateau)
    learn.add_cb(Anneal(make))
    fit(learn, run, epochs)
    return [row[4] for row in read_state(run.path("last.pt")).history]


def cosine(optimiser):
    return CosineAnnealingLR(optimiser, T_max=4)


def after_two(optimiser):
    warm, then = LinearLR(optimiser, total_iters=2), CosineAnnealingLR(optimiser, T_max=2)
    return SequentialLR(optimiser, [warm, then], milestones=[2])


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize(("make", "end"), [(cosine, "T_max=4"), (after_two, "T_max=2")])
def test_a_schedule_that_ends_with_its_run_is_not_extended(photos, tmp_path, make, end):
    "Extended, its rate went down to 0 and up again."
    rates = rates_of(photos, tmp_path / "run", make, 4)
    before = (tmp_path / "run/last.pt").read_bytes()
    with pytest.raises(ValueError, match=f"more epochs than this run .* CosineAnnealingLR ends with {end} "):
        rates_of(photos, tmp_path / "run", make, 6)
    assert (tmp_path / "run/last.pt").read_bytes() == before
    assert rates_of(photos, tmp_path / "run", make, 4) == rates


def test_a_schedule_that_has_no_end_is_extended(photos, tmp_path):
    def halved(optimiser):
        return StepLR(optimiser, 1, 0.5)

    rates_of(photos, tmp_path / "run", halved, 2)
    assert rates_of(photos, tmp_path / "run", halved, 4) == rates_of(photos, tmp_path / "whole", halved, 4)


def test_a_run_that_cant_be_exported_has_its_page(photos, tmp_path, monkeypatch, capfd):
    def refuse(*given, **options):
        raise torch.onnx.OnnxExporterError("long text") from AssertionError("only 4D query")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    run = tmp_path / "run"
    options = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
    assert here("--data", photos, "--out", run, "--epochs", 1, "--bs", 8, *options) == 2
    stderr = capfd.readouterr().err
    assert stderr.startswith("error: torch can't export ResNet as ONNX (only 4D query); its trained weights are kept.")
    assert stderr.endswith(f"\nreport {run / 'report.html'}\n")
    assert not (run / "model.onnx").exists()
    page = (run / "report.html").read_text()
    assert "has not finished" not in page
    assert percent(json.loads((run / "metrics.json").read_text())["accuracy"]) in page
    (run / "model.onnx").write_bytes(b"of the first epoch's weights")
    assert here("--out", run, "--resume", "--epochs", 2) == 2
    assert (run / "report.html").read_text() == page, "it shows the new weights with the old file"


def test_the_error_of_an_export_is_told_even_if_its_page_cant_be_written(tmp_path, monkeypatch):
    def full(run):
        raise OSError("No space left on device")

    monkeypatch.setattr(run_page, "write_report", full)
    with pytest.raises(ValueError, match="not exported") as caught, run_page.with_page(Run(tmp_path)):
        raise ValueError("not exported")
    assert caught.value.__notes__ == ["the page could not be written: No space left on device"]
