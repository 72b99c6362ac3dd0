"""hw1's learner follows a plain PyTorch loop step by step: losses, parameters, learning rates."""

import copy

import cv2
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.mixup import MixUp
from torch import nn
from torch.nn import functional as F

from recipes import hw1
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.learner import make_learner
from toolkit.models.losses import create_loss
from toolkit.options import Options

CLASSES, LR = 4, 1e-2


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """4 classes of noise around a grey, 52 photos to train: 7 mini-batches of 8, the last one of 4. Validation has
    another class's grey, so that its loss grows as the training loss falls, and the plateau fires.
    """
    root, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, each, shift in (("train", 13, 0), ("val", 5, 1)):
        for label in range(CLASSES):
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for number in range(each):
                pixels = (
                    draws.normal(60 + 40 * ((label + shift) % CLASSES), 40, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                )
                cv2.imwrite(str(folder / f"{number}.png"), pixels)
    return root


def make(photos, loss, **options):
    settings = dict(arch="test_resnet", weights="none", image_size=32, bs=8, lr=LR, workers=0, precision="fp32")
    learn = hw1.learner(photos, loss, **(settings | options), device="cpu")
    learn.remove_cb(learn.progress)
    return learn


class Witness(Callback):
    "Writes down what the learner saw and did, so that the plain loop can be fed the same batches and dropout."

    order = 96  # sees what the model sees

    def __init__(self):
        self.batches, self.valid, self.losses, self.weights, self.rates, self.random = [], [], [], [], [], []

    def before_train(self):
        self.batches.append([])

    def before_batch(self):
        if self.training and self.iter == 0:
            self.random.append(torch.get_rng_state())  # the loader has drawn from it, the dropout will
        x, y = self.xb[0].clone(), self.yb[0].clone()
        (self.batches[-1] if self.training else self.valid).append((x, y))

    def before_validate(self):
        self.valid.clear()

    def after_batch(self):
        if self.training:
            self.losses.append(self.loss.item())

    def after_step(self):
        self.weights.append([weight.detach().clone() for weight in self.model.parameters()])

    def after_epoch(self):
        self.rates.append(self.opt.opt.param_groups[0]["lr"])


def reference_loss(name, logits, labels):
    "The three losses in torch's own functions, none of ours."
    if name == "focal":
        each = F.cross_entropy(logits, labels, reduction="none")
        return ((1 - torch.exp(-each)) ** 2 * each).mean()
    return F.cross_entropy(logits, labels, label_smoothing=0.1 if name == "smoothing" else 0.0)


def plain_loop(model, seen, loss, lr, exact):
    """AdamW, gradients over groups of two mini-batches, ReduceLROnPlateau: losses, weights after each step, rates.
    Where it is not exact: with the two tricks of torch's own that people give such a loop.
    """
    layout, fused = (torch.contiguous_format, {}) if exact else (torch.channels_last, {"fused": True})
    model = model.to(memory_format=layout)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, **fused)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.2, patience=3)
    losses, weights, rates = [], [], []
    for state, batches in zip(seen.random, seen.batches, strict=True):
        model.train()
        torch.set_rng_state(state)
        for start in range(0, len(batches), 2):
            group = batches[start : start + 2]
            total = sum(len(labels) for _, labels in group)
            for images, labels in group:
                value = reference_loss(loss, model(images.contiguous(memory_format=layout)), labels)
                losses.append(value.item())
                (value * len(labels) / total).backward()
            optimiser.step()
            optimiser.zero_grad()
            weights.append([weight.detach().clone() for weight in model.parameters()])
        model.eval()
        with torch.no_grad():
            parts = [
                (reference_loss(loss, model(images.contiguous(memory_format=layout)), labels).item(), len(labels))
                for images, labels in seen.valid_of
            ]
        schedule.step(sum(value * count for value, count in parts) / sum(count for _, count in parts))
        rates.append(optimiser.param_groups[0]["lr"])
    return losses, weights, rates


