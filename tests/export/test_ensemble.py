"""Several files: the mean of their probabilities by class name, each photo read once."""

import json
import pickle

import numpy as np
import pytest
import tiny_onnx
from predicting import rows, run, save

from export.ensemble import Ensemble
from export.predict import predict
from export.reading import prepare
from export.session import Classifier

CLASSES = ["apple", "pear", "plum"]
PHOTOS = [tiny_onnx.photo(seed) for seed in range(11)]


@pytest.fixture
def files(tmp_path):
    "The second has the classes in another order."
    return [
        tiny_onnx.write(tmp_path / "a.onnx", CLASSES, seed=1),
        tiny_onnx.write(tmp_path / "b.onnx", CLASSES[::-1], seed=2),
    ]


def mean(photo):
    "By numpy."
    one = tiny_onnx.expected(photo, CLASSES, seed=1)[1]
    return (one + tiny_onnx.expected(photo, CLASSES[::-1], seed=2)[1][::-1]) / 2


def test_probabilities_are_the_mean_by_class_name_and_the_label_is_its_largest(files):
    ensemble = Ensemble(files, "cpu", bs=4)
    labels, found = ensemble(PHOTOS)
    np.testing.assert_allclose(found, [mean(photo) for photo in PHOTOS], rtol=1e-5, atol=1e-7)
    assert labels == [CLASSES[mean(photo).argmax()] for photo in PHOTOS]
    assert ensemble.card.classes == CLASSES
    again = pickle.loads(pickle.dumps(ensemble))
    np.testing.assert_array_equal(again(PHOTOS)[1], found)


def test_the_command_takes_several_files_before_the_photos(files, tmp_path):
    for seed in range(9):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    out = tmp_path / "p.csv"
    done = run(*files, tmp_path / "photos", "--out", out, "--device", "cpu", "--bs", 4, "--probabilities")
    assert (done.returncode, done.stderr) == (0, "")
    header, *table = rows(out)
    assert header == ["image_name", "pred_label", "confidence", *CLASSES]
    found = np.array([[float(cell) for cell in row[3:]] for row in table])
    np.testing.assert_allclose(found, [mean(tiny_onnx.photo(seed)) for seed in range(9)], rtol=1e-5, atol=1e-7)
    predict(files, tmp_path / "photos", out, device="cpu", bs=4, probabilities=True, resume=True)
    with pytest.raises(ValueError, match=r"was started with model \w{12}, now \w{12}"):
        predict(files[::-1], tmp_path / "photos", out, device="cpu", bs=4, probabilities=True, resume=True)


def of_another_size(path):
    "A file that takes 20 of the photo's pixels where the other takes 28."
    preprocess = tiny_onnx.PREPROCESS | {"resize": 24, "crop": 20}
    return tiny_onnx.write(path, CLASSES, {"preprocess": json.dumps(preprocess)}, seed=3, shape=("batch", 20, 20, 3))


def test_files_of_different_sizes_each_get_the_photo_as_they_take_it_and_it_is_read_once(files, tmp_path, monkeypatch):
    paths = [save(tmp_path / "photos" / f"{seed}.png", seed) for seed in range(5)]
    (tmp_path / "photos" / "9.png").write_bytes(b"no photo")
    small = of_another_size(tmp_path / "small.onnx")
    alone = [Classifier(each, "cpu", bs=2)(paths)[1] for each in (files[0], small)]
    read, file_bytes = [], prepare.file_bytes
    monkeypatch.setattr(prepare, "file_bytes", lambda path: read.append(path) or file_bytes(path))
    for workers in (0, 2):
        answers = list(Ensemble([files[0], small], "cpu", bs=2).stream([*paths, tmp_path / "photos/9.png"], workers))
        np.testing.assert_allclose([row for _, row in answers[:5]], np.mean(alone, axis=0), rtol=1e-6)
        assert isinstance(answers[5], ValueError)
        assert len(read) == 6
        read.clear()


def test_flip_is_the_mean_over_files_and_mirror_images(files):
    found = Ensemble(files, "cpu", tta="flip")(PHOTOS)[1]
    expected = [(mean(photo) + mean(np.ascontiguousarray(photo[:, ::-1]))) / 2 for photo in PHOTOS]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_files_that_make_no_ensemble_are_refused(files, tmp_path):
    other = tiny_onnx.write(tmp_path / "c.onnx", ["apple", "pear", "fig"])
    with pytest.raises(ValueError, match=r"same classes can be averaged: .*c.onnx lacks plum; .*a.onnx lacks fig"):
        Ensemble([files[0], other], "cpu")
    with pytest.raises(ValueError, match="1 model files: an ensemble has two or more"):
        Ensemble(files[:1], "cpu")
    save(tmp_path / "photos/0.png", 0)
    with pytest.raises(ValueError, match="--features with 2 models: their features have no common meaning"):
        predict(files, tmp_path / "photos", tmp_path / "p.csv", device="cpu", features=tmp_path / "f.npy")
    with pytest.raises(ValueError, match="--engine ray takes one model, not 2: average them in one file"):
        predict(files, tmp_path / "photos", tmp_path / "out", engine="ray")
    with pytest.raises(FileNotFoundError, match="d.onnx: no such file"):
        predict([files[0], tmp_path / "d.onnx"], tmp_path / "photos", tmp_path / "p.csv", device="cpu")
