"""What features of mirrored and enlarged photos tell, on features whose answer is known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from toolkit.features.views import is_familiar, mirroring_harms, out_of_fold


def logistic(features, labels):
    return LogisticRegression().fit(features, labels).predict_log_proba


def made(share, photos=200):
    "Log-probabilities of two classes; of `share` of the photos the view has the other class's features."
    draws = np.random.default_rng(0)
    labels = np.arange(photos) % 2
    features = draws.normal(size=(photos, 4)) + 3 * labels[:, None]
    turned = np.arange(photos) // 2 < share * photos / 2
    view = draws.normal(size=(photos, 4)) + 3 * np.where(turned, 1 - labels, labels)[:, None]
    return *out_of_fold(logistic, features, labels, np.arange(photos) // 2 % 4, [features, view]), labels


@pytest.mark.parametrize(("share", "harms"), [(0.0, False), (0.1, True), (1.0, True)])
def test_mirroring_harms_if_mirrored_photos_look_like_another_class(share, harms):
    assert mirroring_harms(*made(share)) == harms


@pytest.mark.parametrize(("share", "familiar"), [(0.0, True), (0.05, True), (0.3, False), (1.0, False)])
def test_photos_are_familiar_if_enlarged_ones_keep_75_of_100_right(share, familiar):
    assert is_familiar(*made(share)) == familiar


def test_a_classifier_judges_no_photo_that_it_was_fitted_to():
    features, labels, folds = np.zeros((6, 1)), np.array([0, 1] * 3), np.array([0, 0, 1, 1, -1, -1])
    features[:, 0] = range(6)
    seen = []

    def fit(part, of):
        seen.append(part[:, 0].tolist())
        return lambda view: np.log(np.full((len(view), 2), 0.5))

    (found,) = out_of_fold(fit, features, labels, folds, [features])
    assert seen == [[2, 3, 4, 5], [0, 1, 4, 5]]
    assert np.isnan(found[4:]).all()
    assert np.allclose(found[:4], np.log(0.5))


def test_photos_of_no_fold_are_left_out_of_the_tests():
    plain, labels = np.log(np.full((4, 2), 0.5)), np.array([0, 1, 0, 1])
    nothing = np.full((4, 2), np.nan)
    assert not mirroring_harms(nothing, nothing, labels)
    assert not mirroring_harms(plain, plain, labels)
    assert is_familiar(nothing, nothing, labels)


def test_a_large_class_does_not_hide_that_small_ones_are_unknown_if_they_are_enlarged():
    labels = np.array([0] * 90 + [1] * 10)
    plain = np.log(np.where(labels[:, None] == [0, 1], 0.9, 0.1))
    always_0 = np.log(np.tile([0.9, 0.1], (100, 1)))
    assert (always_0.argmax(1) == labels).mean() == 0.9
    assert is_familiar(plain, plain, labels)
    assert not is_familiar(plain, always_0, labels)
