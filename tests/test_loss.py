"""Losses against closed forms and torch's own."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from toolkit.loss import LOSSES, cross_entropy, focal, make_loss, smoothing


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(32, 7, generator=generator, dtype=torch.float64) * 3, torch.arange(32) % 7


def by_hand(logits, labels, of_log_p):
    "Mean over the batch of a function of each row's log-probabilities and label, in numpy."
    log_p = logits.numpy() - np.log(np.exp(logits.numpy()).sum(1, keepdims=True))
    return np.mean([of_log_p(row, label) for row, label in zip(log_p, labels.numpy(), strict=True)])


def test_cross_entropy_is_minus_log_p_of_the_label(batch):
    assert cross_entropy(*batch).item() == pytest.approx(by_hand(*batch, lambda row, label: -row[label]), rel=1e-6)


def test_focal_is_its_formula(batch):
    expected = by_hand(*batch, lambda row, label: -((1 - np.exp(row[label])) ** 2) * row[label])
    assert focal(*batch).item() == pytest.approx(expected, rel=1e-6)


def test_focal_with_gamma_0_is_cross_entropy(batch):
    assert focal(*batch, gamma=0).item() == pytest.approx(F.cross_entropy(*batch).item(), rel=1e-6)


def test_smoothing_is_cross_entropy_against_the_smoothed_target(batch):
    target = lambda label: np.eye(7)[label] * 0.9 + 0.1 / 7  # noqa: E731
    expected = by_hand(*batch, lambda row, label: -(target(label) * row).sum())
    assert smoothing(*batch).item() == pytest.approx(expected, rel=1e-6)


def test_smoothing_with_eps_0_is_cross_entropy(batch):
    assert smoothing(*batch, eps=0).item() == pytest.approx(F.cross_entropy(*batch).item(), rel=1e-6)


def test_class_weights_scale_focal_but_do_not_enter_p_t(batch):
    weight = torch.linspace(0.1, 5, 7, dtype=torch.float64)
    p_t = batch[0].softmax(1)[torch.arange(32), batch[1]]
    factors = weight[batch[1]]
    expected = (factors * (1 - p_t) ** 2 * -p_t.log()).sum() / factors.sum()
    assert focal(*batch, weight=weight).item() == pytest.approx(expected.item(), rel=1e-6)


def test_weighted_focal_with_gamma_0_is_torchs_weighted_cross_entropy(batch):
    weight = torch.linspace(0.1, 5, 7)
    expected = F.cross_entropy(batch[0].float(), batch[1], weight=weight)
    assert focal(*batch, gamma=0, weight=weight).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_float16_logits_give_finite_losses_and_gradients(name):
    logits = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 6e4, 0.0]], dtype=torch.float16, requires_grad=True)
    loss = make_loss(name)(logits, torch.tensor([1, 1]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_reduction_none_gives_a_loss_an_image_whose_mean_is_the_loss(name, batch):
    loss = make_loss(name)
    mean = loss(*batch)
    loss.reduction = "none"
    assert loss(*batch).shape == (32,)
    assert loss(*batch).mean().item() == pytest.approx(mean.item(), rel=1e-6)


def test_an_unknown_loss_names_those_there_are():
    with pytest.raises(ValueError, match="unknown loss 'focl': choose one of ce, focal, smoothing"):
        make_loss("focl")
