"""What features of mirrored and enlarged photos tell, on features whose answer is known."""

import cv2
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from toolkit.features.views import changed_features, enlarged, is_familiar, mirrored, mirroring_harms, out_of_fold
from toolkit.models.timm_model import create_model


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


def test_the_enlarged_part_of_an_image_is_its_centre():
    images = torch.zeros(1, 3, 20, 20)
    images[..., 5:15, 5:15] = 1  # half of the width and height
    assert torch.equal(enlarged(images), torch.ones(1, 3, 20, 20))
    images[..., 4, :] = 5
    assert torch.equal(enlarged(images), torch.ones(1, 3, 20, 20))


def test_each_change_has_the_features_of_its_images_in_the_order_of_the_photos():
    "Against timm's own pooled features of images that OpenCV mirrors; the last batch is a short one."
    torch.manual_seed(0)
    model, photos = create_model("test_resnet", 3, "none", image_size=32).eval(), torch.randn(5, 3, 32, 32)
    changes, read = (enlarged, mirrored), []

    def batches():
        for part in photos.split(2):
            read.append(len(part))
            yield part, "a label"

    centre, mirror = changed_features(model, batches(), changes, torch.device("cpu"), exact=True)
    assert read == [2, 2, 1]
    turned = [torch.from_numpy(cv2.flip(photo.permute(1, 2, 0).numpy(), 1)).permute(2, 0, 1) for photo in photos]
    with torch.no_grad():
        pooled = [
            model.forward_head(model.forward_features(each), pre_logits=True)
            for each in (torch.stack(turned), enlarged(photos))
        ]
    assert mirror == pytest.approx(pooled[0].numpy(), abs=1e-5)
    assert centre == pytest.approx(pooled[1].numpy(), abs=1e-5)
    assert not np.allclose(mirror, centre, atol=1e-3)
