"""Suspected labels: probabilities against scikit-learn's cross-validation, confident learning against its equations."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from toolkit.features.mislabelled import (
    confident_class,
    held_out_probabilities,
    out_of_fold,
    suspected_labels,
)


@pytest.fixture(scope="module")
def digits():
    "Features, labels of which 40 are wrong, and the right ones: 800 handwritten digits."
    features, right = load_digits(return_X_y=True)
    features, right = features[:800], right[:800]
    draw, labels = np.random.default_rng(0), right.copy()
    wrong = draw.choice(800, 40, replace=False)
    labels[wrong] = (labels[wrong] + draw.integers(1, 10, 40)) % 10
    return features, labels, right


@pytest.fixture(scope="module")
def probabilities(digits):
    return out_of_fold(digits[0], digits[1], np.arange(800) % 5)


def test_probabilities_are_of_a_classifier_that_did_not_see_the_photo(digits):
    features, labels, _ = digits
    probabilities = held_out_probabilities(features, labels, np.arange(800) % 5, 0.1)
    scaled = (features - features.mean(0)) / features.std()
    train = np.arange(800) % 5 != 2
    model = LogisticRegression(C=1 / (640 * 0.1), tol=1e-8, max_iter=5000).fit(scaled[train], labels[train])
    assert probabilities[~train] == pytest.approx(model.predict_proba(scaled[~train]), abs=0.02)
    assert probabilities.sum(1) == pytest.approx(np.ones(800), abs=1e-4)


def test_the_strength_with_the_lower_log_loss_is_taken(digits, probabilities):
    from sklearn.metrics import log_loss

    features, labels, _ = digits
    losses = {}
    for l2 in (0.1, 0.01):
        each = held_out_probabilities(features, labels, np.arange(800) % 5, l2)
        losses[l2] = log_loss(labels, each.astype(float) / each.sum(1, keepdims=True))
    assert min(losses.values()) < 0.99 * max(losses.values())
    assert log_loss(labels, probabilities.astype(float)) == pytest.approx(min(losses.values()), rel=1e-3)


def test_planted_errors_are_found(digits, probabilities):
    _, labels, right = digits
    found = suspected_labels(probabilities, labels)
    wrong = set(np.flatnonzero(labels != right).tolist())
    assert len(wrong & set(found.photo.tolist())) >= 0.9 * len(wrong)
    assert len(wrong & set(found.photo.tolist())) >= 0.8 * len(found.photo)
    right_again = found.suggestion == right[found.photo]
    assert right_again[[photo in wrong for photo in found.photo]].mean() > 0.9
    assert (np.diff(found.label) >= 0).all()


def test_confident_learning_counts_by_its_equations(digits, probabilities):
    "Northcutt et al. 2021, equations 1 and 2, written out."
    _, labels, _ = digits
    counted = confident_class(probabilities, labels)
    thresholds = {
        j: np.mean([p[j] for p, label in zip(probabilities, labels, strict=True) if label == j]) for j in range(10)
    }
    for p, found in zip(probabilities, counted, strict=True):
        above = [j for j in range(10) if p[j] >= thresholds[j]]
        assert found == (max(above, key=lambda j: p[j]) if above else -1)
    assert (counted == -1).any()


def test_suspicion_needs_a_clearly_likelier_class_or_confident_learning():
    labels = np.array([0, 0, 0, 1, 1, 1])
    likely = np.array([[0.9, 0.1], [0.08, 0.92], [0.4, 0.6], [0.1, 0.9], [0.2, 0.8], [0.84, 0.16]])
    found = suspected_labels(likely, labels)
    # thresholds: class 0 (0.9 + 0.08 + 0.4) / 3 = 0.46, class 1 (0.9 + 0.8 + 0.16) / 3 = 0.62; ratios 11.5, 1.5, 5.25
    assert found.photo.tolist() == [1, 5]
    assert found.suggestion.tolist() == [1, 0]
    assert found.confidence.tolist() == pytest.approx([0.92, 0.84])


def test_photos_held_out_in_no_fold_have_no_probabilities_and_are_never_suspected(digits):
    features, labels, _ = digits
    folds = np.arange(200) % 3 - 1
    found = out_of_fold(features[:200], labels[:200], folds)
    assert np.isnan(found[folds == -1]).all()
    assert not np.isnan(found[folds >= 0]).any()
    assert set(suspected_labels(found, labels[:200]).photo) <= set(np.flatnonzero(folds >= 0))
