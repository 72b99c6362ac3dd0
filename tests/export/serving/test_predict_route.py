"""POST /predict: labels and probabilities are those of the model file by other means."""

import base64
import csv
import json
from concurrent.futures import ThreadPoolExecutor

import hostile
import numpy as np
import pytest
import raw_client
import tiny_onnx
from service import ask, started

from export.predictions.local import predict_here
from export.predictions.options import PredictOptions

FORM = {"Content-Type": "multipart/form-data; boundary=X"}


def check(entry, label, probabilities):
    assert entry["label"] == label
    assert entry["confidence"] == pytest.approx(probabilities.max(), abs=1e-6)
    told = [entry["probabilities"][name] for name in tiny_onnx.NUMERIC]
    np.testing.assert_allclose(told, probabilities, atol=1e-6)


def test_a_photo_has_the_label_and_probabilities_of_onnxruntime_alone(port, model, photos):
    for photo, (label, probabilities) in zip(photos, raw_client.classify(str(model), map(str, photos)), strict=True):
        answer = ask(port, "/predict", photo.read_bytes())
        assert answer.status == 200
        assert answer.json["model"] == "tiny"
        (entry,) = answer.json["predictions"]
        check(entry, label, probabilities)
        assert "name" not in entry


@pytest.mark.parametrize("kind", [None, "image/png", "application/octet-stream", "application/x-www-form-urlencoded"])
def test_a_body_of_these_types_is_a_photo(port, photos, kind):
    answer = ask(port, "/predict", photos[3].read_bytes(), {"Content-Type": kind} if kind else None)
    assert answer.json["predictions"][0]["label"] == tiny_onnx.expected(tiny_onnx.photo(3))[0]


def test_json_without_its_type_is_told_how_to_be_sent(port):
    answer = ask(port, "/predict", b'{"photos": []}', {"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status == 400
    assert answer.json["error"] == "the body is JSON: send it with the header Content-Type: application/json"


def test_a_form_has_an_entry_for_each_file_by_its_name(port, photos):
    body = hostile.form(*[hostile.file_part(each.read_bytes(), each.name.encode()) for each in photos])
    entries = ask(port, "/predict", body, FORM).json["predictions"]
    assert [entry["name"] for entry in entries] == [each.name for each in photos]
    for seed, entry in enumerate(entries):
        check(entry, *tiny_onnx.expected(tiny_onnx.photo(seed)))


def test_json_has_an_entry_for_each_base64_text(port, photos):
    body = json.dumps({"photos": [base64.b64encode(each.read_bytes()).decode() for each in photos]}).encode()
    entries = ask(port, "/predict", body, {"Content-Type": "application/json"}).json["predictions"]
    for seed, entry in enumerate(entries):
        check(entry, *tiny_onnx.expected(tiny_onnx.photo(seed)))
    assert len(entries) == len(photos)


def test_the_figures_are_those_that_export_predict_writes(port, model, photos, tmp_path):
    predict_here([model], photos[0].parent, PredictOptions(tmp_path / "p.csv", "cpu", probabilities=True))
    with (tmp_path / "p.csv").open() as file:
        for row in csv.DictReader(file):
            photo = photos[0].with_name(f"{row['image_name']}.png")
            (entry,) = ask(port, "/predict", photo.read_bytes()).json["predictions"]
            assert entry["label"] == row["pred_label"]
            assert entry["confidence"] == float(row["confidence"])
            assert entry["probabilities"] == {name: float(row[name]) for name in tiny_onnx.NUMERIC}


def test_top_tells_the_likeliest_classes_first(port, photos):
    _, probabilities = tiny_onnx.expected(tiny_onnx.photo(0))
    (entry,) = ask(port, "/predict?top=3", photos[0].read_bytes()).json["predictions"]
    assert list(entry["probabilities"]) == [tiny_onnx.NUMERIC[index] for index in np.argsort(-probabilities)[:3]]


def test_an_unreadable_photo_among_others_has_an_error_and_alone_a_422(port, photos):
    parts = [hostile.file_part(photos[0].read_bytes(), b"good.png"), hostile.file_part(b"text", b"bad.png")]
    answer = ask(port, "/predict", hostile.form(*parts), FORM)
    assert answer.status == 200
    good, bad = answer.json["predictions"]
    assert "error" not in good
    assert bad.keys() == {"name", "error"}
    assert bad["error"].startswith("not a photo in a format that is read")
    alone = ask(port, "/predict", b"text")
    assert alone.status == 422
    assert alone.json["predictions"] == [{"error": bad["error"]}]


def test_batches_form_across_requests(port, photos):
    before = hostile.metrics(port)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda photo: ask(port, "/predict", photo.read_bytes()), photos * 4))
    for number, answer in enumerate(answers):
        assert answer.json["predictions"][0]["label"] == tiny_onnx.expected(tiny_onnx.photo(number % 24))[0]
    after = hostile.metrics(port)
    new = {
        name: after[name] - before[name]
        for name in ("sum", "count")
        for name in [f"rapid_finetune_batch_photos_{name}"]
    }
    assert new["rapid_finetune_batch_photos_sum"] == len(answers)
    assert new["rapid_finetune_batch_photos_count"] < len(answers)


def test_answers_below_the_threshold_of_a_promise_are_unsure_as_in_export_predict(photos, tmp_path):
    confidences = [tiny_onnx.expected(tiny_onnx.photo(seed))[1].max() for seed in range(len(photos))]
    threshold = float(np.median(confidences))
    promise = json.dumps({"promise": 0.9, "threshold": threshold})
    model = tiny_onnx.write(tmp_path / "promising.onnx", metadata={"promise": promise})
    predict_here([model], photos[0].parent, PredictOptions(tmp_path / "p.csv", "cpu"))
    with (tmp_path / "p.csv").open() as file:
        unsure = [row["pred_label"] == "unsure" for row in csv.DictReader(file)]
    assert unsure == [confidence < threshold for confidence in confidences]
    parts = [hostile.file_part(each.read_bytes()) for each in photos]
    with started(model) as running:
        entries = ask(running.port, "/predict", hostile.form(*parts), FORM).json["predictions"]
        data = [base64.b64encode(each.read_bytes()).decode() for each in photos]
        given = {"name": "photo", "datatype": "BYTES", "shape": [len(data)], "data": data}
        body = json.dumps({"inputs": [given], "outputs": [{"name": "unsure"}]}).encode()
        (tensor,) = ask(running.port, "/v2/models/promising/infer", body).json["outputs"]
    assert [entry["unsure"] for entry in entries] == tensor["data"] == unsure
    assert tensor["datatype"] == "BOOL"


def test_without_a_promise_unsure_is_null(port, photos):
    (entry,) = ask(port, "/predict", photos[0].read_bytes()).json["predictions"]
    assert entry["unsure"] is None


def test_several_models_give_the_mean_of_their_probabilities(model, photos, tmp_path):
    other = tiny_onnx.write(tmp_path / "other.onnx", seed=1)
    with started(model, other) as running:
        answer = ask(running.port, "/predict", photos[5].read_bytes()).json
    assert answer["model"] == "ensemble"
    both = [tiny_onnx.expected(tiny_onnx.photo(5), seed=seed)[1] for seed in (0, 1)]
    mean = np.mean(both, 0)
    check(answer["predictions"][0], tiny_onnx.NUMERIC[mean.argmax()], mean)
