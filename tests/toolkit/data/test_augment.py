import os
import subprocess
import sys
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms as T
from torchvision.transforms import functional as F

from toolkit.data.augment import reseed
from toolkit.data.augmentation import train_transform
from toolkit.data.on_disk.photo_files import find_photos
from toolkit.data.photo import read_photo

DRAWS = 8000  # at which a uniform aspect is told from a log-uniform one


@cache
def drawn(height: int, width: int) -> dict[str, np.ndarray]:
    "What DRAWS calls of the real pipeline drew, each reseeded as in training."
    compose, photo = train_transform(8), np.zeros((height, width, 3), np.uint8)
    rows = []
    for sample in range(DRAWS):
        reseed(compose, 7, 1, sample)
        compose(image=photo)
        crop, flip, rotate = (transform.params for transform in compose)
        left, top, right, bottom = crop["crop_coords"]
        angle = np.degrees(np.arctan2(rotate["matrix"][0, 1], rotate["matrix"][0, 0]))
        rows.append((left, top, right - left, bottom - top, bool(flip), angle))
    left, top, w, h, flip, angle = np.array(rows).T
    return {"left": left, "top": top, "area": w * h, "aspect": w / h, "flip": flip, "angle": angle}


def torchvision_drew(height: int, width: int) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    boxes = [T.RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(DRAWS)]
    top, left, h, w = np.array(boxes).T
    angle = np.array([T.RandomRotation.get_params([-15, 15]) for _ in range(DRAWS)])
    return {"left": left, "top": top, "area": w * h, "aspect": w / h, "angle": angle}


OTHER_SHAPES = [pytest.param(*shape, marks=pytest.mark.long) for shape in ((640, 427), (60, 400))]


@pytest.mark.parametrize(("height", "width"), [(375, 500), *OTHER_SHAPES])
def test_crop_and_angle_are_distributed_as_torchvisions(height, width):
    ours, theirs = drawn(height, width), torchvision_drew(height, width)
    for name in theirs:
        assert ks_2samp(ours[name], theirs[name]).pvalue > 0.001, name


def test_half_of_the_photos_are_flipped():
    assert abs(drawn(375, 500)["flip"].mean() - 0.5) < 4 * 0.5 / DRAWS**0.5


def test_crop_flip_and_angle_are_drawn_independently():
    "Compose.set_random_seed gives every transform a generator in the same state: the flip then follows from the area."
    draws = drawn(375, 500)
    correlation = np.corrcoef([draws[name] for name in ("area", "flip", "angle")])
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 4 / DRAWS**0.5


def test_corners_a_rotation_leaves_are_black_and_nothing_is_blended():
    compose = train_transform(64)
    out = [compose(image=np.full((300, 400, 3), 255, np.uint8))["image"] for _ in range(50)]
    assert set(np.unique(out)) == {0, 255}
    turned = [image for image in out if (image == 0).any()]
    assert len(turned) > 40
    assert all((image[[0, 0, -1, -1], [0, -1, 0, -1]] == 0).all() for image in turned if (image == 0).mean() > 0.05)


def test_rotation_is_pils_nearest_by_the_same_angle(grocery):
    photo = cv2.resize(read_photo(find_photos(grocery / "val")[0]), (224, 224))
    compose = train_transform(224, scale=(1, 1), flip=0)
    for sample in range(20):
        reseed(compose, 0, 0, sample)
        ours = compose(image=photo)["image"]
        matrix = compose[2].params["matrix"]
        theirs = F.rotate(Image.fromarray(photo), float(np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0]))))
        assert (ours == np.asarray(theirs)).all(-1).mean() > 0.97  # two roundings of a position half-way between pixels


def test_resized_crop_is_torchvisions_of_the_same_box(grocery, odd):
    "Crops larger and smaller than the target, and both at once: the naive resize aliases, 3 grey levels and more."
    photos = [*find_photos(grocery / "val")[:40:20], odd / "exif_rotated" / "exif-orientation__Portrait_2.jpg"]
    compose = train_transform(128, flip=0, degrees=0)
    for photo in map(read_photo, photos):
        errors = []
        for sample in range(40):
            reseed(compose, 1, 1, sample)
            ours = compose(image=photo)["image"]
            left, top, right, bottom = compose[0].params["crop_coords"]
            theirs = F.resized_crop(Image.fromarray(photo), top, left, bottom - top, right - left, [128, 128])
            errors.append(np.abs(ours.astype(int) - np.asarray(theirs)).mean())
        assert max(errors) < 2
        assert np.mean(errors) < 1


def test_draws_depend_on_seed_epoch_and_sample_alone():
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)

    def augmented(*key, before=0):
        compose = train_transform(32)
        for _ in range(before):
            compose(image=photo)
        reseed(compose, *key)
        return compose(image=photo)["image"].tobytes()

    first = augmented(0, 1, 2)
    assert augmented(0, 1, 2, before=3) == first
    others = [
        augmented(*key) for key in [(1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1), (2, 1, 0), (0, 12, 2), (0, 1, 22)]
    ]
    assert len({first, *others}) == 8


@pytest.mark.long
def test_another_process_draws_the_same():
    "Python's own hash of a text differs from process to process."
    code = (
        "from toolkit.data.augmentation import *; from toolkit.data.augment import reseed\n"
        "t = train_transform(8); reseed(t, 3, 4, 5)\n"
        "t(image=np.zeros((90, 90, 3), 'u1'))\n"
        "print(t[0].params['crop_coords'], t[2].params['matrix'].tolist(), t.random_generator.random())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_every_transform_draws_from_the_one_generator_that_reseed_made():
    compose = train_transform(32)
    reseed(compose, 0, 0, 0)
    assert {id(transform.py_random) for transform in compose} == {id(compose.py_random)}
    assert {id(transform.random_generator) for transform in compose} == {id(compose.random_generator)}


def test_values_out_of_range_are_refused():
    for options in ({"image_size": 0}, {"image_size": 32, "flip": 2}, {"image_size": 32, "scale": (0.5, 2)}):
        with pytest.raises(ValueError, match="1 validation error|greater|range|bound|scale <= 1"):
            train_transform(**options)


@pytest.mark.long
def test_importing_it_asks_the_network_nothing():
    code = (
        "import sys\n"
        "def refuse(event, _):\n"
        "    if event.startswith('socket.'): raise SystemExit(event)\n"
        "sys.addaudithook(refuse)\n"
        "import toolkit.data.augment"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
