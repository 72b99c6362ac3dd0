"""--fit pad and squash: the whole photo in the network's square, alike for training, validation and every client."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image, ImageDraw, ImageOps
from timm.data import create_transform, resolve_data_config
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from export.hub import timm_model
from export.session import Classifier
from recipes import hw1
from toolkit.data.checks.decode import DecodeResult
from toolkit.data.photo import read_reduced
from toolkit.data.preprocess import check, discarded, fitted, padding, prepare, preprocessing, smallest_side
from toolkit.data.readable import squareness
from toolkit.run import load

SIZE = 64
FITS = ("pad", "squash")
SHAPES = [(48, 64), (300, 64), (64, 301), (640, 480), (1000, 333), (37, 40), (20, 200)]  # height, width


def of(fit, size=SIZE):
    return preprocessing(fitted({"resize": round(size * 256 / 224), "crop": size}, fit))


def photo(height, width, seed=0):
    "Smooth shapes: a photo of noise differs after any resize."
    draws = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(int(each) for each in draws.integers(60, 200, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, r = draws.uniform(0, width), draws.uniform(0, height), draws.uniform(0.1, 0.4) * min(height, width)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(each) for each in draws.integers(0, 256, 3)))
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=None)


def by_pillow(image, fit, size=SIZE):
    if fit == "pad":
        colour = tuple(round(255 * mean) for mean in (0.485, 0.456, 0.406))
        return np.asarray(ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, color=colour))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_square_is_pillows_within_a_grey_level_on_average(shape, fit):
    image = photo(*shape)
    found = prepare(np.asarray(image), of(fit))
    assert found.shape == (SIZE, SIZE, 3)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - by_pillow(image, fit)).mean() < 1.3


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_has_the_mean_colour_and_stands_where_pillows_stands(shape):
    image = Image.new("RGB", shape[::-1], "white")
    found, theirs = prepare(np.asarray(image), of("pad")), by_pillow(image, "pad")
    np.testing.assert_array_equal((found == 255).all(-1), (theirs == 255).all(-1))
    assert padding(of("pad")) == (124, 116, 104)


@pytest.mark.parametrize("fit", FITS)
def test_a_large_jpeg_that_is_decoded_reduced_gets_nearly_the_same_square(fit, tmp_path):
    image = photo(1600, 2400)
    image.save(tmp_path / "photo.jpg", quality=95)
    content = (tmp_path / "photo.jpg").read_bytes()
    reduced, whole = read_reduced(content, smallest_side(of(fit)))
    assert reduced.shape[0] < 1600
    found = prepare(reduced, of(fit), whole)
    assert np.abs(found.astype(int) - by_pillow(Image.open(tmp_path / "photo.jpg"), fit)).mean() < 1.3


def test_squashing_is_torchvisions_resize_to_both_sides():
    image = photo(480, 640)
    theirs = F.resize(image, [SIZE, SIZE], InterpolationMode.BILINEAR, antialias=True)
    assert np.abs(prepare(np.asarray(image), of("squash")).astype(int) - np.asarray(theirs)).mean() < 1.3


def test_a_crop_is_recorded_as_before_and_the_others_by_one_more_word_and_another_version():
    assert "fit" not in of("crop")
    assert of("crop")["version"] == 1
    assert (of("pad")["fit"], of("pad")["version"], of("pad")["resize"]) == ("pad", 2, SIZE)
    assert "on a square of 64 in the colour (124, 116, 104)" in of("pad")["steps"]
    assert "both sides 64" in of("squash")["steps"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fit": "stretch"}, "fit 'stretch', expected pad or squash"),
        ({"fit": None}, "fit None, expected pad or squash"),
        ({"resize": 73}, "fit 'pad', expected pad or squash, with resize as crop"),
        ({"version": 1}, "which this toolkit doesn't know"),
    ],
)
def test_a_fit_that_cannot_be_followed_is_refused(change, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        check(of("pad") | change)


def test_what_the_centre_crop_discards_is_what_its_square_does_not_show():
    results = [DecodeResult("", 640, 480), DecodeResult("", 300, 300), DecodeResult("broken")]
    assert squareness(results) == pytest.approx((480 / 640 + 1) / 2)
    shown = (224 / 256 * 480) ** 2 / (640 * 480)  # of a photo of 4:3
    assert discarded(preprocessing({"resize": 256, "crop": 224}), 480 / 640) == pytest.approx(1 - shown)
    assert discarded(of("pad"), 0.75) == 0
    assert discarded(of("crop"), None) is None


# Objects at the edge


def write_edges(root, each, seed):
    "Wide photos whose class is the colour of a disc at their left or right end, which the centre crop does not show."
    draws = np.random.default_rng(seed)
    for label, colour in (("blue", (40, 60, 220)), ("red", (220, 50, 40))):
        (root / label).mkdir(parents=True)
        for number in range(each):
            image = Image.fromarray(draws.integers(90, 160, (40, 120, 3), np.uint8))
            x, y = draws.choice([10, 109]), draws.integers(10, 30)
            ImageDraw.Draw(image).ellipse((x - 9, y - 9, x + 9, y + 9), fill=colour)
            image.save(root / label / f"{number}.png")


@pytest.fixture(scope="module")
def edges(tmp_path_factory):
    root = tmp_path_factory.mktemp("edges")
    write_edges(root / "train", 24, 0)
    write_edges(root / "val", 20, 1)
    return root


def trained(data, out, fit):
    options = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 16, "accum": 1, "lr": 4e-3}
    hw1.main(data, epochs=8, fit=fit, out=out, device="cpu", precision="fp32", workers=0, **options)
    return load(out)


@pytest.fixture(scope="module", params=FITS)
def whole(edges, tmp_path_factory, request):
    return trained(edges, tmp_path_factory.mktemp("run") / request.param, request.param)


def test_what_lies_at_the_edge_is_learnt_from_the_whole_photo(whole):
    assert whole.metrics["accuracy"] >= 0.9
    assert whole.recipe["data"]["discarded"] == 0


@pytest.mark.long
def test_the_centre_crop_cannot_learn_it_and_the_page_says_how_much_it_discards(edges, tmp_path):
    run = trained(edges, tmp_path / "crop", "crop")
    low, high = run.metrics["accuracy_interval"]
    assert low < 0.5 < high or run.metrics["accuracy"] < 0.7
    shown = 40 / 120 * (32 / 37) ** 2
    assert run.recipe["data"]["discarded"] == pytest.approx(1 - shown)
    assert f"discards {100 * (1 - shown):.0f}" in run.path("report.html").read_text()


def test_the_file_says_how_photos_are_fitted_and_any_client_can_follow(whole, edges):
    metadata = {prop.key: json.loads(prop.value) for prop in onnx.load(whole.path("model.onnx")).metadata_props}
    fit = whole.recipe["options"]["fit"]
    assert metadata["preprocess"]["fit"] == fit
    photos = sorted((edges / "val").rglob("*.png"))
    labels, probabilities = Classifier(whole.path("model.onnx"))(photos)
    session = onnxruntime.InferenceSession(whole.path("model.onnx"), providers=["CPUExecutionProvider"])
    images = np.stack([by_pillow(Image.open(path).convert("RGB"), fit, 32) for path in photos])
    (theirs,) = session.run(["probabilities"], {"image": images})
    agree = [metadata["classes"][row.argmax()] == label for row, label in zip(theirs, labels, strict=True)]
    assert np.mean(agree) == 1
    assert np.abs(theirs - probabilities).max() < 0.1


def test_timm_alone_fits_photos_as_the_hubs_folder_says(whole, edges):
    model = timm_model(whole)
    transform = create_transform(**resolve_data_config({}, model=model))
    mean, std = (np.array(whole.recipe["preprocess"][name]) for name in ("mean", "std"))
    for path in sorted((edges / "val").rglob("*.png"))[:5]:
        image = Image.open(path).convert("RGB")
        theirs = 255 * (transform(image).permute(1, 2, 0).numpy() * std + mean)
        ours = prepare(np.asarray(image), whole.recipe["preprocess"])
        assert np.abs(theirs - ours).mean() < 2


def test_a_rebuilt_learner_prepares_photos_as_the_run_did(whole):
    learn = whole.learner("cpu")
    assert learn.dls.preprocess == whole.recipe["preprocess"]
    accuracy = float(learn.validate()[1])
    assert accuracy == pytest.approx(whole.metrics["accuracy"], abs=1e-6)


def test_training_takes_parts_of_the_fitted_square(edges):
    options = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 16, "workers": 0}
    shown = {}
    for fit in ("crop", *FITS):
        learn = hw1.learner(edges, fit=fit, device="cpu", precision="fp32", **options)
        step = learn.dls.train.after_item.fs[0] if hasattr(learn.dls.train.after_item, "fs") else None
        photo = np.asarray(Image.open(next((edges / "train").rglob("*.png"))).convert("RGB"))
        shown[fit] = step._whole(photo).shape
    assert shown == {"crop": (40, 120, 3), "pad": (120, 120, 3), "squash": (120, 120, 3)}
