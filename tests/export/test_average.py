"""Files averaged in one: the mean by numpy and torch, the certificate, and what can't be averaged."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import run_folders
import tiny_onnx
import torch
from predicting import save
from torch import nn

from export import average
from export.average import average_models
from export.convert.average import averaged
from export.convert.fp16 import to_half
from export.convert.graph import export_graph, write_metadata
from export.convert.int8 import ranges_of, to_int8
from export.session import Classifier
from export.verify import verify
from toolkit.data.dataset import find_data
from toolkit.data.preprocess import for_size
from toolkit.files import write_json

CLASSES = ["apple", "pear", "plum"]


@pytest.fixture
def files(tmp_path):
    "Two files of other weights; the second has the classes in another order."
    return [
        tiny_onnx.write(tmp_path / "a.onnx", CLASSES, seed=1),
        tiny_onnx.write(tmp_path / "b.onnx", CLASSES[::-1], seed=2),
    ]


@pytest.fixture
def data(tmp_path):
    "Labelled photos."
    for seed in range(12):
        save(tmp_path / "data" / CLASSES[seed % 3] / f"{seed}.png", seed)
    return tmp_path / "data"


def props(path):
    return {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}


def outputs(model, images):
    content = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["logits", "probabilities"], {"image": images})


def test_the_file_gives_the_mean_of_the_probabilities_class_by_class(files, data, tmp_path):
    out = average_models(files, tmp_path / "mean.onnx", data, "cpu")
    photos = [tiny_onnx.photo(seed) for seed in range(5)]
    labels, found = Classifier(out, "cpu")(photos)
    for label, row, photo in zip(labels, found, photos, strict=True):
        one = tiny_onnx.expected(photo, CLASSES, seed=1)[1]
        other = tiny_onnx.expected(photo, CLASSES[::-1], seed=2)[1][::-1]
        np.testing.assert_allclose(row, (one + other) / 2, rtol=1e-5, atol=1e-7)
        assert label == CLASSES[((one + other) / 2).argmax()]
    images = np.stack([photo[2:30, 2:30] for photo in photos])
    for batch in (1, 5):
        logits, probabilities = outputs(out, images[:batch])
        np.testing.assert_allclose(logits, np.log(probabilities), rtol=1e-5, atol=1e-6)
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_a_probability_that_is_0_in_all_files_has_a_finite_logit():
    "exp(-200) is 0 in float32, and its logarithm no number."
    models = []
    for seed in (1, 2):
        model = onnx.helper.make_model(tiny_onnx.graph(3, seed=seed), opset_imports=[onnx.helper.make_opsetid("", 18)])
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 0, -4000], np.float32), "bias"))
        models.append(model)
    joined = averaged(models, [[0, 1, 2]] * 2)
    joined.ir_version = 9
    logits, probabilities = outputs(joined, np.full((2, 28, 28, 3), 9, np.uint8))
    assert (probabilities[:, 2] == 0).all()
    np.testing.assert_allclose(logits[:, 2], np.log(np.finfo(np.float32).tiny), rtol=1e-6)


def test_networks_of_each_precision_give_the_mean_of_their_own_probabilities_and_torchs(tmp_path):
    torch.manual_seed(0)
    parts, preprocess, temperatures = [], for_size(32), (0.7, 2.0)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    mean, std = (np.array(preprocess[name]) for name in ("mean", "std"))
    pixels = torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    expected = []
    for number, temperature in enumerate(temperatures):
        layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
        model = nn.Sequential(*layers).eval()
        nn.init.normal_(layers[-1].weight, std=4.0)
        export_graph(model, preprocess, tmp_path / f"{number}.onnx", temperature)
        with torch.no_grad():
            expected.append((model(pixels) / temperature).softmax(1).numpy())
        parts.append(onnx.load(tmp_path / f"{number}.onnx"))
    joined = averaged(parts, [[0, 1, 2]] * 2)
    assert np.abs(expected[0] - expected[1]).max() > 0.1, "the mean is neither"
    np.testing.assert_allclose(outputs(joined, images)[1], np.mean(expected, axis=0), atol=1e-5)
    halves = [to_half(onnx.load(tmp_path / f"{number}.onnx"), []) for number in range(2)]
    ranges = [ranges_of(tmp_path / f"{number}.onnx", images) for number in range(2)]
    eights = [to_int8(onnx.load(tmp_path / f"{number}.onnx"), ranges[number], []) for number in range(2)]
    for lowered in (halves, eights):
        own = np.mean([outputs(model, images)[1] for model in lowered], axis=0)
        np.testing.assert_allclose(outputs(averaged(lowered, [[0, 1, 2]] * 2), images)[1], own, atol=1e-6)


def test_the_metadata_name_the_files_and_the_certificate_what_it_was_compared_with(files, data, tmp_path, capsys):
    write_metadata(files[0], {"weights_license": "apache-2.0", "metrics": {"accuracy": 0.5}})
    write_metadata(files[1], {"weights_license": "mit", "calibration": {"temperature": 1.0}})
    found = props(average_models(files, tmp_path / "mean.onnx", data, "cpu"))
    assert found["classes"] == CLASSES
    assert found["weights_license"] == "apache-2.0; mit"
    assert found["precision"] == "fp32"
    assert found["calibration"]["temperature"] == 1.0
    assert found["calibration"]["fitted"].startswith("none to the mean")
    assert found["recipe"]["recipe"] == "average"
    first, second = found["recipe"]["models"]
    assert first["sha256"] == hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert (first["recipe"], first["accuracy"], first["temperature"]) == ("tiny", 0.5, None)
    assert (second["accuracy"], second["temperature"]) == (None, 1.0)
    said = found["verification"]
    assert said["compared_with"] == "the mean of the probabilities of 2 files"
    assert (said["images"], said["agreement"], said["trained_on"]) == (12, 1.0, 0)
    assert said["probability_difference"] < 1e-5
    assert str(tmp_path) not in json.dumps(found), "a path of this machine"
    assert "\n  the mean's accuracy " in capsys.readouterr().out


def test_the_same_files_give_the_same_bytes(files, data, tmp_path):
    one, other = (average_models(files, tmp_path / name, data, "cpu").read_bytes() for name in ("1.onnx", "2.onnx"))
    assert one == other


def folds(tmp_path, data):
    "Two run folders, each with a file; each is validated on the photos that the other was trained on."
    photos, files = sorted(data.glob("*/*.png")), []
    for fold in (0, 1):
        folder, table = tmp_path / f"run{fold}", tmp_path / f"fold{fold}.csv"
        with table.open("w", newline="") as file:
            rows = [(each, each.parent.name, "valid" if i % 2 == fold else "train") for i, each in enumerate(photos)]
            csv.writer(file).writerows([("path", "label", "split"), *rows])
        recipe = run_folders.recipe(CLASSES, table, 2)
        recipe["data"]["fingerprint"] = find_data(table).fingerprint
        write_json(folder / "recipe.json", recipe)
        files.append(tiny_onnx.write(folder / "model.onnx", CLASSES, seed=fold + 1))
    return files


def test_validation_photos_of_the_runs_verify_and_it_says_how_many_a_file_was_trained_on(data, tmp_path, capsys):
    found = props(average_models(folds(tmp_path, data), tmp_path / "mean.onnx", device="cpu"))["verification"]
    assert (found["images"], found["trained_on"]) == (12, 12)
    assert "12 of these photos: no honest accuracy" in capsys.readouterr().out


def test_an_average_is_verified_by_labels_alone_also_in_a_run_folder(data, tmp_path):
    files = folds(tmp_path, data)
    (tmp_path / "run0/best.safetensors").write_bytes(b"")
    out = average_models(files, tmp_path / "run0/average.onnx", device="cpu")
    found = verify(out, data, device="cpu")
    assert found["images"] == 12
    assert "agreement" not in found
    with pytest.raises(ValueError, match="an average of several files, no run is its own: leave out --run"):
        verify(out, data, tmp_path / "run0", "cpu")


def other_preprocess(path):
    write_metadata(path, {"preprocess": tiny_onnx.PREPROCESS | {"resize": 40}})


def padded(path):
    write_metadata(path, {"preprocess": {"fit": "pad"} | tiny_onnx.PREPROCESS | {"resize": 28, "version": 2}})


def half(path):
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float16), "unused"))
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_preprocess, "b.onnx takes photos with resize 40, .*a.onnx with 32: one file can't do both, but export"),
        (half, "a.onnx is fp32, .*b.onnx is fp16: export all of them in one --precision"),
    ],
)
def test_files_that_differ_are_refused_saying_in_what(files, data, tmp_path, change, message):
    change(files[1])
    with pytest.raises(ValueError, match=message):
        average_models(files, tmp_path / "mean.onnx", data, "cpu")
    assert not (tmp_path / "mean.onnx").exists()


@pytest.mark.parametrize("first", [0, 1])
def test_a_file_for_whole_photos_and_one_for_their_centre_are_refused_in_either_order(files, data, tmp_path, first):
    padded(files[first])
    says = [r"b.onnx takes photos with fit None, .*a.onnx with pad", r"b.onnx takes photos with fit pad, .* with None"]
    with pytest.raises(ValueError, match=says[first]):
        average_models(files, tmp_path / "mean.onnx", data, "cpu")


def test_other_operators_are_refused(files):
    models = [onnx.load(file) for file in files]
    models[1].opset_import[0].version = 17
    with pytest.raises(ValueError, match="operators of opset 18 and 17, one file holds one: export them again"):
        averaged(models, [[0, 1, 2]] * 2)


def test_other_classes_are_refused_naming_those_that_a_file_lacks(files, data, tmp_path):
    tiny_onnx.write(files[1], ["apple", "pear", "fig", "kiwi"])
    with pytest.raises(
        ValueError, match=r"same classes can be averaged: .*b.onnx lacks plum; .*a.onnx lacks fig, kiwi"
    ):
        average_models(files, tmp_path / "mean.onnx", data, "cpu")


def test_a_graph_that_is_not_the_mean_is_refused_and_no_file_is_written(files, data, tmp_path, monkeypatch):
    monkeypatch.setattr(average, "averaged", lambda models, orders: averaged(models, [[0, 1, 2]] * 2))
    with pytest.raises(ValueError, match="the average is not the mean of the files, no file is written: .* wanted"):
        average_models(files, tmp_path / "mean.onnx", data, "cpu")
    assert not (tmp_path / "mean.onnx").exists()


def test_one_file_no_photos_and_other_labels_are_refused(files, data, tmp_path):
    with pytest.raises(ValueError, match=r"a.onnx: give two model files or more to average"):
        average_models(files[:1], tmp_path / "mean.onnx", data, "cpu")
    with pytest.raises(FileNotFoundError, match="no photos to verify on: no file lies in its run folder.*give --data"):
        average_models(files, tmp_path / "mean.onnx", device="cpu")
    shutil.copytree(data / "apple", data / "rhubarb")
    with pytest.raises(ValueError, match="has photos of 'rhubarb', a class that .*a.onnx doesn't know"):
        average_models(files, tmp_path / "mean.onnx", data, "cpu")


def test_a_file_that_is_read_or_that_no_export_wrote_is_not_replaced(files, data, tmp_path):
    before = files[0].read_bytes()
    with pytest.raises(FileExistsError, match="a.onnx is what is being read"):
        average_models(files, files[0], data, "cpu")
    assert files[0].read_bytes() == before
    (tmp_path / "weights.bin").write_text("mine")
    with pytest.raises(FileExistsError, match=r"weights.bin is a file that no export wrote.*: give FILE.onnx"):
        average_models(files, tmp_path / "weights.bin", data, "cpu")


def test_files_too_large_for_one_are_refused_before_they_are_read(files, data, tmp_path, monkeypatch):
    monkeypatch.setattr(average, "LARGEST", 1000)
    with pytest.raises(ValueError, match="GB together, and an ONNX file holds 2.1: average fewer of them"):
        average_models(files, tmp_path / "mean.onnx", data, "cpu")
