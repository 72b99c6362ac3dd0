"""The linear probe against scikit-learn and timm, and as the first epoch of a fit."""

import csv

import pytest
import torch
from fastai.callback.core import Callback
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from recipes import digits
from toolkit.features.doubts import FILE, read_doubts
from toolkit.finetuning.linear_probe import (
    STRENGTHS,
    LinearProbe,
    _strength,
    features_of,
    fit_linear,
    linear_heads,
    linear_probe,
)
from toolkit.learner.schedule import OneCycle
from toolkit.models.losses import create_loss
from toolkit.pages.run_page import write_report
from toolkit.search import network_probe
from toolkit.training.begin import begin
from toolkit.training.fit import fit


@pytest.fixture(scope="module")
def folder(few_digits):
    return few_digits


@pytest.fixture
def learn(folder):
    learn = digits.learner(folder, device="cpu")
    learn.remove_cbs([learn.progress])
    return learn


def body_of(learn):
    head = linear_heads(learn.model)
    return [
        weight.clone() for weight in learn.model.parameters() if all(weight is not own for own in head.parameters())
    ]


def test_the_classifier_is_scikit_learns():
    torch.manual_seed(0)
    features, labels = torch.randn(300, 12), torch.randint(0, 4, (300,))
    start = torch.zeros(4, 12), torch.randn(4)
    weight, bias, loss = fit_linear(features, labels, F.cross_entropy, 0.02, start)
    other = LogisticRegression(C=1 / (300 * 0.02), tol=1e-8, max_iter=1000).fit(features.numpy(), labels.numpy())
    centred = bias - bias.mean()  # a constant added to all logits changes nothing
    assert weight.numpy() == pytest.approx(other.coef_, abs=2e-3)
    assert centred.numpy() == pytest.approx(other.intercept_ - other.intercept_.mean(), abs=2e-3)
    assert loss == pytest.approx(F.cross_entropy(features @ weight.T + bias, labels).item(), rel=1e-6)


def test_a_large_classifier_is_fitted_in_bounded_memory_to_the_same_loss(monkeypatch):
    torch.manual_seed(0)
    features, labels = torch.randn(300, 50), torch.randint(0, 40, (300,))
    start = torch.zeros(40, 50), torch.zeros(40)
    *_, whole = fit_linear(features, labels, F.cross_entropy, 0.02, start)
    monkeypatch.setattr("toolkit.features.fit_linear.HISTORY", 1)
    kept = []

    class Watched(torch.optim.LBFGS):
        def __init__(self, *given, **options):
            kept.append(options["history_size"])
            super().__init__(*given, **options)

    monkeypatch.setattr(torch.optim, "LBFGS", Watched)
    *_, bounded = fit_linear(features, labels, F.cross_entropy, 0.02, start)
    assert kept == [10]
    assert bounded == pytest.approx(whole, rel=1e-3)


def test_the_strongest_penalty_within_a_standard_error_of_the_best_is_chosen():
    torch.manual_seed(0)
    photos, classes, order = torch.randn(101, 60), torch.randint(0, 5, (101,)), torch.arange(500) % 101
    features, labels = photos[order] + 0.3 * torch.randn(500, 60), classes[order]  # each photo about five times
    by_class = labels.argsort(stable=True)
    features, labels = features[by_class], labels[by_class]
    held, right = torch.arange(500) % 5 == 0, {}
    for l2 in STRENGTHS:
        other = LogisticRegression(C=1 / (400 * l2), tol=1e-6, max_iter=5000).fit(features[~held], labels[~held])
        right[l2] = other.score(features[held], labels[held])
    best = max(right.values())
    expected = max(l2 for l2 in STRENGTHS if right[l2] >= best - (best * (1 - best) / 100) ** 0.5)
    assert expected != max(right, key=right.get)  # or the rule would not show

    zero = torch.zeros(5, 60), torch.zeros(5)
    l2, held_out, (weight, _) = _strength(features, labels, F.cross_entropy, zero)
    assert (l2, held_out) == (expected, pytest.approx(right[expected]))
    assert weight.shape == (5, 60)