@pytest.mark.parametrize(("loss", "exact"), [("ce", True), ("ce", False), ("focal", True), ("smoothing", True)])
def test_learner_equals_a_plain_loop_step_by_step(photos, loss, exact):
    learn, seen = make(photos, loss, exact=exact), Witness()
    model = copy.deepcopy(learn.model)
    with learn.no_logging():
        learn.fit(8, cbs=seen)
    assert [len(batches) for batches in seen.batches] == [7] * 8  # which 2 does not divide
    assert len(seen.batches[0][-1][1]) == 4
    seen.valid_of = seen.valid
    losses, weights, rates = plain_loop(model, seen, loss, LR, exact)
    assert rates[-1] < LR  # the plateau fired
    assert seen.rates == rates
    assert len(seen.weights) == len(weights) == 8 * 4
    to_the_bit = loss != "focal"  # whose formula is written in another way here
    assert seen.losses == (losses if to_the_bit else pytest.approx(losses, rel=1e-6))
    rtol, atol = (0, 0) if to_the_bit else (1e-6, 1e-9)
    for step, (ours, theirs) in enumerate(zip(seen.weights, weights, strict=True)):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                one, other, rtol=rtol, atol=atol, msg=lambda text, step=step: f"step {step}: {text}"
            )


def test_channels_last_and_the_fused_optimiser_begin_as_the_exact_run_does(photos):
    "Rounding is theirs; it grows from step to step, as Adam divides by the size of what may be nothing but rounding."
    exact, fast = Witness(), Witness()
    for seen in (exact, fast):
        learn = make(photos, "ce", exact=seen is exact)  # seeds the dropout too
        with learn.no_logging():
            learn.fit(1, cbs=seen)
    assert fast.losses[:2] == pytest.approx(exact.losses[:2], rel=1e-5)  # before the first step
    assert fast.losses == pytest.approx(exact.losses, rel=1e-3)
    assert fast.batches[0][0][0].is_contiguous(memory_format=torch.channels_last)
    assert exact.batches[0][0][0].is_contiguous()


def test_every_training_photo_is_seen_once_an_epoch_and_every_validation_photo(photos):
    learn, seen = make(photos, "ce"), Witness()
    with learn.no_logging():
        learn.fit(2, cbs=seen)
    for batches in seen.batches:
        labels = torch.cat([y for _, y in batches])
        assert torch.bincount(labels).tolist() == [13] * CLASSES
        assert len(torch.cat([x for x, _ in batches]).flatten(1).unique(dim=0)) == 52
    assert torch.cat([y for _, y in seen.valid]).tolist() == sorted(list(range(CLASSES)) * 5)


class Gradients(Callback):
    "The gradient of each optimiser step, and the mini-batches that went into it."

    order, run_valid = 20, False

    def __init__(self):
        self.found, self.groups, self.pending = [], [], []

    def before_batch(self):
        self.pending.append((self.xb[0].clone(), self.yb[0].clone()))

    def before_step(self):  # not reached within a group: AccumulateGradients, of lower order, cancels the batch
        self.found.append([weight.grad.clone() for weight in self.model.parameters()])
        self.groups.append(self.pending)
        self.pending = []


def without_batch_norm(dls, criterion, accum, precision="fp32"):
    "A learner whose gradients don't depend on how photos are batched, and whose weights stay as they are."
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.GELU(), nn.Linear(16, CLASSES))
    options = Options(lr=0.0, precision=precision, device="cpu")
    return make_learner(options, dls, model, criterion, cbs=[AccumulateGradients(accum)])


