"""A network without its batch norms computes the same, and one in which they can't be left out stays as it is."""

import numpy as np
import onnx
import pytest
import torch
from timm.layers import ScaledStdConv2d
from torch import nn

from export.convert import graph
from export.convert.fold_batch_norm import folded
from export.convert.graph import export_graph
from toolkit.data.preprocess import for_size
from toolkit.models.timm_model import create_model


def trained(model):
    "The model with batch norms that do something."
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
            nn.init.normal_(norm.running_mean, 0, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, 0, 0.3)
    return model.eval()


def norms(model, size, channels=3):
    "How many batch norms are computed in a forward pass."
    calls = []
    compute, torch.nn.functional.batch_norm = (
        torch.nn.functional.batch_norm,
        lambda *given, **options: calls.append(1) or compute(*given, **options),
    )
    try:
        model(torch.zeros(2, channels, size, size))
    finally:
        torch.nn.functional.batch_norm = compute
    return len(calls)


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "mobilenetv2_050", "regnetx_002", "test_byobnet"])
def test_the_logits_stay_and_no_batch_norm_is_computed(arch):
    model = trained(create_model(arch, 7, "none", image_size=64))
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected, before = model(images), norms(model, 64)
        found = folded(model, 64)
        assert before > 5
        assert norms(found, 64) == 0
        assert norms(model, 64) == before
        torch.testing.assert_close(found(images), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(model(images), expected)


@pytest.mark.long
def test_the_graph_has_the_nodes_that_it_has_without_folding(tmp_path, monkeypatch):
    model = trained(create_model("test_resnet", 7, "none", image_size=32))
    export_graph(model, for_size(32), tmp_path / "folded.onnx")
    monkeypatch.setattr(graph, "folded", lambda model, size: model)
    export_graph(model, for_size(32), tmp_path / "plain.onnx")
    ours, theirs = (onnx.load(tmp_path / name).graph for name in ("folded.onnx", "plain.onnx"))
    assert [node.op_type for node in ours.node] == [node.op_type for node in theirs.node]
    shapes = [sorted(tuple(tensor.dims) for tensor in each.initializer) for each in (ours, theirs)]
    assert shapes[0] == shapes[1]


class Network(nn.Module):
    "A convolution, a batch norm without weights, and what a test makes of them."

    def __init__(self, conv, norm, combine):
        super().__init__()
        self.conv, self.norm, self.combine, self.head = conv, norm, combine, nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.combine(self.conv, self.norm, images).mean((2, 3)))


def in_turn(conv, norm, images):
    return norm(conv(images))


def used_twice(conv, norm, images):
    features = conv(images)
    return norm(features) + features


def called_twice(conv, norm, images):
    return norm(conv(images)) + norm(conv(images.flip(3)))


def plain():
    return nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)


@pytest.mark.parametrize(
    ("parts", "combine"),
    [
        (plain(), used_twice),
        (plain(), called_twice),
        ((ScaledStdConv2d(3, 4, 3), nn.BatchNorm2d(4)), in_turn),
        ((nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), in_turn),
        ((nn.Identity(), nn.BatchNorm2d(3)), lambda conv, norm, images: norm(images)[:, [0, 1, 2, 0]]),
    ],
    ids=["output used elsewhere", "called twice", "standardised weights", "statistics of the batch", "no convolution"],
)
def test_a_batch_norm_that_can_not_be_left_out_stays(parts, combine):
    model = trained(Network(*parts, combine))
    found, images = folded(model, 16), torch.randn(2, 3, 16, 16)
    assert found is model
    with torch.no_grad():
        assert norms(found, 16) == norms(model, 16) >= 1
        assert np.isfinite(found(images).numpy()).all()


def test_one_without_weights_of_its_own_is_folded():
    model = trained(Network(*plain(), in_turn))
    with torch.no_grad():
        assert norms(folded(model, 16), 16) == 0