def test_photos_of_every_class_are_held_out_if_every_fifth_photo_is_of_one_class():
    labels = torch.arange(500) % 5  # a CSV in the order of its names: one photo of each class by turns
    features = F.one_hot(labels, 5).float() + 0.1 * torch.randn(500, 5, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(5, 5), torch.zeros(5)
    _, held_out, _ = _strength(features, labels, F.cross_entropy, zero)
    assert held_out == 1


def test_features_are_what_timm_gives_before_the_classifier(learn):
    features, labels = features_of(learn)
    photos = learn.dls.data.train
    images, expected = next(iter(learn.dls.test_dl(list(photos)[:64], with_labels=True)))
    learn.model.eval()
    with torch.no_grad():
        before = learn.model.forward_head(learn.model.forward_features(images), pre_logits=True)
    assert features.shape == (len(photos), before.shape[1])
    assert features[:64].numpy() == pytest.approx(before.numpy(), abs=1e-5)
    assert labels[:64].tolist() == expected.tolist()
    assert [learn.dls.vocab[label] for label in labels.tolist()] == list(photos.values())


def test_a_probe_changes_the_head_alone_and_is_what_the_model_then_says(learn):
    before, mode = body_of(learn), learn.model.training
    found = linear_probe(learn)
    assert all(torch.equal(old, new) for old, new in zip(before, body_of(learn), strict=True))
    assert learn.model.training is mode
    features, labels = features_of(learn)
    head = linear_heads(learn.model)[0]
    logits = features @ head.weight.detach().T + head.bias.detach()
    assert F.cross_entropy(logits, labels).item() == pytest.approx(found["loss"], rel=1e-3)
    assert found["held_out"] > 0.5  # of ten digits, by a body that was never trained


@pytest.mark.parametrize("name", ["ce", "focal", "smoothing"])
def test_where_the_sampler_balances_classes_so_does_the_probe(learn, monkeypatch, name):
    "Its loss is then the mean over classes of each class's mean loss."
    features, digit = features_of(learn)
    labels = digit // 4  # three classes: of four digits, of four and of two
    monkeypatch.setattr("toolkit.finetuning.linear_probe.features_of", lambda learn: (features, labels))
    monkeypatch.setattr(learn.dls.train.sampler_state, "sampling_weights", {"any": 1.0})
    monkeypatch.setattr(learn, "loss_func", create_loss(name))
    found, head, each = linear_probe(learn), linear_heads(learn.model)[0], create_loss(name)
    each.reduction = "none"
    with torch.no_grad():
        losses = each(head(features), labels)
    means = [losses[labels == label].mean().item() for label in range(3)]
    assert found["loss"] == pytest.approx(sum(means) / 3, rel=1e-3)
    assert found["loss"] != pytest.approx(losses.mean().item(), rel=1e-3)
    assert learn.loss_func.reduction == "mean"
    monkeypatch.setattr(learn, "loss_func", lambda logits, labels: logits.sum())
    with pytest.raises(ValueError, match="--sampler balanced: the probe can't weight the photos in function"):
        linear_probe(learn)


def test_what_the_probe_sees_of_the_photos_changes_nothing_in_it(learn):
    head, seen = linear_heads(learn.model), {}
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    linear_probe(learn)
    alone = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    head.load_state_dict(before)
    linear_probe(learn, seen)
    assert all(torch.equal(alone[name], tensor) for name, tensor in head.state_dict().items())
    assert (seen["features"] == features_of(learn)[0].numpy()).all()
    assert seen["thumbnails"].shape == (len(learn.dls.data.train), 32, 32)


def test_a_model_without_a_linear_classifier_is_refused():
    class Odd(torch.nn.Module):
        def get_classifier(self):
            return torch.nn.Identity()

    with pytest.raises(ValueError, match="classifier of Odd is Identity, not a linear layer with a bias.*--no-probe"):
        linear_heads(Odd())


def probing(folder):
    "A learner whose first epoch is a linear probe."
    learn = digits.learner(folder, device="cpu")
    learn.remove_cb(learn.one_cycle)
    learn.add_cbs([LinearProbe(), OneCycle()])
    return learn


def test_the_first_epoch_of_a_run_is_the_probe_and_a_resumed_one_goes_on_after_it(folder, tmp_path):
    learn = probing(folder)
    before = body_of(learn)
    run = begin(tmp_path / "run", learn)
    fit(learn, run, 1)
    assert all(torch.equal(old, new) for old, new in zip(before, body_of(learn), strict=True))
    (row,) = csv.DictReader(run.path("history.csv").open())
    assert float(row["train_loss"]) == pytest.approx(learn.probe.found["loss"], rel=1e-5)
    assert float(row["accuracy"]) == pytest.approx(float(learn.validate()[1]))
    doubts = read_doubts(run.path(FILE))  # of what the probe's features show about the training photos
    assert doubts == learn.probe.doubts
    assert {doubt.finding for doubt in doubts} <= {"label", "duplicate", "conflict", "odd"}
    assert {doubt.file for doubt in doubts} <= set(map(learn.dls.data.relative, learn.dls.data.train))
    page = write_report(run).read_text()
    assert "Doubtful training photos" in page
    assert all(doubt.file in page for doubt in doubts[:3])
    del run, learn
    again = probing(folder)
    run = begin(tmp_path / "run", again)
    fit(again, run, 3)
    assert again.probe.found is None
    rates = [float(row["lr"]) for row in csv.DictReader(run.path("history.csv").open())]
    assert len(rates) == 3
    assert rates[1] == pytest.approx(4e-3 / 25)  # the schedule begins with the training


def test_what_the_probe_doubts_is_written_before_the_state_that_it_is_resumed_from(folder, tmp_path):
    "A run that is killed after it would find no doubts again: its probe has been."
    learn, seen = probing(folder), []
    run = begin(tmp_path / "run", learn)

    class Look(Callback):
        order = 69  # before the Checkpoint

        def after_epoch(self):
            seen.append((run.path(FILE).is_file(), run.path("last.pt").is_file()))

    learn.add_cb(Look())
    fit(learn, run, 1)
    assert seen == [(True, False)]


def test_a_fit_in_a_notebook_trains_what_a_run_trains(folder, tmp_path):
    first, second = probing(folder), probing(folder)
    run = begin(tmp_path / "run", first)
    for learn, train in ((first, lambda: fit(first, run, 2)), (second, lambda: second.fit(2))):
        torch.manual_seed(0)  # of the dropout
        with learn.no_logging():
            train()
    losses = [float(row["valid_loss"]) for row in csv.DictReader(run.path("history.csv").open())]
    assert losses == pytest.approx([values[1] for values in second.recorder.values], rel=1e-6)


def test_a_second_fit_in_a_notebook_probes_no_more(learn):
    learn.add_cb(LinearProbe())
    with learn.no_logging():
        learn.fit(1)
        probed = body_of(learn)
        learn.fit(1)
    assert not all(torch.equal(old, new) for old, new in zip(probed, body_of(learn), strict=True))


def test_known_features_are_not_computed_again_but_for_a_schedule_of_fastais_own(learn, monkeypatch):
    "fine_tune and fit_one_cycle may have trained the body since."
    learn.add_cb(LinearProbe())
    learn.probe.know(network_probe.features_of(learn))
    with learn.no_logging():
        learn.fit_one_cycle(1)
        assert learn.probe.features is None
    again = digits.learner(learn.dls.data.path, device="cpu")
    again.remove_cbs([again.progress])
    again.add_cb(LinearProbe())
    again.probe.know(network_probe.features_of(again))
    monkeypatch.setattr("toolkit.finetuning.linear_probe.features_of", None)
    with again.no_logging():
        again.fit(1)
    assert again.probe.found["held_out"] > 0.5
