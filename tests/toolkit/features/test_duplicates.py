"""Near-duplicates and their groups, on pictures made here."""

import cv2
import numpy as np
import pytest

from toolkit.features.duplicates import SIDE, correlation, groups, near_duplicates, outlying


def scene(seed, side=96):
    "A picture of random blobs, uint8 grey [side, side]."
    noise = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), side / 16)
    return cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def thumbnail(picture):
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def recoded(picture):
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_GRAYSCALE)


@pytest.fixture(scope="module")
def photos():
    "60 scenes; then 0 encoded again, 1 cropped, 2 resized, and again 0 resized. Features: noisy views of the scenes."
    scenes = [scene(seed) for seed in range(60)]
    copies = [recoded(scenes[0]), scenes[1][5:91, 3:89]]
    copies += [cv2.resize(scenes[2], (50, 50)), cv2.resize(scenes[0], (70, 70))]
    thumbnails = np.stack([thumbnail(picture) for picture in [*scenes, *copies]])
    draw = np.random.default_rng(0)
    own = draw.standard_normal((60, 40))
    features = np.concatenate([own, own[[0, 1, 2, 0]] + 0.3 * draw.standard_normal((4, 40))])
    return features, thumbnails


def test_copies_and_nothing_else_are_near_duplicates(photos):
    pairs = near_duplicates(*photos)
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert found == {(0, 60), (1, 61), (2, 62), (0, 63), (60, 63)}
    assert (np.diff(pairs.similarity) <= 0).all()
    assert (pairs.similarity <= 1).all()


def test_without_thumbnails_copies_are_found_by_features(photos):
    pairs = near_duplicates(photos[0])
    assert {(0, 60), (1, 61), (2, 62)} <= set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert pairs.first.max() < 3 or set(pairs.first.tolist()) <= {0, 1, 2, 60}


def test_photos_joined_by_pairs_are_one_group(photos):
    found = groups(near_duplicates(*photos), 64)
    assert found.shape == (64,)
    assert found[0] == found[60] == found[63]
    assert found[1] == found[61]
    assert found[0] != found[1]
    assert len(np.unique(found)) == 60


def test_the_correlation_of_equal_centres_is_pearsons():
    one, other = thumbnail(scene(1)), thumbnail(recoded(scene(1)))
    centre = slice(4, 28)
    expected = np.corrcoef(one[centre, centre].ravel(), other[centre, centre].ravel())[0, 1]
    assert correlation(one, other) == pytest.approx(expected, abs=1e-3)
    assert correlation(one, thumbnail(scene(2))) < 0.8
    assert correlation(one, np.full((SIDE, SIDE), 7, np.uint8)) <= 1
    assert correlation(np.full((SIDE, SIDE), 7, np.uint8), np.full((SIDE, SIDE), 9, np.uint8)) == -1


def test_the_threshold_is_by_the_median_absolute_deviation_of_fishers_z():
    from scipy.stats import median_abs_deviation

    values = np.random.default_rng(0).uniform(0, 0.9, 200)
    z = np.arctanh(values)
    assert outlying(values) == pytest.approx(
        np.tanh(np.median(z) + 3.5 * median_abs_deviation(z, scale="normal")), rel=1e-3
    )


def test_one_photo_has_no_near_duplicates():
    assert len(near_duplicates(np.ones((1, 3)), np.ones((1, SIDE, SIDE), np.uint8)).first) == 0
    assert len(near_duplicates(np.empty((0, 3))).first) == 0


def test_equal_photos_are_near_duplicates_even_if_all_are():
    thumbnails = np.stack([thumbnail(scene(0))] * 4)
    pairs = near_duplicates(np.ones((4, 5)), thumbnails)
    assert len(np.unique(groups(pairs, 4))) == 1
