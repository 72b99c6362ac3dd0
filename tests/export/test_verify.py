"""The certificate issued again by `python -m export.verify`, and the temperature in the file."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import forked
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from export.convert.calibration import calibration
from export.convert.graph import write_metadata
from export.convert.raw_outputs import raw_outputs
from export.parity.reference import prepared_all
from export.predict import predict
from export.session import Classifier
from export.to_onnx import to_onnx
from export.verify import verify
from recipes import digits, hw1
from toolkit import files
from toolkit.data.on_disk.layouts import labelled_photos
from toolkit.evaluation import metrics
from toolkit.evaluation.calibration import calibration_error, reliability_curve, scaled_by_other_half
from toolkit.models.timm_model import create_model
from toolkit.training.begin import begin
from toolkit.training.evaluate import evaluate
from toolkit.training.fit import fit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(digits_run):
    return digits_run.path("model.onnx")


def props(path):
    return {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}


def test_verify_issues_the_certificate_that_stands_in_the_file(digits_run, model, capsys):
    again = verify(model, digits_run.recipe["data"]["path"], device="cpu")
    inside = props(model)["verification"]
    told = ("worst", "logit_difference", "probability_difference")  # names are whole paths here, the last bits vary
    assert (again.pop("trained_on"), again.pop("chosen_by")) == (0, 270)
    assert {k: v for k, v in again.items() if k not in told} == {k: v for k, v in inside.items() if k not in told}
    printed = capsys.readouterr().out
    assert "fp32 on 270 labelled photos, on cpu" in printed
    assert "same label          100.00% (95 % interval 98.60% to 100.00%, at least 99.9%)" in printed
    assert re.search(r"calibration error   0\.\d{4} \(the temperature was fitted to these photos\)\n", printed)


def test_a_folder_of_class_folders_is_verified_whole_and_a_csv_too(digits_run, model, tmp_path):
    photos = list((Path(digits_run.recipe["data"]["path"]) / "val").glob("*/*.png"))[:40]
    for photo in photos:
        (tmp_path / "new" / photo.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, tmp_path / "new" / photo.parent.name)
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((photo, photo.parent.name) for photo in photos)])
    assert props(model)["verification"]["ece_in_sample"] is True
    folder, table = (verify(model, tmp_path / name, device="cpu") for name in ("new", "table.csv"))
    assert folder["images"] == table["images"] == 40
    assert folder["accuracy"] == table["accuracy"]
    assert folder["ece_in_sample"] is table["ece_in_sample"] is False


def test_test_labels_give_the_accuracy_on_the_photos_of_predictions_csv(digits_run, model, tmp_path):
    data = Path(digits_run.recipe["data"]["path"])
    predict(model, data / "test", tmp_path / "predictions.csv", device="cpu")
    with (tmp_path / "predictions.csv").open() as predicted, (data / "test_labels.csv").open() as labelled:
        names, labels = dict([*csv.reader(predicted)][1:]), dict([*csv.reader(labelled)][1:])
    said = verify(model, data / "test_labels.csv", device="cpu")
    assert (said["images"], said["trained_on"], said["chosen_by"]) == (270, 0, 0)
    assert said["accuracy"] == pytest.approx(np.mean([names[name] == label for name, label in labels.items()]))


def test_photos_of_the_training_and_those_that_chose_the_model_are_told(digits_run, model, capsys):
    data = Path(digits_run.recipe["data"]["path"])
    assert verify(model, data / "train", device="cpu", images=30)["trained_on"] == 30
    assert "  trained on          30 of these photos: no honest accuracy\n" in capsys.readouterr().out
    assert verify(model, data / "val", device="cpu", images=30)["chosen_by"] == 30
    said = "  chose the epoch     30 of these photos: the accuracy is optimistic\n"
    assert said in capsys.readouterr().out


def test_accuracy_and_calibration_are_those_of_sklearn_and_numpy(digits_run, model):
    data = digits_run.recipe["data"]["path"]
    labels = labelled_photos(data)
    names, probabilities = Classifier(model, "cpu")(list(labels))
    said = verify(model, data, device="cpu")
    right = np.array(names) == np.array(list(labels.values()))
    assert said["accuracy"] == pytest.approx(right.mean())
    confidence = probabilities.max(1)
    bins = np.minimum((np.ceil(confidence * 15) - 1).astype(int), 14)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    assert said["ece"] == pytest.approx(sum(gaps), abs=1e-6)


def test_a_copy_of_the_runs_photos_is_known_as_theirs(digits_run, model, tmp_path, capsys):
    copy = shutil.copytree(digits_run.recipe["data"]["path"], tmp_path / "copy")
    said = verify(model, copy, device="cpu", images=50)
    assert said["ece_in_sample"]
    assert "(the temperature was fitted to these photos)" in capsys.readouterr().out
    next((copy / "train/1").iterdir()).unlink()  # another data set
    assert not verify(model, copy, device="cpu", images=50)["ece_in_sample"]


def test_a_model_without_its_run_is_verified_by_labels_alone_and_a_line_says_so(digits_run, model, tmp_path, capsys):
    alone = shutil.copy(model, tmp_path / "model.onnx")
    said = verify(Path(alone), digits_run.recipe["data"]["path"], device="cpu", images=50)
    assert said["images"] == 50
    assert "agreement" not in said
    assert "compared with no trained model" in capsys.readouterr().out
    compared = verify(Path(alone), digits_run.recipe["data"]["path"], digits_run.folder, "cpu", 50)
    assert compared["agreement"] == 1.0


def verified(model, data, *options):
    command = [sys.executable, "-m", "export.verify", model, data, "--device", "cpu", *options]
    return forked.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_file_that_differs_from_its_run_exits_with_2_and_the_difference(digits_run, model, tmp_path):
    shutil.copytree(digits_run.folder, tmp_path / "run")
    torch.manual_seed(9)
    save_file(create_model("test_resnet", 10, "none", image_size=32).state_dict(), tmp_path / "run/best.safetensors")
    done = verified(tmp_path / "run/model.onnx", digits_run.recipe["data"]["path"], "--images", "50")
    assert done.returncode == 2
    assert "same label on" in done.stderr
    assert "Traceback" not in done.stderr


def test_photos_of_the_run_that_have_changed_since_can_not_judge_it(digits_run, model, tmp_path):
    run, photos = shutil.copytree(digits_run.folder, tmp_path / "run"), tmp_path / "photos"
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["data"]["path"] = str(shutil.copytree(recipe["data"]["path"], photos))
    (run / "recipe.json").write_text(json.dumps(recipe))
    shutil.copy(next((photos / "val/1").iterdir()), photos / "train/1/one_more.png")
    message = "the photos of .*run have changed since: bring them back, or give other labelled photos"
    with pytest.raises(ValueError, match=message):
        verify(run / "model.onnx", photos, device="cpu")


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nothing", "nothing"), ("empty", "no labelled photos in"), ("unknown", "has photos of 'cat', a class")],
)
def test_data_that_can_not_judge_the_model_is_refused(digits_run, model, tmp_path, folder, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "unknown/cat").mkdir(parents=True)
    photo = next(Path(digits_run.recipe["data"]["path"]).glob("val/*/*.png"))
    shutil.copy(photo, tmp_path / "unknown/cat")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        verify(model, tmp_path / folder, device="cpu")


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"precision": "int8"}, "says it is 'int8', and is fp32"),
        ({"precision": ["fp32"]}, "and is fp32"),
        ({"calibration": {"temperature": -1.0}}, "has temperature -1.0, expected 0.01 to 100"),
        ({"calibration": {"temperature": 25}}, "from that of the file's own logits"),
        ({"verification": {"kept": [1]}}, "its verification is no certificate"),
    ],
)
def test_the_claims_of_a_file_are_checked(digits_run, model, tmp_path, lie, message):
    path = shutil.copy(model, tmp_path / "model.onnx")
    write_metadata(path, lie)
    with pytest.raises(ValueError, match=message):
        verify(path, digits_run.recipe["data"]["path"], digits_run.folder, "cpu", 20)


@pytest.mark.parametrize("images", [0, -3])
def test_no_photos_are_asked_for_in_vain(digits_run, model, tmp_path, images):
    with pytest.raises(ValueError, match=f"--images {images}: give 1 or more"):
        verify(model, digits_run.recipe["data"]["path"], device="cpu", images=images)
    with pytest.raises(ValueError, match=f"--images {images}: give 1 or more"):
        to_onnx(digits_run.folder, tmp_path / "model.onnx", device="cpu", images=images)


def test_a_run_of_other_classes_is_refused(digits_run, model, tmp_path):
    shutil.copytree(digits_run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("model.onnx"))
    recipe = json.loads((tmp_path / "run/recipe.json").read_text())
    renamed = [f"digit {name}" for name in recipe["classes"]]
    files.write_json(tmp_path / "run/recipe.json", recipe | {"classes": renamed})
    photos = Path(digits_run.recipe["data"]["path"]) / "val"
    with pytest.raises(ValueError, match="has other classes than .*: give the run it was exported from"):
        verify(model, photos, tmp_path / "run", "cpu", 20)


def test_a_model_that_gives_no_numbers_is_refused_with_a_run_or_without(digits_run, model, tmp_path):
    content = onnx.load(model)
    bias = next(tensor for tensor in content.graph.initializer if tensor.name == "model.fc.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(content, tmp_path / "model.onnx")
    for run in (None, digits_run.folder):
        with pytest.raises(ValueError, match="20 of 20 photos get no numbers"):
            verify(tmp_path / "model.onnx", digits_run.recipe["data"]["path"], run, "cpu", 20)


def test_a_run_that_was_validated_on_a_part_of_its_folder_is_judged_by_that_part(tmp_path):
    "A folder of class folders: what was trained on would flatter it."
    source = digits.learner(tmp_path / "digits", device="cpu").dls.data
    for path, label in [*source.valid.items()][::3]:
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / label)
    learn = hw1.learner(tmp_path / "data", arch="test_resnet", weights="none", image_size=32, workers=0, device="cpu")
    run = begin(tmp_path / "run", learn)
    fit(learn, run, 1)
    evaluate(learn, run)
    said = verify(to_onnx(run.folder, device="cpu"), tmp_path / "data", device="cpu")
    assert said["images"] == len(learn.dls.data.valid) == round(0.2 * len([*source.valid][::3]))
    assert len(labelled_photos(tmp_path / "data")) == len([*source.valid][::3])


def test_a_folder_of_val_alone_is_taken_by_its_classes(digits_run, model, tmp_path):
    shutil.copytree(Path(digits_run.recipe["data"]["path"]) / "val", tmp_path / "data/val")
    assert verify(model, tmp_path / "data", digits_run.folder, "cpu", 30)["agreement"] == 1.0


# Temperature


def test_probabilities_are_scaled_by_the_temperature_and_logits_are_not(digits_run, model, tmp_path):
    plain = to_onnx(digits_run.folder, tmp_path / "plain.onnx", device="cpu", calibrate=False)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    fitted = props(model)["calibration"]["temperature"]
    assert props(plain)["verification"]["ece_in_sample"] is False
    assert fitted != 1.0
    assert props(plain)["calibration"] == {"temperature": 1.0}
    (logits, scaled), (raw, unscaled) = (
        Classifier(path, "cpu").session.run(["logits", "probabilities"], {"image": images}) for path in (model, plain)
    )
    np.testing.assert_allclose(logits, raw, rtol=1e-5, atol=1e-5)
    for probabilities, by in ((scaled, fitted), (unscaled, 1.0)):
        exponents = np.exp(logits.astype(np.float64) / by)
        np.testing.assert_allclose(probabilities, exponents / exponents.sum(1, keepdims=True), atol=1e-5)


def test_on_a_device_that_plans_each_shape_all_batches_have_one(digits_run, model, monkeypatch):
    classifier, shapes = Classifier(model, "cpu"), set()
    photos = list(digits_run.learner("cpu").dls.data.valid)[:37]  # 2 batches and 5 photos
    images = prepared_all(photos, classifier.card.preprocess)
    expected, run = raw_outputs(classifier, images), classifier.session.run

    def watched(names, inputs, options=None):
        shapes.add(inputs["image"].shape)
        return run(names, inputs, options)

    monkeypatch.setattr(classifier.session, "run", watched)
    monkeypatch.setattr(classifier, "pads", True)
    for padded, plain in zip(raw_outputs(classifier, images), expected, strict=True):
        np.testing.assert_allclose(padded, plain, atol=1e-5)
    assert shapes == {(16, *images.shape[1:])}


def test_the_temperature_is_the_one_that_scipy_finds(digits_run, model):
    labels = labelled_photos(digits_run.recipe["data"]["path"])
    classes = digits_run.recipe["classes"]
    classifier = Classifier(model, "cpu")
    logits = raw_outputs(classifier, prepared_all(list(labels), classifier.card.preprocess))[0]
    truth = [classes.index(label) for label in labels.values()]

    def loss(logarithm):
        exponents = np.exp((logits - logits.max(1, keepdims=True)) / np.exp(logarithm))
        return log_loss(truth, exponents / exponents.sum(1, keepdims=True), labels=range(len(classes)))

    best = np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)
    assert props(model)["calibration"]["temperature"] == pytest.approx(best, rel=1e-2)


def test_a_temperature_that_does_not_help_on_other_photos_is_not_used():
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 400)
    wrong = random.normal(0, 1, (400, 4))
    sure = np.eye(4)[labels] * 2 + random.normal(0, 1, (400, 4))
    assert calibration(8 * sure, labels)["temperature"] > 3
    assert calibration(8 * sure, labels)["scaled_ece"] < calibration(8 * sure, labels)["ece"]
    few = calibration(wrong[:4], labels[:4])
    assert few["temperature"] == 1.0
    assert (few["scaled_nll"], few["scaled_ece"]) == (few["nll"], few["ece"])


def test_a_temperature_that_makes_the_calibration_error_worse_is_not_used():
    "The loss may fall and the error rise: of 40 images of each of 400 draws some do so."
    random, worse = np.random.default_rng(0), 0
    for _ in range(400):
        labels = random.integers(0, 4, 40)
        logits = 1.5 * np.eye(4)[labels] + random.normal(0, 1, (40, 4))
        plain, right = metrics.softmax(logits), logits.argmax(1) == labels
        scaled = scaled_by_other_half(plain, labels)
        sure = plain.max(1), scaled.max(1)
        before, after = (calibration_error(reliability_curve(each, right)) for each in sure)
        if after > before and metrics.negative_log_likelihood(scaled, labels) < log_loss(labels, plain):
            worse += 1
            assert calibration(logits, labels)["temperature"] == 1.0
    assert worse > 10
