"""The Open Inference Protocol, compared with onnxruntime on the same tensors."""

import base64
import json
import struct

import numpy as np
import onnxruntime
import pytest
import tiny_onnx
from service import ask

INFER, LENGTH = "/v2/models/tiny/infer", "inference-header-content-length"
IMAGES = np.stack([tiny_onnx.photo(seed)[2:30, 2:30] for seed in range(5)])


@pytest.fixture(scope="module")
def probabilities(model):
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"image": IMAGES})[0]


def infer(port, request, binary=b"", headers=None):
    head = json.dumps(request).encode()
    sizes = {LENGTH: str(len(head))} if binary else {}
    return ask(port, INFER, head + binary, {"Content-Type": "application/json"} | sizes | (headers or {}))


def tensor(answer, name):
    return next(each for each in answer["outputs"] if each["name"] == name)


def test_metadata_name_the_tensors(port):
    model = ask(port, "/v2/models/tiny").json
    assert {"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28, 3]} in model["inputs"]
    assert {"name": "photo", "datatype": "BYTES", "shape": [-1]} in model["inputs"]
    assert model["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 12]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]
    assert ask(port, "/v2").json["extensions"] == ["binary_tensor_data"]


def test_the_service_and_the_model_are_live_and_ready(port):
    assert ask(port, "/v2/health/live").json == {"live": True}
    assert ask(port, "/v2/health/ready").json == {"ready": True}
    assert ask(port, "/v2/models/tiny/ready").json == {"name": "tiny", "ready": True}
    assert ask(port, "/v2/models/other/ready").status == 404


@pytest.mark.parametrize("nested", [True, False])
def test_prepared_pixels_in_json_have_the_probabilities_of_onnxruntime(port, probabilities, nested):
    data = IMAGES.tolist() if nested else IMAGES.ravel().tolist()
    given = {"name": "image", "datatype": "UINT8", "shape": list(IMAGES.shape), "data": data}
    answer = infer(port, {"id": "42", "inputs": [given]}).json
    assert (answer["id"], answer["model_name"]) == ("42", "tiny")
    told = tensor(answer, "probabilities")
    assert (told["datatype"], told["shape"]) == ("FP32", [5, 12])
    np.testing.assert_array_equal(np.float32(told["data"]).reshape(5, 12), probabilities)
    assert tensor(answer, "label")["data"] == [tiny_onnx.expected(tiny_onnx.photo(seed))[0] for seed in range(5)]


def test_binary_tensors_both_ways(port, probabilities):
    size = {"binary_data_size": IMAGES.size}
    given = {"name": "image", "datatype": "UINT8", "shape": list(IMAGES.shape), "parameters": size}
    answer = infer(port, {"inputs": [given], "parameters": {"binary_data_output": True}}, IMAGES.tobytes())
    at = int(answer.headers[LENGTH])
    head = json.loads(answer.body[:at])
    sizes = [each["parameters"]["binary_data_size"] for each in head["outputs"]]
    assert [each["name"] for each in head["outputs"]] == ["probabilities", "label"]
    told = np.frombuffer(answer.body[at : at + sizes[0]], "<f4").reshape(5, 12)
    np.testing.assert_array_equal(told, probabilities)
    rest, labels = answer.body[at + sizes[0] :], []
    assert len(rest) == sizes[1]
    while rest:
        (length,) = struct.unpack("<I", rest[:4])
        labels.append(rest[4 : 4 + length].decode())
        rest = rest[4 + length :]
    assert labels == [tiny_onnx.NUMERIC[index] for index in probabilities.argmax(1)]


def test_files_as_base64_and_as_binary_elements(port, photos, probabilities):
    files = [each.read_bytes() for each in photos[:5]]
    given = {"name": "photo", "datatype": "BYTES", "shape": [5]}
    texts = infer(port, {"inputs": [given | {"data": [base64.b64encode(each).decode() for each in files]}]}).json
    packed = b"".join(struct.pack("<I", len(each)) + each for each in files)
    binary = infer(port, {"inputs": [given | {"parameters": {"binary_data_size": len(packed)}}]}, packed).json
    for answer in (texts, binary):
        np.testing.assert_allclose(
            np.float32(tensor(answer, "probabilities")["data"]).reshape(5, 12), probabilities, rtol=1e-5
        )


def test_only_the_outputs_asked_for_are_told(port):
    given = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 3], "data": IMAGES[0].ravel().tolist()}
    answer = infer(port, {"inputs": [given], "outputs": [{"name": "label"}]}).json
    assert [each["name"] for each in answer["outputs"]] == ["label"]
    refused = infer(port, {"inputs": [given], "outputs": [{"name": "logits"}]})
    assert (refused.status, refused.json) == (
        400,
        {"error": "`outputs` is a list of tensors by name: probabilities, label"},
    )


def test_a_photo_that_cannot_be_read_refuses_the_request_by_its_index(port, photos):
    data = [base64.b64encode(each).decode() for each in (photos[0].read_bytes(), b"text")]
    answer = infer(port, {"inputs": [{"name": "photo", "datatype": "BYTES", "shape": [2], "data": data}]})
    assert answer.status == 422
    assert answer.json["error"].startswith("photo 1: not a photo")


def test_more_photos_than_a_request_may_have_are_refused(port):
    images = np.zeros((65, 28, 28, 3), np.uint8)
    size = {"binary_data_size": images.size}
    given = {"name": "image", "datatype": "UINT8", "shape": list(images.shape), "parameters": size}
    assert infer(port, {"inputs": [given]}, images.tobytes()).status == 413
