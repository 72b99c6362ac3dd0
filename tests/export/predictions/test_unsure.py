"""A promised precision: chosen when a model is exported, kept in its file, and followed by whoever uses it."""

import csv
import json
import shutil

import numpy as np
import onnx
import pytest
import tiny_onnx
from predicting import save

from export.predict import predict
from export.predictions.local import predict_here
from export.predictions.options import PredictOptions
from export.predictions.unsure import least_certain
from export.session import Classifier
from export.to_onnx import to_onnx
from export.verify import verify
from recipes import digits, hw1
from toolkit.evaluation.results import read_predictions
from toolkit.run import load

THRESHOLD = 0.4


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(17):
        save(folder / f"img{seed}.png", seed)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    promise = json.dumps({"promise": 0.9, "threshold": THRESHOLD})
    return tiny_onnx.write(tmp_path_factory.mktemp("model") / "model.onnx", metadata={"promise": promise})


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def expected(model, photos, word):
    "The table's labels by the model's own probabilities."
    labels, probabilities = Classifier(model)(sorted(photos.iterdir(), key=lambda path: int(path.stem[3:])))
    sure = probabilities.max(1) >= THRESHOLD
    assert 0 < sure.sum() < len(sure)
    return [label if keep else word for label, keep in zip(labels, sure, strict=True)]


def test_answers_below_the_threshold_are_unsure_and_counted(model, photos, tmp_path, capsys):
    predict(model, photos, tmp_path / "p.csv")
    wanted = expected(model, photos, "unsure")
    assert [row["pred_label"] for row in table(tmp_path / "p.csv")] == wanted
    count = wanted.count("unsure")
    assert f"unsure: {count} of 17, with a confidence below 0.4; of the others 0.9 were" in capsys.readouterr().out


def test_a_fallback_takes_the_place_of_the_word_and_figures_stay(model, photos, tmp_path):
    predict(model, photos, tmp_path / "p.csv", probabilities=True, fallback="7")
    rows = table(tmp_path / "p.csv")
    assert [row["pred_label"] for row in rows] == expected(model, photos, "7")
    assert min(float(row["confidence"]) for row in rows) < THRESHOLD


def test_the_most_likely_classes_are_told_of_an_unsure_photo_too(model, photos, tmp_path):
    predict(model, photos, tmp_path / "p.csv", top=2)
    rows = table(tmp_path / "p.csv")
    assert [row["pred_label"] for row in rows] == expected(model, photos, "unsure")
    assert {row["label_1"] for row in rows} <= set(tiny_onnx.NUMERIC)


def test_answer_all_labels_every_photo(model, photos, tmp_path, capsys):
    predict(model, photos, tmp_path / "p.csv", answer_all=True)
    plain = tiny_onnx.write(tmp_path / "model.onnx")
    predict(plain, photos, tmp_path / "plain.csv")
    assert (tmp_path / "p.csv").read_text() == (tmp_path / "plain.csv").read_text()
    assert "unsure" not in capsys.readouterr().out


