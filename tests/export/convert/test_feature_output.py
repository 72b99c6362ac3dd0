"""The output `features`: torch's input of the linear classifier, in every precision; without --features none."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from export.convert.features import add_features
from export.convert.fp16 import to_half
from export.convert.graph import export_graph
from export.convert.int8 import ranges_of, to_int8
from export.parity.certificate import faults, table
from export.parity.measure import measured
from export.parity.reference import torch_outputs, validation_reference
from export.to_onnx import to_onnx
from export.verify import verify
from toolkit.data.preprocess import for_size

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


class Net(nn.Module):
    "A network whose classifier is a Linear, or a convolution as in some of timm's."

    def __init__(self, convolution: bool):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU())
        self.pool, self.convolution = nn.AdaptiveAvgPool2d(1), convolution
        self.classifier = nn.Conv2d(6, 4, 1) if convolution else nn.Linear(6, 4)

    def get_classifier(self):
        return self.classifier

    def forward(self, images):
        pooled = self.pool(self.body(images))
        return self.classifier(pooled if self.convolution else pooled.flatten(1)).flatten(1)


def pooled(model, images, preprocess):
    "By torch, without a hook."
    mean, std = (torch.tensor(preprocess[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        return model.body(pixels).mean((2, 3)).numpy()


@pytest.mark.parametrize("convolution", [False, True])
def test_the_features_are_torchs_pooled_activations_in_each_precision(convolution, tmp_path):
    torch.manual_seed(0)
    model, preprocess, path = Net(convolution).eval(), for_size(32), tmp_path / "model.onnx"
    export_graph(model, preprocess, path)
    before = outputs(onnx.load(path), ["logits", "probabilities"])
    assert add_features(path) == 6
    onnx.checker.check_model(onnx.load(path), full_check=True)
    expected = pooled(model, IMAGES, preprocess)
    np.testing.assert_allclose(torch_outputs(model, IMAGES, preprocess, features=True)[1], expected, atol=1e-5)
    assert torch_outputs(model, IMAGES, preprocess)[1] is None
    single = outputs(onnx.load(path), ["features"])[0]
    assert (single.dtype, single.shape) == (np.float32, (5, 6))
    np.testing.assert_allclose(single, expected, atol=1e-5)
    for found, wanted in zip(outputs(onnx.load(path), ["logits", "probabilities"]), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    half, eight = to_half(onnx.load(path), []), to_int8(onnx.load(path), ranges_of(path, IMAGES), [])
    for lowered, most in ((half, 2e-3), (eight, 0.05)):
        found = outputs(lowered, ["features"])[0]
        assert (found.dtype, found.shape) == (np.float32, (5, 6))
        assert np.abs(found - expected).max() < most * expected.max()


def outputs(model, names):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names, {"image": IMAGES})


def test_a_classifier_of_two_layers_has_no_features():
    model = Net(False)
    model.classifier = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    with pytest.raises(ValueError, match="classifier of Net is Sequential, not one linear layer: leave --features out"):
        torch_outputs(model, IMAGES, for_size(32), features=True)


@pytest.fixture(scope="module")
def exported(digits_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "model.onnx"
    return to_onnx(digits_run.folder, path, device="cpu", images=60, features=True)


def test_the_certificate_compares_the_features_with_torchs_and_so_does_verify(digits_run, exported, capsys):
    props = {prop.key: json.loads(prop.value) for prop in onnx.load(exported).metadata_props}
    assert props["features"]["size"] == 96
    said = props["verification"]
    assert said["feature_difference"] < 1e-4
    assert said["feature_cosine"] > 0.9999
    again = verify(exported, digits_run.recipe["data"]["path"], digits_run.folder, "cpu", 20)
    assert again["feature_difference"] < 1e-4
    assert "  features            differ by " in capsys.readouterr().out


def test_a_file_is_the_same_but_for_the_output_and_its_metadata(digits_run, exported, tmp_path):
    plain = onnx.load(to_onnx(digits_run.folder, tmp_path / "plain.onnx", device="cpu", images=60))
    model = onnx.load(exported)
    assert [value.name for value in plain.graph.output] == ["logits", "probabilities"]
    del model.graph.output[2], model.graph.node[-1]
    assert model.graph == plain.graph


def test_features_that_are_not_torchs_are_refused_by_how_much(digits_run, exported, tmp_path):
    model, path = onnx.load(exported), tmp_path / "other.onnx"
    model.graph.node[-1].op_type = "Neg"
    onnx.save(model, path)
    reference = validation_reference(digits_run, 20, features=True)
    certificate = measured(reference, path, "cpu", "fp32", [])
    assert certificate["feature_difference"] == pytest.approx(2, abs=1e-3)
    assert certificate["feature_cosine"] == pytest.approx(-1, abs=1e-3)
    assert faults(certificate) == ["features differ by 2.0e+00 of their length, at most 1e-03 allowed"]
    assert "at most 1e-03), cosine -1.00000 or more" in table(certificate)


def test_a_distilled_network_has_two_classifiers_and_no_features():
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=4)
    with pytest.raises(ValueError, match="is Linear and Linear, not one linear layer: leave --features out"):
        torch_outputs(model, IMAGES, for_size(32), features=True)
