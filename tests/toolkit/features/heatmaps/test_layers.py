"""The layer that gives a network's heatmaps, in many families of timm."""

import pytest
import timm
import torch
from torch import nn

from toolkit.features.heatmaps.layers import as_grid, heatmap_layer

SWIN = {"embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4, "patch_size": 4, "img_size": 64}


@pytest.mark.parametrize(("arch", "size", "layer", "given"), [
    ("test_resnet", 64, "layer2", {}),  # of 16, 8, 4 and 2 cells in a row
    ("test_resnet", 224, "layer4", {}),  # 7
    ("mobilenetv2_100", 128, "blocks.4", {}),
    ("test_convnext", 64, "stages.1", {}),
    ("test_nfnet", 64, "stages.1", {}),
    ("test_mambaout", 64, "stages.1", {}),  # channels last
    ("swin_tiny_patch4_window7_224", 64, "layers.1", SWIN),  # channels last
    ("test_coatnet", 64, "stages.1", {"img_size": 64}),
    ("levit_128s", 128, "stages.0", {"img_size": 128}),  # tokens, and convolutions before them
    ("mixer_s32_224", 96, "blocks.7", {"img_size": 96}),
    ("test_vit", 112, "blocks.4", {"img_size": 112}),  # the last block but one: the class token alone goes on
    ("vit_tiny_patch16_224", 32, "blocks.2", {"img_size": 32, "depth": 3, "class_token": False, "global_pool": "avg"}),
    ("deit_tiny_distilled_patch16_224", 32, "blocks.1", {"img_size": 32, "depth": 3}),  # two tokens before the patches
])  # fmt: skip
def test_the_last_layer_with_a_fine_map_is_found(arch, size, layer, given):
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=3, **given)
    for name, weight in model.named_parameters():
        if "head" in name:  # timm sets some to zero, by which the logits depend on nothing
            nn.init.normal_(weight)
    assert heatmap_layer(model, size) == layer


def test_a_network_without_a_map_is_refused():
    model = timm.create_model("pit_ti_224", num_classes=3)  # its stages give tuples
    with pytest.raises(
        ValueError, match="no layer of PoolingVisionTransformer has a map of a photo of 224 pixels that"
    ):
        heatmap_layer(model, 224)


class Patches(nn.Module):
    "A network of 8 x 8 patches in the given order."

    feature_info = [{"module": "mixed"}]

    def __init__(self, order):
        super().__init__()
        self.patches, self.mixed, self.head = nn.Conv2d(3, 5, 8, 8), nn.Identity(), nn.Linear(5, 2)
        self.order = order

    def forward(self, x):
        return self.head(self.mixed(self.patches(x).flatten(2).transpose(1, 2)[:, self.order]).square().mean(1))


def test_a_layer_with_its_cells_in_another_order_is_refused():
    assert heatmap_layer(Patches(torch.arange(64)), 64) == "mixed"
    for order in (torch.arange(64).flip(0), torch.arange(64).view(8, 8).T.flatten()):
        with pytest.raises(ValueError, match="no layer of Patches has a map"):
            heatmap_layer(Patches(order), 64)


def test_grids_are_read_in_each_layout():
    grid = torch.randn(2, 5, 3, 3)
    tokens = grid.flatten(2).transpose(1, 2)
    for output in (grid, grid.permute(0, 2, 3, 1), tokens, torch.cat([torch.zeros(2, 1, 5), tokens], 1)):
        assert torch.equal(as_grid(output, prefix=1), grid)
    for other in (
        torch.zeros(2, 5),
        torch.zeros(2, 7, 5),
        torch.zeros(2, 5, 3, 4),
        torch.zeros(2, 5, 1, 1),
        (grid,),
        None,
    ):
        assert as_grid(other) is None
