"""Features and thumbnails, against timm and OpenCV."""

import cv2
import numpy as np
import pytest
import torch

from toolkit.data.photo import read_photo
from toolkit.data.preprocess import for_size, prepare
from toolkit.features.duplicates import SIDE
from toolkit.features.extract import features_and_thumbnails, linear_heads
from toolkit.models.timm_model import create_model


@pytest.fixture(scope="module")
def model():
    return create_model("test_resnet", 3, "none", image_size=64)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(5):
        small = draw.integers(0, 255, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(small, (100, 75), interpolation=cv2.INTER_CUBIC))
    return sorted(folder.iterdir())


def test_features_are_timms_before_the_classifier_of_photos_prepared_as_for_validation(model, photos):
    preprocess = for_size(64)
    prepared = np.stack([prepare(read_photo(path), preprocess) for path in photos])
    mean, std = (np.array(preprocess[name], np.float32) for name in ("mean", "std"))
    images = torch.from_numpy(((prepared / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))
    model.eval()
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    model.train()
    features, thumbnails = features_and_thumbnails(model, photos, preprocess, bs=2)
    assert model.training
    assert features.dtype == np.float32
    assert features == pytest.approx(expected.numpy(), abs=1e-4)
    assert thumbnails.shape == (5, SIDE, SIDE)
    grey = prepared.mean(3)
    small = np.stack([cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for each in grey])
    assert thumbnails == pytest.approx(small, abs=1)
    assert features_and_thumbnails(model, photos, preprocess, bs=5)[0] == pytest.approx(features, abs=1e-4)


def test_no_photos_an_unreadable_one_and_another_classifier_are_refused(model, photos, tmp_path):
    with pytest.raises(ValueError, match="no photos to compute features of: give one or more"):
        features_and_thumbnails(model, [], for_size(64))[0]
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        features_and_thumbnails(model, [*photos, tmp_path / "broken.jpg"], for_size(64))[0]

    class Odd(torch.nn.Module):
        def get_classifier(self):
            return torch.nn.Identity()

    with pytest.raises(ValueError, match="classifier of Odd is Identity, not a linear layer.*; give another --arch"):
        linear_heads(Odd())
