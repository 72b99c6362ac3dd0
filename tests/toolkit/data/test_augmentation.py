"""Training transforms recorded in recipe.json: what is rebuilt draws the same pixels, what can't be is refused."""

import inspect
import json

import numpy as np
import pytest

from toolkit.data.augment import A, HorizontalFlip, RandomResizedCrop, Rotate, reseed
from toolkit.data.augmentation import Augmentation, check_output, train_transform

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
REQUIRED = {  # arguments of transforms that have no default for them
    "CenterCrop": (16, 16),
    "CropAndPad": (4,),
    "GridElasticDeform": ((3, 3), 5),
    "LongestMaxSize": (32,),
    "RandomCrop": (16, 16),
    "RandomResizedCrop": ((16, 16),),
    "RandomSizedCrop": ((10, 20), (16, 16)),
    "Resize": (16, 16),
    "SmallestMaxSize": (32,),
}
MORE_THAN_A_PHOTO = (  # these need boxes, masks, volumes or other photos, a float photo, or are bases of others
    "AtLeastOneBBoxRandomCrop BBoxSafeRandomCrop BasicTransform Crop CropNonEmptyMaskIfExists DualTransform FromFloat "
    "ImageOnlyTransform MaskDropout Mosaic OverlayElements RandomCropNearBBox RandomSizedBBoxSafeCrop TextImage "
    "FDA HistogramMatching Lambda PixelDistributionAdaptation"
).split()


def of_a_photo(name):
    kind = getattr(A, name)
    return inspect.isclass(kind) and issubclass(kind, A.BasicTransform) and not issubclass(kind, A.Transform3D)


NAMES = [name for name in sorted(vars(A)) if of_a_photo(name) and name not in MORE_THAN_A_PHOTO]


def assert_rebuilt(made):
    "A pipeline and what its recipe.json makes of it draw the same, photo by photo; returns what was drawn."
    whole = made if isinstance(made, A.Compose) else A.Compose(made)
    recorded = json.loads(json.dumps(Augmentation.of(made).recorded))
    rebuilt, drawn = Augmentation.from_recipe(recorded).at(32), []
    for sample in range(6):
        outcomes = []
        for compose in (whole, rebuilt):
            reseed(compose, 7, 1, sample)
            outcomes.append(compose(image=PHOTO)["image"])
        np.testing.assert_array_equal(*outcomes)
        drawn.append(outcomes[0])
    return drawn


def test_nearly_all_of_albumentations_is_tried():
    assert len(NAMES) > 90


@pytest.mark.filterwarnings("ignore")  # of transforms that advise another one
@pytest.mark.parametrize("name", NAMES)
def test_a_rebuilt_transform_draws_the_same_pixels(name):
    assert_rebuilt([getattr(A, name)(*REQUIRED.get(name, ()), p=1.0)])


