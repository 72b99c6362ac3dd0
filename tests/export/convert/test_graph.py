"""The export of networks that torch's exporter does not take as they are."""

from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from timm.models.hiera import Hiera
from timm.models.nest import Nest
from timm.models.twins import Twins
from torch import nn
from torch.nn import functional as F

from export.convert.graph import export_graph
from toolkit.data.preprocess import for_size

SMALL = {  # of the families that give torch's fused attention five dimensions
    "hiera": partial(Hiera, embed_dim=8, num_heads=1, stages=(1, 1, 1, 1)),
    "nest": partial(Nest, embed_dims=(8, 16, 32), num_heads=(1, 2, 4), depths=(1, 1, 1)),
    "twins": partial(Twins, embed_dims=(8, 16, 32, 64), num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 2), wss=(7,) * 4),
}


class Attention(nn.Module):
    "Fused attention with tensors of five dimensions, and no way around it."

    def forward(self, x):
        heads = x.unsqueeze(1)
        return F.scaled_dot_product_attention(heads, heads, heads).mean((1, 3, 4))


def flags(model):
    return [layer.fused_attn for layer in model.modules() if hasattr(layer, "fused_attn")]


@pytest.mark.long
@pytest.mark.parametrize("family", SMALL)
def test_attention_of_five_dimensions_gives_torchs_logits(family, tmp_path):
    torch.manual_seed(0)
    model = SMALL[family](img_size=64, num_classes=5).eval()
    before = flags(model)
    preprocess = for_size(64)
    export_graph(model, preprocess, tmp_path / "model.onnx")
    assert flags(model) == before
    assert True in before, "the flag has another name: this test would show nothing"
    photos = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"image": photos})[0]
    mean, std = (torch.tensor(preprocess[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = model((torch.from_numpy(photos).permute(0, 3, 1, 2) / 255 - mean) / std)
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_network_that_torch_cant_export_is_refused_with_the_reason(tmp_path):
    with pytest.raises(
        ValueError, match=r"torch can't export Attention as ONNX \(only 4D query.*\); its trained weights are kept"
    ):
        export_graph(Attention(), for_size(32), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
