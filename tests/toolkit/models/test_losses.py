"""Losses against closed forms and torch's own; weights of classes against scikit-learn's; what a run says of both."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_model
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional as F

from recipes import digits, hw1
from toolkit import files
from toolkit import run as runs
from toolkit.models.losses import LOSSES, create_loss, cross_entropy, focal, smoothing, weights_by_class
from toolkit.training.begin import begin


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


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0])
def test_focal_of_a_certain_photo_is_0_with_finite_gradients_for_any_gamma(gamma):
    logits = torch.tensor([[200.0, 0, 0], [17.0, 0, 0], [15.0, 0, 0]], requires_grad=True)
    losses = focal(logits, torch.tensor([0, 0, 0]), gamma=gamma, reduction="none")
    losses.sum().backward()
    exact = logits.detach().double().requires_grad_()
    log_p = exact.log_softmax(1)[1:, 0]
    ((-torch.expm1(log_p)) ** gamma * -log_p).sum().backward()
    assert losses[0] == 0
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=0.1, atol=1e-7)


def test_smoothing_is_cross_entropy_against_the_smoothed_target(batch):
    target = lambda label: np.eye(7)[label] * 0.9 + 0.1 / 7  # noqa: E731
    expected = by_hand(*batch, lambda row, label: -(target(label) * row).sum())
    assert smoothing(*batch).item() == pytest.approx(expected, rel=1e-6)


def test_smoothing_with_eps_0_is_cross_entropy(batch):
    assert smoothing(*batch, smoothing=0).item() == pytest.approx(F.cross_entropy(*batch).item(), rel=1e-6)


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


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_weighted_smoothing_and_ce_are_torchs_and_what_it_documents(batch, share):
    logits, labels, weight = batch[0].float(), batch[1], torch.linspace(0.1, 5, 7)
    torchs = nn.CrossEntropyLoss(weight=weight, label_smoothing=share)(logits, labels)
    ours = create_loss("smoothing", weight, smoothing=share) if share else create_loss("ce", weight)
    target, factors = np.eye(7)[labels] * (1 - share) + share / 7, weight.double().numpy()
    documented = -(target * factors * batch[0].log_softmax(1).numpy()).sum() / factors[labels].sum()
    assert ours(*batch).item() == pytest.approx(torchs.item(), rel=1e-6)
    assert ours(*batch).item() == pytest.approx(documented, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_that_are_all_alike_change_nothing(name, batch):
    weighted = create_loss(name, torch.full((7,), 3.0))
    assert weighted(*batch).item() == pytest.approx(create_loss(name)(*batch).item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_of_2_is_each_photo_of_the_class_seen_twice(name, batch):
    "Of smoothing where its target is one-hot: otherwise its weights are on the target's other classes too."
    options = {"smoothing": 0.0} if name == "smoothing" else {}
    weighted = create_loss(name, torch.tensor([1.0, 1, 2, 1, 1, 1, 1]), **options)
    twice = torch.cat([torch.arange(32), torch.arange(32)[batch[1] == 2]])
    again = create_loss(name, **options)(batch[0][twice], batch[1][twice])
    assert weighted(*batch).item() == pytest.approx(again.item(), rel=1e-6)


COUNTS = {"10": 3, "2": 40, "cat": 1, "dog": 5000}


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat(list(COUNTS), list(COUNTS.values()))
    expected = compute_class_weight("balanced", classes=np.array(list(COUNTS)), y=labels)
    np.testing.assert_allclose(weights_by_class("balanced", COUNTS).numpy(), expected, rtol=1e-6)


def test_effective_weights_are_one_over_the_sum_of_betas_powers():
    "The effective number is 1 + beta + ... + beta^(count - 1): the paper's proposition 1 is this series."
    expected = np.array([1 / sum(0.999**power for power in range(count)) for count in COUNTS.values()])
    weights = weights_by_class("effective", COUNTS).numpy()
    np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-6)
    assert weights.mean() == pytest.approx(1)


def test_no_class_weights_is_no_weight_and_wrong_ones_are_told():
    assert weights_by_class("none", COUNTS) is None
    with pytest.raises(ValueError, match="unknown --class_weights 'even': choose one of none, balanced, effective"):
        weights_by_class("even", COUNTS)
    for kind in ("balanced", "effective"):
        with pytest.raises(ValueError, match=f"--class_weights {kind}: class b has no photo to train on"):
            weights_by_class(kind, {"a": 3, "b": 0})


def test_gamma_and_smoothing_reach_their_loss_and_default_to_2_and_a_tenth(batch):
    assert [create_loss(name).options for name in LOSSES] == [{}, {"gamma": 2.0}, {"smoothing": 0.1}]
    assert create_loss("focal", gamma=0.5)(*batch) == focal(*batch, gamma=0.5) != focal(*batch)
    assert create_loss("smoothing", smoothing=0.3)(*batch) == smoothing(*batch, smoothing=0.3) != smoothing(*batch)
    assert create_loss("focal", gamma=0.0)(*batch).item() == pytest.approx(F.cross_entropy(*batch).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "ce", "gamma": 2.0}, "--gamma 2.0 with --loss ce: only focal has one"),
        ({"name": "smoothing", "gamma": 0.0}, "--gamma 0.0 with --loss smoothing: only focal has one"),
        ({"name": "focal", "smoothing": 0.1}, "--smoothing 0.1 with --loss focal: only smoothing has one"),
        ({"name": "focal", "gamma": -0.5}, "--gamma -0.5: give a number from 0"),
        ({"name": "focal", "gamma": float("nan")}, "--gamma nan: give"),
        ({"name": "focal", "gamma": float("inf")}, "--gamma inf: give"),
        ({"name": "smoothing", "smoothing": 1.0}, "--smoothing 1.0: give a number from 0 .* to below 1"),
        ({"name": "smoothing", "smoothing": -0.1}, "--smoothing -0.1: give"),
        ({"name": "smoothing", "smoothing": float("nan")}, "--smoothing nan: give"),
    ],
)
def test_a_value_out_of_range_or_of_another_loss_is_an_error(options, said):
    with pytest.raises(ValueError, match=said):
        create_loss(**options)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    "Two classes of noise, 6 and 2 photos to train, 2 of each to validate."
    root, draws = tmp_path_factory.mktemp("uneven"), np.random.default_rng(0)
    for folder, count in (("train/a", 6), ("train/b", 2), ("val/a", 2), ("val/b", 2)):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(root / folder / f"{number}.png"), draws.integers(0, 256, (40, 48, 3), np.uint8))
    return root


SMALL = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 4, "precision": "fp32", "workers": 0}
CHOSEN = {"loss": "focal", "gamma": None, "smoothing": None, "class_weights": "balanced", "sampler": "shuffle"}
DRAWN = {"class_weights": "none", "sampler": "balanced"}


def begun(photos, folder, resume=False, **options):
    options = {"lr": 1e-3, "accum": 1, "seed": 0} | SMALL | CHOSEN | options
    learn = hw1.learner(photos, **options, device="cpu")
    return begin(folder, learn), learn


SMOOTHING = {"loss": "smoothing", "smoothing": 0.3, "class_weights": "effective"}


@pytest.mark.parametrize("options", [{}, SMOOTHING, DRAWN | {"gamma": 1.0}])
def test_a_run_records_what_its_loss_came_to_and_is_rebuilt_with_it(uneven, tmp_path, options):
    run, learn = begun(uneven, tmp_path / "run", **options)
    said = {name: run.recipe["options"][name] for name in CHOSEN}
    assert said == (CHOSEN | options if options else CHOSEN | {"gamma": 2.0})
    save_model(learn.model, run.path("best.safetensors"))
    again = runs.load(run.folder).learner("cpu")
    assert again.loss_func.options == learn.loss_func.options
    torch.testing.assert_close(again.loss_func.weight, learn.loss_func.weight, rtol=0, atol=0)
    assert again.dls.train.sampler_state.sampling_weights == learn.dls.train.sampler_state.sampling_weights
    logits, labels = torch.randn(5, 2), torch.tensor([0, 1, 0, 0, 1])
    assert again.loss_func(logits, labels) == learn.loss_func(logits, labels)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gamma", "2", "has options.gamma '2', expected a number"),
        ("smoothing", [0.1], r"has options.smoothing \[0.1\], expected a number"),
        ("gamma", -1, "--gamma -1: give a number from 0"),
        ("class_weights", ["even"], r"unknown --class_weights \['even'\]: choose one of none"),
        ("sampler", None, "unknown --sampler None: choose one of shuffle"),
    ],
)
def test_a_recipe_json_whose_loss_or_sampler_cant_be_followed_is_refused(uneven, tmp_path, name, value, said):
    run, learn = begun(uneven, tmp_path / "run")
    save_model(learn.model, run.path("best.safetensors"))
    run.recipe["options"][name] = value
    files.write_json(run.path("recipe.json"), run.recipe)
    with pytest.raises(ValueError, match=said):
        runs.load(run.folder).learner("cpu")


def test_a_run_of_before_these_options_is_rebuilt_with_their_defaults(uneven, tmp_path):
    run, learn = begun(uneven, tmp_path / "run", class_weights="none", sampler="shuffle")
    save_model(learn.model, run.path("best.safetensors"))
    for name in ("gamma", "smoothing", "class_weights", "sampler"):
        del run.recipe["options"][name]
    files.write_json(run.path("recipe.json"), run.recipe)
    again = runs.load(run.folder).learner("cpu")
    assert (again.loss_func.options, again.loss_func.weight) == ({"gamma": 2.0}, None)
    assert again.dls.train.sampler_state.sampling_weights is None


def test_a_run_whose_photos_are_gone_is_rebuilt_with_its_weights(uneven, tmp_path):
    shutil.copytree(uneven, tmp_path / "photos")
    run, learn = begun(tmp_path / "photos", tmp_path / "run")
    save_model(learn.model, run.path("best.safetensors"))
    shutil.rmtree(tmp_path / "photos")
    with pytest.warns(UserWarning, match="has none to train on"):
        again = runs.load(run.folder).learner("cpu")
    np.testing.assert_allclose(again.loss_func.weight, [8 / (2 * 6), 8 / (2 * 2)], rtol=1e-6)


@pytest.mark.parametrize(
    ("first", "change", "said"),
    [
        ({}, {"gamma": 1.0}, "begun with --gamma 2.0, now it is 1.0"),
        ({}, {"class_weights": "none"}, "begun with --class_weights balanced, now it is none"),
        (DRAWN, {"sampler": "shuffle"}, "begun with --sampler balanced, now it is shuffle"),
    ],
)
def test_a_resume_with_another_loss_or_sampler_is_refused(uneven, tmp_path, first, change, said):
    begun(uneven, tmp_path / "run", gamma=2.0, **first)
    begun(uneven, tmp_path / "run", resume=True, **first)  # None comes to a gamma of 2
    with pytest.raises(ValueError, match=said):
        begun(uneven, tmp_path / "run", resume=True, **(first | change))


def test_both_recipes_hand_their_options_to_loss_and_loaders(tmp_path):
    learn = digits.learner(tmp_path / "digits", "focal", gamma=0.5, class_weights="balanced", device="cpu")
    assert learn.loss_func.options == {"gamma": 0.5}
    counts = learn.dls.data.counts
    np.testing.assert_allclose(
        learn.loss_func.weight, [sum(counts.values()) / 10 / count for count in counts.values()], rtol=1e-6
    )
    drawn = digits.learner(tmp_path / "digits", sampler="balanced", device="cpu")
    assert set(drawn.dls.train.sampler_state.sampling_weights) == set(learn.dls.data.train)


@pytest.mark.parametrize("weight", [None, torch.tensor([0.01, 50.0, 1.0])])
@pytest.mark.parametrize("name", LOSSES)
def test_float16_logits_give_finite_losses_and_gradients(name, weight):
    logits = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 6e4, 0.0]], dtype=torch.float16, requires_grad=True)
    loss = create_loss(name, weight)(logits, torch.tensor([1, 1]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_reduction_none_gives_a_loss_an_image_whose_mean_is_the_loss(name, batch):
    loss = create_loss(name)
    mean = loss(*batch)
    loss.reduction = "none"
    assert loss(*batch).shape == (32,)
    assert loss(*batch).mean().item() == pytest.approx(mean.item(), rel=1e-6)


def test_an_unknown_loss_names_those_there_are():
    with pytest.raises(ValueError, match="unknown loss 'focl': choose one of ce, focal, smoothing"):
        create_loss("focl")


@pytest.mark.parametrize("kind", ["balanced", "effective"])
def test_class_weights_beside_a_sampler_that_balances_are_refused(kind):
    with pytest.raises(
        ValueError, match=f"--class_weights {kind} with --sampler balanced: rare classes would count twice"
    ):
        weights_by_class(kind, COUNTS, "balanced")
    assert weights_by_class("none", COUNTS, "balanced") is None