@pytest.mark.parametrize(
    "changed",
    [
        A.RGBShift(r_shift_limit=60, g_shift_limit=5, b_shift_limit=(10, 40), p=1),
        A.SafeRotate(limit=(20, 70), fill=9, p=1),
        A.PadIfNeeded(64, 80, position="top_left", fill=77, p=1),
        A.ShiftScaleRotate(shift_limit=0.3, scale_limit=(0.1, 0.5), rotate_limit=5, p=1),
        A.CoarseDropout(num_holes_range=(3, 5), hole_height_range=(0.3, 0.4), fill="random", p=1),
        A.RandomBrightnessContrast(brightness_limit=(0.3, 0.4), p=1),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_a_rebuilt_transform_keeps_arguments_that_are_not_the_default(changed):
    default = type(changed)(**({"min_height": 41, "min_width": 53} if isinstance(changed, A.PadIfNeeded) else {}), p=1)
    drawn, usual = assert_rebuilt([changed]), assert_rebuilt([default])
    assert any(one.shape != other.shape or (one != other).any() for one, other in zip(drawn, usual, strict=True))


@pytest.mark.parametrize(
    "pipeline",
    [
        A.Compose([A.OneOf([A.GaussianBlur(p=0.2), A.InvertImg(p=0.8)], p=0.7), A.RandomCrop(20, 20)], seed=3),
        A.Compose(
            [A.SomeOf([A.HorizontalFlip(p=1), A.InvertImg(p=1), A.Rotate(p=1)], n=2, replace=True, p=0.9)], p=0.8
        ),
        A.Compose([A.RandomOrder([A.HorizontalFlip(p=1), A.Rotate(p=1)], n=2), A.Sequential([A.InvertImg()], p=0.5)]),
        A.Compose([A.OneOrOther(A.InvertImg(p=1), A.HorizontalFlip(p=1), p=0.3)], strict=True),
    ],
    ids=["OneOf", "SomeOf", "RandomOrder", "OneOrOther"],
)
def test_a_rebuilt_pipeline_of_pipelines_draws_the_same_pixels(pipeline):
    drawn = assert_rebuilt(pipeline)
    assert any((one.shape != drawn[0].shape) or (one != drawn[0]).any() for one in drawn)


def test_the_toolkits_transforms_take_the_size_when_they_are_built():
    augmentation = Augmentation.of([RandomResizedCrop(), HorizontalFlip(), Rotate(20)])
    for size in (24, 32):
        assert augmentation.at(size)(image=PHOTO)["image"].shape == (size, size, 3)
    crop, _, turn = augmentation.recorded["transforms"]
    assert (crop["__class_fullname__"], crop["size"]) == ("toolkit.RandomResizedCrop", None)
    assert (turn["__class_fullname__"], turn["degrees"]) == ("toolkit.Rotate", 20)


def test_the_three_keys_of_older_files_are_the_homeworks_transforms():
    older = Augmentation.from_recipe({"scale": [0.3, 0.9], "flip": 0.4, "degrees": 7.0}).at(32)
    now = train_transform(32, scale=(0.3, 0.9), flip=0.4, degrees=7.0)
    for sample in range(6):
        for compose in (older, now):
            reseed(compose, 1, 2, sample)
        np.testing.assert_array_equal(older(image=PHOTO)["image"], now(image=PHOTO)["image"])


class Mine(A.ImageOnlyTransform):
    def apply(self, img, **params):
        return img


class MyOrder(A.Sequential):
    pass


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.Lambda(image=lambda image, **_: image, name="mine"), "transform Lambda can't be recorded in recipe.json"),
        (A.Lambda(image=lambda image, **_: image), "transform Lambda can't be recorded in recipe.json"),
        (Mine(), "transform Mine can't be recorded in recipe.json"),
        (A.OneOf([Mine(), A.HorizontalFlip()]), "transform Mine can't be recorded in recipe.json"),
        (MyOrder([A.HorizontalFlip()]), "transform MyOrder can't be recorded in recipe.json"),
        (A.HistogramMatching(), "transform HistogramMatching can't be recorded in recipe.json"),
        (A.SelectiveChannelTransform([A.GaussianBlur()], channels=(0,)), r"can't be recorded with channels=\(0,\)"),
    ],
)
def test_what_a_record_would_replace_is_refused(transform, message):
    with pytest.raises(ValueError, match=message):
        Augmentation.of([transform])


@pytest.mark.parametrize(
    "recorded",
    [
        {"__class_fullname__": "Compose", "p": 1, "transforms": [{"__class_fullname__": "NoSuch", "p": 1}]},
        {
            "__class_fullname__": "Compose",
            "p": 1,
            "transforms": [{"__class_fullname__": "Rotate", "degree": 4, "p": 1}],
        },
        {"__class_fullname__": "os.system", "p": 1},
        {"__class_fullname__": "Compose", "transforms": 3},
    ],
)
def test_a_record_that_albumentations_does_not_know_is_refused(recorded):
    with pytest.raises(ValueError, match="can't be rebuilt from their record"):
        Augmentation.from_recipe(recorded)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([A.HorizontalFlip()], r"make uint8 \[72, 75, 3\] of a photo, expected uint8 \[32, 32, 3\]"),
        ([RandomResizedCrop(), A.Normalize()], r"make float32 \[32, 32, 3\] of a photo"),
        ([RandomResizedCrop(), A.ToTensorV2()], r"make torch.uint8 \[3, 32, 32\] of a photo"),
        ([A.Resize(48, 48)], r"make uint8 \[48, 48, 3\] of a photo"),
        ([A.RandomCrop(32, 32)], "fail on a photo of 17x17 pixels"),
        ([A.Resize(32, 32, p=0.5)], "of a photo, expected"),
    ],
)
def test_a_pipeline_that_does_not_end_in_the_networks_square_is_refused(transforms, message):
    with pytest.raises(ValueError, match=message):
        check_output(Augmentation.of(transforms).at(32), 32)
