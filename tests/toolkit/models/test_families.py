"""One member of each of many families of timm through rapid's learner, from scratch and from a file of weights.

The file's weights are random, with batch norms' statistics of random photos. So this shows that a network's own
normalisation, size, layers and head are used, not that it learns well.
"""

import math

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from noise import write_noise
from timm.models import group_parameters
from torch import nn
from torch.nn import functional as F

from export.convert.graph import export_graph
from recipes import rapid
from toolkit.finetuning.linear_probe import linear_heads, linear_probe
from toolkit.learner.performance import layout_for
from toolkit.models.deployable import Deployable
from toolkit.models.timm_model import create_model

FEW = {  # by the pixels that keep it cheap
    "test_resnet": 32,
    "test_efficientnet": 32,
    "test_convnext": 32,
    "test_vit": 32,
    "deit_tiny_distilled_patch16_224": 32,
    "levit_128s": 64,
}
MANY = {
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_035": 64,
    "hgnetv2_b0": 64,
    "regnetx_002": 64,
    "densenet121": 64,
    "repvgg_a0": 64,
    "mobileone_s0": 64,
    "fastvit_t8": 64,
    "edgenext_xx_small": 64,
    "ghostnet_050": 64,
    "xcit_nano_12_p16_224": 64,
    "coatnet_nano_rw_224": 64,
    "eva02_tiny_patch14_224": 28,
    "cait_xxs24_224": 32,
    "poolformer_s12": 64,
    "mixer_s32_224": 64,
    "swin_s3_tiny_224": 64,
    "test_nfnet": 64,
    "vgg11": 32,
    "inception_v3": 96,
}
FAMILIES = [*FEW, *[pytest.param(arch, marks=pytest.mark.slow) for arch in MANY]]
SIZES = FEW | MANY


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), valid=2)


def weights_for(arch, folder):
    "A file of random weights whose batch norms have seen random photos: else deep ones give numbers without bounds."
    torch.manual_seed(0)
    model = create_model(arch, 7, "none", image_size=SIZES[arch]).train()
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(8, 3, SIZES[arch], SIZES[arch]))
    torch.save(model.state_dict(), folder / f"{arch}.pth")
    return folder / f"{arch}.pth"


def learner(photos, arch, weights):
    given = {"image_size": SIZES[arch], "device": "cpu", "workers": 0, "precision": "fp32", "bs": 8, "epochs": 2}
    gentle = {
        "frozen": 0.0 if weights == "none" else 0.333,
        "layer_decay": 0.8,
        "batch_norm": "fixed",
        "lr": 6e-4,
        "crop_area": 0.25,
        "mirror": "yes",
    }
    learn = rapid.learner(photos, arch=arch, weights=str(weights), **given, **gentle)
    learn.remove_cbs([learn.progress])
    return learn


def fit(learn):
    with learn.no_logging():
        learn.fit(1)


def statistics(model):
    return {name: tensor.clone() for name, tensor in model.named_buffers() if "running_" in name}


