import io
import json
import math
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from exact_client import prepare_by_the_page
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from torchvision import transforms as T

from toolkit.data.on_disk.photo_files import find_photos
from toolkit.data.photo import read_photo, read_reduced
from toolkit.data.preprocess import check, for_size, prepare, smallest_side, upgraded
from toolkit.data.resizing import center_crop, resized_shape, scaled

ROOT = Path(__file__).resolve().parents[3]

# (height, width): portrait, landscape, odd, upscaled, tiny, extreme, just above 1, integer factors, the usual, 12 MP
SIZES = [
    *[(375, 500), (500, 375), (427, 640), (640, 427), (480, 640), (333, 500), (500, 333), (348, 348), (360, 480)],
    *[(257, 257), (257, 343), (258, 400), (261, 300), (270, 360), (281, 500), (300, 301), (299, 448), (511, 767)],
    *[(256, 256), (256, 341), (512, 512), (512, 768), (768, 1024), (1024, 1024), (513, 514), (600, 800), (1200, 1600)],
    *[(100, 150), (225, 300), (64, 64), (32, 48), (17, 23), (3, 5), (1, 1), (200, 2000), (1500, 260), (40, 900)],
    *[(3000, 4000), (4032, 3024), (719, 1281)],
]


def by_torchvision(photo: np.ndarray, size: int = 256, crop: int = 224) -> np.ndarray:
    transform = T.Compose([T.Resize(size), T.CenterCrop(crop)])
    return np.asarray(transform(Image.fromarray(photo)))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return np.abs(one.astype(int) - other.astype(int)).mean()


def resize_shorter(photo: np.ndarray, size: int) -> np.ndarray:
    height, width = resized_shape(*photo.shape[:2], size)
    return scaled(photo, photo.shape[0] / height, photo.shape[1] / width)


def photo_of(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.BICUBIC))


@pytest.fixture(scope="module")
def photos(grocery, odd) -> list[np.ndarray]:
    "Phone photos, and two sharp ones of 1800 pixels, one landscape and one portrait."
    paths = [find_photos(grocery / "val")[index] for index in (0, 60)]
    paths += [odd / "exif_rotated" / f"exif-orientation__{name}.jpg" for name in ("Landscape_3", "Portrait_2")]
    return [read_photo(path) for path in paths]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_it_is_within_a_grey_level_of_torchvisions_resize_and_centre_crop(photos, height, width):
    assert len(set(SIZES)) >= 30
    for photo in photos:
        resized = photo_of(photo, height, width)
        assert difference(prepare(resized, for_size(224)), by_torchvision(resized)) < 0.9