def assert_gradients_are_the_big_batchs(learn, seen, big_batch_loss, precision, tolerance):
    for group, found in zip(seen.groups, seen.found, strict=True):
        learn.model.zero_grad()
        images, labels = (torch.cat(part) for part in zip(*group, strict=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = learn.model(images)
        big_batch_loss(logits.float(), labels).backward()
        for weight, gradient in zip(learn.model.parameters(), found, strict=True):
            assert (gradient - weight.grad).norm() <= tolerance * weight.grad.norm()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_accumulated_gradient_is_the_big_batchs(photos, precision, tolerance):
    "In each group, the short last one too, over two epochs and two fits."
    learn, seen = without_batch_norm(make(photos, "ce").dls, create_loss("ce"), 4, precision), Gradients()
    with learn.no_logging(), learn.no_bar():
        learn.fit(2, cbs=seen)
        learn.fit(1, cbs=seen)
    assert [[len(labels) for _, labels in group] for group in seen.groups] == [[8, 8, 8, 8], [8, 8, 4]] * 3
    assert_gradients_are_the_big_batchs(learn, seen, F.cross_entropy, precision, tolerance)


WEIGHT = torch.tensor([0.05, 4.0, 1.0, 0.3])


def weighted_reference(name):
    "The three losses with WEIGHT, the mean over it, in torch's own functions."
    if name == "focal":
        return lambda logits, labels: (
            (
                (1 - logits.softmax(1)[range(len(labels)), labels]) ** 2
                * F.cross_entropy(logits, labels, reduction="none")
                * WEIGHT[labels]
            ).sum()
            / WEIGHT[labels].sum()
        )
    return nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1 if name == "smoothing" else 0.0)


@pytest.mark.parametrize(
    ("loss", "precision", "tolerance"),
    [("ce", "fp32", 1e-5), ("focal", "fp32", 1e-5), ("smoothing", "fp32", 1e-5), ("ce", "fp16", 1e-2)],
)
def test_accumulated_gradient_of_a_weighted_loss_is_the_big_batchs_weighted_mean(photos, loss, precision, tolerance):
    "Mini-batches whose classes differ weigh differently; with and without the loss scaler."
    learn, seen = without_batch_norm(make(photos, loss).dls, create_loss(loss, WEIGHT), 4, precision), Gradients()
    with learn.no_logging(), learn.no_bar():
        learn.fit(2, cbs=seen)
    assert [len(group) for group in seen.groups] == [4, 3] * 2
    assert_gradients_are_the_big_batchs(learn, seen, weighted_reference(loss), precision, tolerance)


def test_validation_loss_of_a_weighted_loss_is_the_weighted_mean_over_all_photos(photos):
    "Whatever the size of the mini-batches: 20 photos, in order of their classes, in batches of 8, 8 and 4."
    learn = without_batch_norm(make(photos, "ce").dls, create_loss("ce", WEIGHT), 1)
    with learn.no_logging(), learn.no_bar():
        reported = learn.validate()[0]
    images, labels = (torch.cat(part).as_subclass(torch.Tensor) for part in zip(*learn.dls.valid, strict=True))
    with torch.no_grad():
        expected = weighted_reference("ce")(learn.model(images), labels)
    assert reported == pytest.approx(expected.item(), rel=1e-5)


def test_a_gradient_left_by_an_interrupted_fit_is_not_carried_into_the_next(photos):
    class Stop(Callback):
        order, run_valid = 70, False

        def after_batch(self):
            if self.iter == 4:  # in the middle of the second group
                raise CancelFitException()

    class Look(Callback):
        order, run_valid = 70, False

        def before_batch(self):
            if self.iter == 0:
                self.left = [weight.grad for weight in self.model.parameters() if weight.grad is not None]

    learn, look = make(photos, "ce", accum=4), Look()
    with learn.no_logging():
        learn.fit(1, cbs=Stop())
        assert any(weight.grad is not None for weight in learn.model.parameters())
        learn.fit(1, cbs=look)
    assert look.left == []


def test_fp16_with_a_loss_scaler_follows_fp32(photos):
    exact, half = make(photos, "ce", lr=1e-3), make(photos, "ce", lr=1e-3, precision="fp16")
    with exact.no_logging(), half.no_logging():
        for learn in (exact, half):
            torch.manual_seed(0)  # the same dropout
            learn.fit(1)
    assert half.opt.opt.state_dict()["state"][0]["step"] == 4  # no step was skipped
    assert half.recorder.values[-1][1] == pytest.approx(exact.recorder.values[-1][1], rel=0.02)


def test_fp16_overflow_skips_the_step_and_halves_the_scale(photos):
    learn = make(photos, "ce", lr=1e-3, precision="fp16")
    learn.loss_scaler.init_scale = 2.0**40
    before = [weight.detach().clone() for weight in learn.model.parameters()]
    with learn.no_logging():
        learn.fit(1)
    assert learn.loss_scaler.scaler.get_scale() == 2.0**36  # four steps, each an overflow
    for weight, old in zip(learn.model.parameters(), before, strict=True):
        torch.testing.assert_close(weight, old, rtol=0, atol=0)


@pytest.mark.parametrize(("loss", "weight"), [("ce", None), ("focal", None), ("smoothing", None), ("focal", WEIGHT)])
def test_fastais_mixup_mixes_labels_with_our_losses(photos, loss, weight):
    learn = make(photos, loss)
    ours = learn.loss_func = create_loss(loss, weight)
    with learn.no_logging():
        learn.fit(1, cbs=MixUp())
    assert learn.loss_func is ours
    assert 0 < learn.recorder.values[-1][0] < 10
