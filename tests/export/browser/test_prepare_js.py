"""prepare.js: photos decoded and prepared by a browser, compared with `toolkit.data.preprocess.prepare`."""

import base64
import shutil
from pathlib import Path

import numpy as np
import pytest
import try_page
from PIL import Image

import export.browser
from export.reading.prepare import prepared
from toolkit.data.photo import read_reduced
from toolkit.data.preprocess import fitted, preprocessing, resize_center_crop, smallest_side

SQUARE = """
const {decoded, square} = await import("./prepare.js"), [name, preprocess] = arguments;
const blob = await (await fetch(name, {cache: "no-store"})).blob();
const photo = await decoded(blob, preprocess.resize), pixels = square(photo, preprocess);
let text = ""; for (const value of pixels) text += String.fromCharCode(value);
return [btoa(text), photo.height, photo.width];
"""


def scene(height, width, seed=0):
    "A photo-like picture: clouds of several sizes, and a sharp grid."
    rng, image = np.random.default_rng(seed), np.zeros((height, width, 3))
    for side, strength in ((4, 90), (16, 50), (64, 30)):
        small = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        image += strength / 256 * np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), float)
    image[:: height // 12] = 30
    image[:, :: width // 9] = (240, 200, 20)
    return Image.fromarray((image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8))


def small_jpeg(path):
    scene(348, 464).save(path, quality=90)


def turned_jpeg(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(300, 420).save(path, quality=92, exif=exif)


def grey_jpeg(path):
    scene(260, 300).convert("L").save(path)


def png(path):
    scene(333, 217).save(path)


def transparent_png(path):
    image = scene(220, 260)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


def palette_gif(path):
    scene(180, 240).quantize(64).save(path)


def webp(path):
    scene(240, 320).save(path, lossless=True)


def tiny_png(path):
    scene(24, 40).save(path)


def half_jpeg(path):
    scene(900, 1208).save(path, quality=92)


def camera_jpeg(path):
    scene(3000, 4000).save(path, quality=92)


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    "A page whose scripts may ask for photos: (folder, browser)."
    folder = tmp_path_factory.mktemp("prepare")
    for script in ("prepare.js", "orientation.js"):
        shutil.copy(Path(export.browser.__file__).parent / script, folder)
    (folder / "index.html").write_text("<!doctype html><title>prepare</title>")
    with try_page.served(folder) as url:
        browser.open_url(url)
        yield folder, browser


def differences(page, make, suffix, preprocess):
    "Absolute differences in grey levels of the browser's square from Python's."
    folder, browser = page
    file = folder / f"{make.__name__}{suffix}"
    make(file)
    answer = browser.run(f"return (async (...arguments) => {{{SQUARE}}})(...arguments)", file.name, preprocess)
    text, wanted = answer[0], prepared(file, preprocess)
    assert tuple(answer[1:]) == read_reduced(file, smallest_side(preprocess))[0].shape[:2]
    square = np.frombuffer(base64.b64decode(text), np.uint8).reshape(wanted.shape)
    assert wanted.std() > 10
    return np.abs(square.astype(int) - wanted)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        (small_jpeg, ".jpg"),
        (turned_jpeg, ".jpg"),
        (grey_jpeg, ".jpg"),
        (png, ".png"),
        (palette_gif, ".gif"),
        (webp, ".webp"),
        (tiny_png, ".png"),
    ],
)
def test_nearly_every_byte_is_that_of_python(page, make, suffix, fit):
    for size, ratio in ((128, 256 / 224), (96, 0.9)):
        found = differences(page, make, suffix, preprocessing(fitted(resize_center_crop(size, ratio), fit)))
        assert found.max() <= 1
        assert (found > 0).mean() < 0.01


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_by_each_orientation_as_in_python(page, orientation, suffix):
    def turned(path):
        exif = Image.Exif()
        exif[0x010F], exif[0x0112] = "a camera", orientation
        lossless = {"lossless": True} if suffix == ".webp" else {}
        scene(210, 300).save(path, exif=exif, **lossless)

    found = differences(page, turned, suffix, preprocessing(resize_center_crop(96)))
    assert found.max() <= 1
    assert (found > 0).mean() < 0.01


@pytest.mark.parametrize("length", [3, 8, 20, 30])
def test_the_damaged_orientation_of_a_webp_says_nothing(page, length):
    def damaged(path):
        exif = Image.Exif()
        exif[0x0112] = 6
        scene(210, 300).save(path, lossless=True, exif=exif.tobytes()[:length])

    assert differences(page, damaged, ".webp", preprocessing(resize_center_crop(96))).max() <= 1


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_transparent_pixels_lie_over_white(page, fit):
    found = differences(page, transparent_png, ".png", preprocessing(fitted(resize_center_crop(96), fit)))
    assert found.max() <= 3
    assert found.mean() < 0.7


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("make", [half_jpeg, camera_jpeg])
def test_a_jpeg_that_python_decodes_at_a_smaller_size_is_within_a_grey_level(page, make, fit):
    found = differences(page, make, ".jpg", preprocessing(fitted(resize_center_crop(128), fit)))
    assert found.mean() < 0.5
    assert found.max() <= 8