@pytest.mark.parametrize("short", [261, 280, 300, 333, 348, 375, 427])
def test_it_is_so_on_scikit_learns_two_photos(short):
    "A clone without the shared photos can run this one. The difference grows with the detail of a photo."
    for photo in load_sample_images().images:
        resized = photo_of(photo, short, short * 640 // 427)
        assert difference(prepare(resized, for_size(224)), by_torchvision(resized)) < 1


@pytest.mark.parametrize("image_size", [28, 96, 128, 160, 299, 384])
def test_it_is_so_for_other_image_sizes(photos, image_size):
    preprocess = for_size(image_size)
    for photo in photos:
        theirs = by_torchvision(photo, preprocess["resize"], image_size)
        assert difference(prepare(photo, preprocess), theirs) < 0.9


def test_sizes_and_offsets_are_torchvisions_to_the_pixel():
    "On a slope of one grey level per pixel, a crop that is off by one pixel differs by 1."
    numbers = np.random.default_rng(0)
    for height, width in numbers.integers(60, 900, (150, 2)):
        down, across = np.mgrid[:height, :width] * 256 / min(height, width)
        photo = np.stack([down % 256, across % 256, (down + across) / 8 % 256], 2).astype(np.uint8)
        photo = np.minimum(photo, 255 - photo)  # up and down again, without a jump
        assert resize_shorter(photo, 256).shape[1::-1] == T.Resize(256)(Image.fromarray(photo)).size
        assert difference(prepare(photo, for_size(224)), by_torchvision(photo)) < 0.6


@pytest.mark.parametrize(
    ("height", "width"), [(10, 10), (11, 10), (10, 13), (13, 11), (9, 40), (40, 9), (7, 7), (1, 9)]
)
@pytest.mark.parametrize("size", [8, 9, 10, 12])
def test_centre_crop_is_torchvisions_also_if_it_pads(height, width, size):
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(center_crop(photo, size), np.asarray(T.CenterCrop(size)(Image.fromarray(photo))))


def test_a_crop_larger_than_the_resized_photo_is_padded_with_black(photos):
    preprocess = {**for_size(224), "resize": 200}
    assert difference(prepare(photos[0], preprocess), by_torchvision(photos[0], 200)) < 0.9


def test_a_photo_of_the_right_size_is_only_cropped():
    photo = np.random.default_rng(0).integers(0, 256, (256, 341, 3), np.uint8)
    np.testing.assert_array_equal(prepare(photo, for_size(224)), photo[16:240, 58:282])


def test_resizing_the_part_the_crop_shows_is_resizing_all_of_it(photos):
    for photo in photos:
        for height, width in SIZES[:27]:
            resized = photo_of(photo, height, width)
            whole = center_crop(resize_shorter(resized, 256), 224)
            assert difference(prepare(resized, for_size(224)), whole) < 0.4


@pytest.mark.parametrize("times", [2, 3, 4, 6])
def test_pixels_around_the_crop_count_at_its_edge(times):
    photo = np.random.default_rng(0).integers(0, 256, (64 * times, 80 * times, 3), np.uint8)
    whole = center_crop(resize_shorter(photo, 64), 56)
    np.testing.assert_array_equal(prepare(photo, {**for_size(56), "resize": 64}), whole)


def test_one_side_may_shrink_while_the_other_grows(photos):
    for height, width in [(100, 900), (900, 100), (150, 300), (230, 460), (224, 1000)]:
        photo = photo_of(photos[2], height, width)
        theirs = np.asarray(Image.fromarray(photo).resize((224, 224), Image.BILINEAR))
        assert difference(scaled(photo, photo.shape[0] / 224, photo.shape[1] / 224), theirs) < 0.9


def big_jpeg(height: int, width: int, mode: str = "RGB", **options: object) -> bytes:
    "Scikit-learn's two photos, repeated side by side: equally sharp at any size."
    both = np.concatenate(load_sample_images().images, axis=1)
    times = (-(-height // both.shape[0]), -(-width // both.shape[1]), 1)
    return as_jpeg(np.tile(both, times)[:height, :width], mode, **options)


def as_jpeg(photo: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def reduced(data: bytes, preprocess: dict) -> tuple[np.ndarray, int]:
    "The photo prepared from its JPEG, and the factor by which libjpeg reduced it."
    photo, whole = read_reduced(data, smallest_side(preprocess))
    return prepare(photo, preprocess, whole), round(whole[0] / photo.shape[0])


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (3001, 2003, {"subsampling": "4:2:0", "quality": 90}),
        (2003, 3001, {"subsampling": "4:4:4", "quality": 95}),
        (3000, 4000, {"subsampling": "4:2:2", "progressive": True}),
        (3024, 4032, {"subsampling": "4:2:0", "exif": turned(6)}),
        (1029, 1543, {"subsampling": "4:2:0", "quality": 50}),
        (1203, 4801, {"mode": "L"}),
    ],
)
def test_a_reduced_jpeg_is_within_1_1_grey_levels_of_torchvisions_of_the_whole_one(height, width, options):
    data = big_jpeg(height, width, **options)
    photo, factors = decoded(data), set()
    for image_size in (64, 112, 224, 384):
        preprocess = for_size(image_size)
        image, factor = reduced(data, preprocess)
        factors.add(factor)
        assert difference(image, by_torchvision(photo, preprocess["resize"], image_size)) < 1.1, (image_size, factor)
    assert len(factors) > 1


@pytest.mark.parametrize(
    ("height", "width", "orientation"),
    [
        (1203, 1801, 1),
        (1601, 1203, 5),
        (2055, 2049, 1),
        (1999, 1037, 1),
        (1025, 3001, 5),
        (1202, 1801, 6),
        (999, 1504, 8),
    ],
)
def test_a_reduced_jpeg_is_aligned_with_the_whole_one_to_the_pixel(height, width, orientation):
    "A slope again. If a side is no multiple of the factor, its last pixel covers fewer pixels than the others."
    down, across = np.mgrid[:height, :width] * 128 / min(height, width)
    photo = np.stack([down % 256, across % 256, (down + across) / 8 % 256], 2).astype(np.uint8)
    data = as_jpeg(np.minimum(photo, 255 - photo) * 2, subsampling=0, quality=98, exif=turned(orientation))
    for image_size in (32, 56, 112):
        preprocess = for_size(image_size)
        image, factor = reduced(data, preprocess)
        assert factor > 1
        theirs = by_torchvision(decoded(data), preprocess["resize"], image_size)
        assert difference(image, theirs) < 0.4


@pytest.mark.parametrize(
    ("height", "width"), [(1203, 1801), (1025, 777), (1608, 1701), (1607, 1701), (804, 3001), (803, 900), (401, 600)]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_docs_resizing_is_enough_to_write_it_again_for_reduced_jpegs(height, width, mode, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(big_jpeg(height, width, mode))
    image, _ = reduced((tmp_path / "photo.jpg").read_bytes(), for_size(64))
    np.testing.assert_array_equal(image, prepare_by_the_page(f"{tmp_path}/photo.jpg", 73, 64))


def test_a_photo_that_is_not_a_reduction_of_whole_is_refused(photos):
    height, width, _ = photos[0].shape
    np.testing.assert_array_equal(prepare(photos[0], for_size(64), (height, width)), prepare(photos[0], for_size(64)))
    with pytest.raises(ValueError, match=rf"photo is \[{height}, {width}\], expected \[{3 * height}, {width}\] at 1/1"):
        prepare(photos[0], for_size(64), (3 * height, width))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_docs_resizing_is_enough_to_write_it_again_byte_for_byte(photos, height, width, tmp_path):
    photo = photo_of(photos[3], height, width)
    cv2.imwrite(str(tmp_path / "photo.bmp"), photo[..., ::-1])
    np.testing.assert_array_equal(prepare(photo, for_size(224)), prepare_by_the_page(f"{tmp_path}/photo.bmp", 256, 224))


def quoted_text() -> str:
    "The text that docs/resizing.md quotes."
    lines = (ROOT / "docs/resizing.md").read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("> ") for line in lines if line.startswith("> "))


def test_a_file_with_the_whole_text_under_interpolation_means_the_same(photos):
    "Such files were written before 27 November 2026. docs/resizing.md quotes the text word for word."
    first = for_size(224) | {"interpolation": quoted_text()}
    del first["version"], first["steps"]
    check(first)
    assert upgraded(first) == for_size(224)
    np.testing.assert_array_equal(prepare(photos[0], first), prepare(photos[0], for_size(224)))
    for damaged in (quoted_text()[:-1], quoted_text().replace("0.03", "0.04")):
        with pytest.raises(ValueError, match='preprocess has interpolation "OpenCV'):
            check(first | {"interpolation": damaged})


def test_one_line_says_what_was_done():
    expected = (
        "RGB, upright by EXIF, over white; shorter side 256, other side rounded down, antialiased bilinear; "
        "centre crop 224, offsets (side - 224) / 2 rounded half to even; 0 to 255, mean and std are in the graph"
    )
    assert for_size(224)["steps"] == expected
    page = (ROOT / "docs/resizing.md").read_text(encoding="utf-8")
    assert expected in " ".join(page.split())


def test_it_is_read_back_from_json(photos):
    preprocess = for_size(160, mean=(0.5, 0.5, 0.5))
    read = json.loads(json.dumps(preprocess))
    assert read == preprocess
    assert (read["resize"], read["crop"], read["mean"]) == (183, 160, [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(prepare(photos[0], read), prepare(photos[0], preprocess))


def test_the_result_is_an_array_of_its_own(photos):
    for photo in (photos[0], np.zeros((256, 256, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)):
        before = photo.copy()
        prepared = prepare(photo, for_size(224))
        prepared[:] = 77
        assert prepared.flags.c_contiguous
        np.testing.assert_array_equal(photo, before)


def test_a_very_long_photo_is_not_resized_whole():
    "2 x 9000 pixels with a shorter side of 256 are 900 MB."
    tracemalloc.start()
    assert prepare(np.zeros((2, 9000, 3), np.uint8), for_size(224)).shape == (224, 224, 3)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 0}, "crop 0, expected 1 to 8192 pixels"),
        ({"crop": True}, "crop True, expected 1 to 8192"),
        ({"crop": 224.0}, "crop 224.0, expected 1 to 8192"),
        ({"resize": 10**9}, "resize 1000000000, expected 1 to 8192"),
        ({"resize": None}, "resize None, expected 1 to 8192"),
        (
            {"interpolation": "bilinear"},
            r"interpolation 'bilinear' \(version 1\), which this toolkit doesn't know; use the one it was made with",
        ),
        ({"version": 2}, r"interpolation 'antialiased bilinear' \(version 2\), which this toolkit doesn't know"),
        ({"exif": "ignore"}, "exif 'ignore', expected 'transpose'"),
        ({"alpha": "black"}, "alpha 'black', expected 'white'"),
        ({"mean": [0.5]}, r"mean \[0.5\], expected a list of three numbers"),
        ({"mean": [0.5, 0.5, math.nan]}, "expected a list of three numbers"),
        ({"mean": [0.5, 0.5, math.inf]}, "expected a list of three numbers"),
        ({"std": [0.2, 0.2, 0]}, r"std \[0.2, 0.2, 0\], expected a list of three numbers, std above 0"),
        ({"std": "0.2"}, "expected a list of three numbers"),
    ],
)
def test_a_malformed_dict_is_refused_saying_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        check({**for_size(224), **change})
    with pytest.raises(ValueError, match=message):
        prepare(np.zeros((9, 9, 3), np.uint8), {**for_size(224), **change})


def test_no_dict_and_a_missing_key_are_refused():
    with pytest.raises(ValueError, match="preprocess is list, expected a dictionary"):
        check([])
    for key in for_size(224).keys() - {"steps"}:
        with pytest.raises(ValueError, match=rf"{key} None"):
            check({name: value for name, value in for_size(224).items() if name != key})


@pytest.mark.parametrize("size", [0, -1, 8000, 224.0])
def test_an_image_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match="expected 1 to 8192 pixels"):
        for_size(size)


@pytest.mark.parametrize(
    "photo",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)],
)
def test_an_array_that_is_no_photo_is_refused(photo):
    with pytest.raises(ValueError, match=r"expected uint8 \[height, width, 3\]"):
        prepare(photo, for_size(224))