def test_a_resumed_run_counts_the_unsure_photos_of_before(model, photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "p.csv"
    monkeypatch.setattr("export.predictions.formats.write_errors", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        predict(model, photos, out, bs=4)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="started with --answer_all False, now True"):
        predict(model, photos, out, bs=4, resume=True, answer_all=True)
    predict(model, photos, out, bs=4, resume=True)
    wanted = expected(model, photos, "unsure")
    assert [row["pred_label"] for row in table(out)] == wanted
    assert f"unsure: {wanted.count('unsure')} of 17" in capsys.readouterr().out


def test_a_class_that_is_called_unsure_needs_another_word(photos, tmp_path):
    promise = json.dumps({"promise": 0.9, "threshold": THRESHOLD})
    classes = ["a", "b", "unsure"]
    model = tiny_onnx.write(tmp_path / "model.onnx", classes, metadata={"promise": promise})
    with pytest.raises(ValueError, match="the model has a class 'unsure': give unsure photos a --fallback"):
        predict(model, photos, tmp_path / "p.csv")
    predict(model, photos, tmp_path / "p.csv", fallback="none")
    assert {row["pred_label"] for row in table(tmp_path / "p.csv")} <= {*classes, "none"}


@pytest.mark.parametrize("promise", ["7", '{"threshold": "0.5"}', '{"threshold": 1.5}', "{}", '{"threshold": true}'])
def test_a_promise_without_a_threshold_is_refused(promise, tmp_path):
    model = tiny_onnx.write(tmp_path / "model.onnx", metadata={"promise": promise})
    with pytest.raises(ValueError, match="its promise has threshold=.* expected a number from 0 to 1"):
        Classifier(model)


@pytest.mark.parametrize("promise", ["null", '"0.9"', "2"])
def test_a_threshold_without_its_promise_is_refused(promise, tmp_path):
    model = tiny_onnx.write(
        tmp_path / "model.onnx", metadata={"promise": f'{{"threshold": 0.5, "promise": {promise}}}'}
    )
    with pytest.raises(ValueError, match="its promise has promise=.* expected a number from 0 to 1"):
        Classifier(model)


def test_with_a_mirrored_view_nothing_is_promised_and_a_line_says_so(model, photos, tmp_path, capsys):
    "The threshold was chosen on the probabilities of the photos as they are."
    predict(model, photos, tmp_path / "p.csv", tta="flip")
    labels, _ = Classifier(model, tta="flip")(sorted(photos.iterdir(), key=lambda path: int(path.stem[3:])))
    assert [row["pred_label"] for row in table(tmp_path / "p.csv")] == labels
    said = capsys.readouterr()
    assert f"{model}: its threshold was chosen without --tta flip, so no answer is unsure" in said.err
    assert "unsure:" not in said.out


# Chosen at the export


@pytest.fixture(scope="module")
def run(digits_run, tmp_path_factory):
    "A run whose model.onnx promises 95 %."
    folder = tmp_path_factory.mktemp("promised") / "run"
    shutil.copytree(digits_run.folder, folder)
    to_onnx(folder, device="cpu", promise=0.95)
    return load(folder)


def metadata(path):
    return {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}


def test_the_file_holds_the_promise_its_threshold_and_what_came_of_it(run):
    found = metadata(run.path("model.onnx"))["promise"]
    assert found["promise"] == 0.95
    valid = read_predictions(run)
    assert found["images"] == len(valid.files)
    assert found["coverage"] == found["answered"] / found["images"]
    photos = list(run.dataset().valid)
    labels, probabilities = Classifier(run.path("model.onnx"))(photos)
    truth = np.array(list(run.dataset().valid.values()))
    sure = probabilities.max(1) >= found["threshold"]
    assert (np.array(labels)[sure] == truth[sure]).mean() >= 0.95
    assert sure.sum() <= found["answered"]  # the larger of two thresholds


def test_the_export_and_verify_tell_what_the_promise_leaves(run, capsys):
    to_onnx(run.folder, device="cpu", promise=0.95)
    assert "unsure" in capsys.readouterr().out
    certificate = verify(run.path("model.onnx"), run.recipe["data"]["path"], device="cpu")
    found = metadata(run.path("model.onnx"))["promise"]
    assert certificate["unsure"]["threshold"] == found["threshold"]
    said = capsys.readouterr().out
    assert f"with a confidence below {found['threshold']:.4g}; of the others" in said
    assert "0.95 was promised" in said


def test_a_promise_that_is_not_kept_leaves_the_earlier_file(run, monkeypatch):
    before = run.path("model.onnx").read_bytes()
    with pytest.raises(ValueError, match="--promise 2: give a precision up to 1"):
        to_onnx(run.folder, device="cpu", promise=2)
    wrong = {path: "0" for path in run.dataset().valid}  # as if nine of ten labels were wrong
    monkeypatch.setattr("export.parity.reference.evenly", lambda labels, count: wrong)
    with pytest.raises(ValueError, match="--promise 0.98 can't be kept on 270 validation photos"):
        to_onnx(run.folder, device="cpu", promise=0.98)
    assert run.path("model.onnx").read_bytes() == before


def test_without_a_promise_every_photo_gets_an_answer(digits_run):
    assert "promise" not in metadata(digits_run.path("model.onnx"))
    assert Classifier(digits_run.path("model.onnx")).card.threshold is None


@pytest.mark.long
def test_a_recipe_keeps_its_promise_and_photos_of_other_classes_are_mostly_unsure(tmp_path):
    digits.learner(tmp_path / "all", device="cpu")  # writes the digits
    for split in ("train", "val"):
        for label in "0123456":
            shutil.copytree(tmp_path / "all" / split / label, tmp_path / "known" / split / label)
    foreign = tmp_path / "foreign"
    shutil.copytree(tmp_path / "all" / "val", foreign, ignore=lambda *_: list("0123456"))
    options = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 64, "accum": 1, "lr": 4e-3}
    out = tmp_path / "run"
    hw1.main(tmp_path / "known", epochs=8, promise=0.97, device="cpu", precision="fp32", out=out, **options)
    shares = {}
    for name, folder in {"known": tmp_path / "known" / "val", "foreign": foreign}.items():
        predict(out / "model.onnx", folder, tmp_path / f"{name}.csv")
        shares[name] = np.mean([row["pred_label"] == "unsure" for row in table(tmp_path / f"{name}.csv")])
    assert shares["foreign"] > 2 * shares["known"]
    assert shares["foreign"] > 0.4
    assert load(out).recipe["options"]["promise"] == 0.97


def test_the_least_certain_photos_are_told_with_their_label(model, photos, tmp_path):
    found, broken = [], tmp_path / "broken.png"
    broken.write_bytes(b"no photo")
    named = {"broken": broken} | {str(seed): photos / f"img{seed}.png" for seed in range(17)}
    predict_here(
        [model],
        named,
        PredictOptions(tmp_path / "p.csv", "cpu"),
        look=lambda rows, named: found.extend(least_certain(rows, named, 10)),
    )
    expected = [(seed, *tiny_onnx.expected(tiny_onnx.photo(seed))) for seed in range(17)]
    expected.sort(key=lambda each: each[2].max())
    for (path, label, confidence), (seed, likely, probabilities) in zip(found, expected[:10], strict=True):
        assert path == photos / f"img{seed}.png"
        assert label == (likely if probabilities.max() >= THRESHOLD else "unsure")
        assert confidence == pytest.approx(probabilities.max(), abs=1e-6)
    assert {label == "unsure" for _, label, _ in found} == {True, False}
