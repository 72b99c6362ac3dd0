"""Heatmaps find what a network looks at: a planted square, by a convolutional network and by a transformer."""

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from toolkit.features.heatmaps.gradients import constant_scales
from toolkit.features.heatmaps.layer_cam import as_bytes, evidence, layer_cam
from toolkit.features.heatmaps.layers import heatmap_layer

NETWORKS = {  # pixels of an image, images in a batch, further arguments
    "test_resnet": (64, 16, {}),
    "test_vit": (32, 32, {"img_size": 32, "patch_size": 4, "depth": 2}),  # a class token, and layer norms
}


def planted(count, size, seed):
    "Noise with a square in red, green or blue, which is the class: images, classes, corners [count, 2] of the squares."
    draws, square = torch.Generator().manual_seed(seed), size // 4
    images = torch.rand(count, 3, size, size, generator=draws)
    classes = torch.randint(0, 3, [count], generator=draws)
    corners = torch.randint(0, size - square + 1, [count, 2], generator=draws)
    for image, colour, (row, column) in zip(images, classes, corners.tolist(), strict=True):
        inside = image[:, row : row + square, column : column + square]
        inside[:] = 0
        inside[colour] = 1
    return (images - 0.5) / 0.25, classes, corners.tolist()


def around(size, corner):
    "True in the square and a cell of the heatmap, an eighth of the image, around it: bool [size, size]."
    first, last = ([max(0, at + step) for at in corner] for step in (-size // 8, size // 4 + size // 8))
    mask = np.zeros((size, size), bool)
    mask[first[0] : last[0], first[1] : last[1]] = True
    return mask


def found(model, images, classes, masks):
    "The share of the heatmaps' mass inside the masks, and the share of heatmaps with their brightest point inside."
    size = images.shape[-1]
    heatmaps = layer_cam(model, images, heatmap_layer(model, size), classes)[1]
    large = F.interpolate(heatmaps[:, None], size, mode="bilinear")[:, 0].numpy()
    peaks = [mask.flat[each.argmax()] for each, mask in zip(large, masks, strict=True)]
    return np.mean((large * masks).sum((1, 2)) / large.sum((1, 2))), np.mean(peaks)


@pytest.fixture(scope="module", params=NETWORKS)
def untrained_and_trained(request):
    size, batch, given = NETWORKS[request.param]
    torch.manual_seed(0)
    untrained, trained = (timm.create_model(request.param, num_classes=3, **given) for _ in range(2))
    optimizer = torch.optim.AdamW(trained.parameters(), 3e-3)
    for step in range(70):
        images, classes, _ = planted(batch, size, seed=step)
        optimizer.zero_grad()
        F.cross_entropy(trained(images), classes).backward()
        optimizer.step()
    return size, untrained.eval(), trained.eval()


def test_heatmaps_of_a_trained_network_find_the_square_and_of_an_untrained_one_do_not(untrained_and_trained):
    size, untrained, trained = untrained_and_trained
    images, classes, corners = planted(64, size, seed=1000)
    masks = np.stack([around(size, corner) for corner in corners])
    chance = masks.mean()  # 0.22
    with torch.no_grad():
        assert (trained(images).argmax(1) == classes).float().mean() > 0.9
    share, peaks = found(trained, images, classes, masks)
    assert share > 2.5 * chance
    assert peaks > 0.9
    assert found(untrained, images, classes, masks)[0] < 1.3 * chance


def test_a_heatmap_of_a_linear_head_on_relu_features_is_layer_cam_by_hand():
    model = timm.create_model("test_resnet", num_classes=5).eval()
    images, wanted = torch.randn(3, 3, 64, 64), torch.tensor([4, 0, 2])
    with torch.no_grad():
        features, expected_logits = model.forward_features(images).numpy(), model(images)
    weights = model.fc.weight.detach().numpy()[wanted] / features[0, 0].size  # the pool is a mean
    expected = np.einsum("nk,nkrc->nrc", np.maximum(weights, 0), features)
    logits, heatmaps = layer_cam(model, images, "layer4", wanted)
    assert torch.equal(logits, expected_logits)
    assert heatmaps.numpy() == pytest.approx(expected / expected.max((1, 2), keepdims=True), abs=1e-5)


def test_outputs_of_both_signs_speak_for_the_class_in_comparison_with_the_mean_cell():
    output = torch.tensor([[[[-1.0, -5.0], [0.0, 2.0]]]])
    assert evidence(output, torch.full_like(output, -2)).tolist() == [[[0, 8], [0, 0]]]  # the mean cell is -1
    assert evidence(output, torch.full_like(output, 2)).tolist() == [[[0, 0], [2, 6]]]


@pytest.mark.parametrize("kind", ["LayerNorm", "LayerNorm2d"])
def test_a_constant_scale_keeps_a_layer_norms_output_and_changes_its_gradient_alone(kind):
    from timm import layers

    norm = getattr(layers, kind)(6)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 6, 3, 3) if kind == "LayerNorm2d" else torch.randn(2, 3, 3, 6)
    axis = 1 if kind == "LayerNorm2d" else -1
    x.requires_grad_()
    expected = norm(x)
    with constant_scales(torch.nn.Sequential(norm)):
        output = norm(x)
    assert torch.equal(output, expected)
    (gradient,) = torch.autograd.grad((output * expected.detach()).sum(), x)
    scale = (x.var(axis, unbiased=False, keepdim=True) + norm.eps).rsqrt().detach()
    weight = norm.weight.view(-1, 1, 1) if axis == 1 else norm.weight
    by_hand = ((x - x.mean(axis, keepdim=True)) * scale * weight * expected.detach()).sum()
    assert torch.allclose(gradient, torch.autograd.grad(by_hand, x)[0], atol=1e-5)
    assert torch.equal(norm(x), expected)


def test_the_predicted_class_is_explained_unless_another_is_named():
    model, images = timm.create_model("test_resnet", num_classes=5).eval(), torch.randn(4, 3, 64, 64)
    logits, heatmaps = layer_cam(model, images, "layer3")
    assert torch.equal(heatmaps, layer_cam(model, images, "layer3", logits.argmax(1))[1])
    assert not torch.equal(heatmaps, layer_cam(model, images, "layer3", (logits.argmax(1) + 1) % 5)[1])


def test_a_heatmap_leaves_the_network_as_it_was():
    model = timm.create_model("test_vit", num_classes=3, img_size=64).train()
    model.blocks[0].requires_grad_(False)
    before = {name: (weight.requires_grad, weight.clone()) for name, weight in model.named_parameters()}
    layer_cam(model, torch.randn(2, 3, 64, 64), heatmap_layer(model, 64))
    assert model.training
    for name, weight in model.named_parameters():
        assert weight.requires_grad == before[name][0]
        assert weight.grad is None
        assert torch.equal(weight, before[name][1])
    assert not any(module._forward_hooks for module in model.modules())


def test_an_image_in_which_nothing_speaks_for_the_class_has_a_heatmap_of_zeros():
    model = timm.create_model("test_resnet", num_classes=2).eval()
    torch.nn.init.constant_(model.fc.weight, -1)
    heatmaps = layer_cam(model, torch.randn(1, 3, 64, 64), "layer4")[1]
    assert as_bytes(heatmaps).tolist() == [[[0, 0], [0, 0]]]