def check_layers(learn):
    "Each group has weights; the head learns at the full rate, and no layer faster than one behind it."
    learn.create_opt()
    assert all(group["params"] for group in learn.opt.opt.param_groups)
    scales = {id(weight): group["lr_scale"] for group in learn.opt.opt.param_groups for weight in group["params"]}
    names = [name for name, _ in learn.model.named_parameters()]
    body = [name for name in names if not name.startswith(learn.model.pretrained_cfg["classifier"])]
    layers = dict.fromkeys(names, len(body)) | {name: place // 12 for place, name in enumerate(body)}
    if hasattr(learn.model, "group_matcher"):  # else timm takes twelve weights in a row for a layer
        layers = group_parameters(learn.model, learn.model.group_matcher(coarse=False), reverse=True)
    found = sorted((layers[name], scales.get(id(each), 0.0)) for name, each in learn.model.named_parameters())
    assert len({layer for layer, _ in found}) > 2
    assert [scale for _, scale in found] == sorted(scale for _, scale in found)
    still = {layer for layer, scale in found if not scale}
    assert len(still) == math.ceil(0.333 * len({layer for layer, _ in found}))
    for name, each in learn.model.named_parameters():
        assert each.requires_grad == (layers[name] not in still), name
    assert all(scales[id(each)] == 1 for each in linear_heads(learn.model).parameters())


@pytest.mark.parametrize("arch", FAMILIES)
def test_a_family_is_probed_and_fine_tuned_by_its_own_statistics_size_layers_and_head(arch, photos, tmp_path):
    learn, config = learner(photos, arch, weights_for(arch, tmp_path)), timm.get_pretrained_cfg(arch)
    assert [learn.dls.preprocess[name] for name in ("mean", "std")] == [[*config.mean], [*config.std]]
    assert learn.dls.one_batch()[0].shape[2:] == (SIZES[arch], SIZES[arch])
    check_layers(learn)
    fit(learn)
    images, labels = zip(*learn.dls.test_dl([*learn.dls.data.train], with_labels=True), strict=True)
    with torch.no_grad():
        logits = torch.cat([learn.model.eval()(batch) for batch in images]).as_subclass(torch.Tensor)
    loss = F.cross_entropy(logits, torch.cat(labels).as_subclass(torch.Tensor))
    assert loss.item() == pytest.approx(learn.probe.found["loss"], rel=0.01, abs=1e-3)
    before, heads = statistics(learn.model), [each.clone() for each in linear_heads(learn.model).parameters()]
    fit(learn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in statistics(learn.model).items())
    pairs = zip(linear_heads(learn.model).parameters(), heads, strict=True)
    assert not any(torch.equal(new, old) for new, old in pairs)
    assert all(torch.isfinite(each).all() for each in learn.model.parameters())


@pytest.mark.parametrize("arch", FAMILIES)
def test_a_family_is_trained_from_scratch_with_all_its_layers(arch, photos):
    learn = learner(photos, arch, "none")
    before = {name: each.detach().clone() for name, each in learn.model.named_parameters()}
    fit(learn)
    same = [name for name, each in learn.model.named_parameters() if torch.equal(each, before[name])]
    assert len(same) <= len(before) / 4, same  # a bias before a batch norm has no gradient
    assert all(each.requires_grad and torch.isfinite(each).all() for each in learn.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("arch", SIZES)
def test_a_familys_exported_graph_gives_its_logits(arch, photos, tmp_path):
    model, size = create_model(arch, 3, str(weights_for(arch, tmp_path)), image_size=SIZES[arch]).eval(), SIZES[arch]
    preprocess = {"crop": size, "mean": [0.5] * 3, "std": [0.25] * 3}
    export_graph(model, preprocess, tmp_path / "model.onnx")
    image = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    logits, _ = session.run(None, {"image": image})
    with torch.no_grad():
        expected, _ = Deployable(model, preprocess["mean"], preprocess["std"])(torch.from_numpy(image))
    assert logits == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-3 * float(expected.abs().max()))


def test_a_head_whose_logits_are_no_mean_of_linear_layers_is_refused(photos, monkeypatch):
    "As volo's, which adds half the maximum of another head's outputs."
    learn = learner(photos, "deit_tiny_distilled_patch16_224", "none")
    own = type(learn.model).forward_head
    monkeypatch.setattr(type(learn.model), "forward_head", lambda model, x, **given: 2 * own(model, x, **given) + 1)
    with pytest.raises(ValueError, match="logits of VisionTransformerDistilled are not the mean of its 2 lin"):
        linear_probe(learn)


@pytest.mark.parametrize(("arch", "exact", "device", "contiguous"), [
    ("test_resnet", False, "cpu", False),
    ("test_resnet", True, "cpu", True),
    ("repvgg_a0", False, "cpu", True),
    ("mobileone_s0", False, "cpu", True),
    ("fastvit_t8", False, "cpu", True),
    ("repvgg_a0", False, "cuda", False),
    ("resnet18", False, "cpu", False),  # strided convolutions of one pixel, of 64 channels
])  # fmt: skip
def test_channels_last_is_left_out_where_torch_would_crash(arch, exact, device, contiguous):
    "For those of three channels see `layout_for`: the process would end without a message."
    with torch.device("meta"):
        model = timm.create_model(arch)
    expected = torch.contiguous_format if contiguous else torch.channels_last
    assert layout_for(model, torch.device(device), exact) == expected


def test_a_stem_with_a_strided_convolution_of_one_pixel_is_trained_on_a_cpu():
    "With channels last this ends the process: torch 2.14.1."
    stem = nn.Sequential(nn.Conv2d(3, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    layout = layout_for(stem, torch.device("cpu"), exact=False)
    photo = torch.randn(8, 3, 64, 64).contiguous(memory_format=layout)
    stem.to(memory_format=layout)(photo).square().mean().backward()
    assert torch.isfinite(stem[0].weight.grad).all()
