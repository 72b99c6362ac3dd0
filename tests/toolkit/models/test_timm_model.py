"""Any timm name, weights that fit or a reason why not, a dropout head."""

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from recipes import hw1
from toolkit.data.preprocess import for_size, prepare
from toolkit.models.deployable import Deployable
from toolkit.models.pretrained import head_tensors
from toolkit.models.timm_model import check_size, create_model, normalization_of

FAMILIES = [
    "test_resnet",
    "test_efficientnet",
    "mobilenetv3_small_050",
    "test_convnext",
    "test_vit",
    "swin_s3_tiny_224",
    "regnetx_002",
    "densenet121",
    "test_nfnet",
]


def saved(path, state):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_head_is_dropout_and_a_linear_of_the_classes(arch):
    "In training mode two passes from the same features differ (dropout), and in eval mode they do not."
    size = 224 if "swin" in arch else 64
    model = create_model(arch, 7, "none", dropout=0.5, image_size=size).eval()
    head = model.get_classifier()
    with torch.no_grad():
        features = model.forward_features(torch.randn(2, 3, size, size))
        assert torch.equal(model.forward_head(features), model.forward_head(features))
        dropped = model.train().forward_head(features), model.forward_head(features)
    assert isinstance(head, torch.nn.Linear)
    assert head.out_features == dropped[0].shape[1] == 7
    assert not torch.equal(*dropped)


def test_hw1s_head_is_torchs_dropout_of_half_then_linear():
    model = create_model("test_resnet", 5, "none", dropout=0.5).train()
    features = torch.randn(4, model.num_features, 3, 3)
    torch.manual_seed(0)
    out = model.forward_head(features)
    torch.manual_seed(0)
    expected = F.linear(F.dropout(features.mean((2, 3)), 0.5), model.fc.weight, model.fc.bias)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(("weights", "classes"), [("none", 20), ("file", 2)])
@pytest.mark.parametrize(
    "arch", [*FAMILIES, "mobilenetv2_050", "efficientnet_b0", "resnetv2_18", "deit_tiny_distilled_patch16_224"]
)
def test_the_new_head_is_drawn_as_torchs_linear_layer_for_every_network(arch, weights, classes, tmp_path):
    "Uniform within 1 / sqrt(features) of 0, so with a deviation of 1 / sqrt(3 * features): nn.Linear's documentation."
    torch.manual_seed(0)
    if weights == "file":
        source = timm.create_model(arch, num_classes=1000)
        weights = saved(tmp_path / "w.pth", source.state_dict())
    model = create_model(arch, classes, weights, image_size=224)
    heads = model.get_classifier()
    for head in heads if isinstance(heads, tuple) else [heads]:
        bound = head.weight[0].numel() ** -0.5
        for part in (head.weight, head.bias):
            assert 0 < part.abs().max() <= bound
        assert 0.9 * bound < head.weight.abs().max()
        assert head.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_with_a_new_head_real_weights_begin_at_the_loss_of_guessing(grocery, mobilenet_weights):
    "The logarithm of the number of classes. By timm's own head it is 9.3 here."
    given = {"arch": "mobilenetv2_100", "weights": str(mobilenet_weights), "image_size": 128, "bs": 32}
    learn = hw1.learner(grocery, **given, workers=0, device="cpu", precision="fp32")
    photos, labels = (part.as_subclass(torch.Tensor) for part in learn.dls.one_batch())
    with torch.no_grad():
        loss = learn.loss_func(learn.model.train()(photos), labels)
    assert float(loss) == pytest.approx(math.log(20), abs=0.5)


def test_a_wrong_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"no model 'resnet15'; nearest: resnet152"):
        create_model("resnet15", 2, "none")


def test_a_wrong_tag_gets_those_there_are():
    with pytest.raises(ValueError, match=r"resnet152 has no weights tagged 'foo': choose one of .*tv2_in1k"):
        create_model("resnet152.foo", 2, "none")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_is_loaded_whole_but_for_the_classifier(tmp_path, suffix):
    source = timm.create_model("test_resnet", num_classes=1000)
    model = create_model("test_resnet", 3, saved(tmp_path / f"w{suffix}", source.state_dict()))
    own, theirs = model.state_dict(), source.state_dict()
    body = [name for name in own if not name.startswith("fc.")]
    assert model.origin == {
        "source": str(tmp_path / f"w{suffix}"),
        "loaded": len(body),
        "left_out": ["fc.bias", "fc.weight"],
        "license": None,
        "made_for": {
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "crop_pct": 0.95,
            "interpolation": "bilinear",
            "input_size": 160,
        },
        "assumed": True,
    }
    assert all(torch.equal(own[name], theirs[name]) for name in body)


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_wrapped_state_dicts_are_unwrapped(tmp_path, wrap):
    source = timm.create_model("test_resnet", num_classes=10)
    model = create_model("test_resnet", 3, saved(tmp_path / "w.pth", wrap(source.state_dict())))
    assert torch.equal(model.conv1[0].weight, source.conv1[0].weight)


def test_torchvisions_resnet_file_fits_timms(tmp_path):
    "resnet152-f82ba261.pth is such a file: the state dict of torchvision's resnet152."
    import torchvision

    source = torchvision.models.resnet152(weights=None)
    model = create_model(
        "resnet152.tv2_in1k", 100, saved(tmp_path / "resnet152-f82ba261.pth", source.state_dict()), 0.5
    )
    assert model.origin["loaded"] == len(source.state_dict()) - 2
    assert model.drop_rate == 0.5
    source.fc, model.fc = torch.nn.Identity(), torch.nn.Identity()
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model.eval()(image), source.eval()(image), rtol=1e-4, atol=1e-4)


def test_real_weights_without_a_classifier_are_loaded_whole(mobilenet_weights):
    model = create_model("mobilenetv2_100", 20, str(mobilenet_weights))
    assert model.origin["loaded"] == len(torch.load(mobilenet_weights, weights_only=True)) == 312


def other_state(name):
    return timm.create_model(name, num_classes=3).state_dict()


MISFITS = {
    "another family": lambda: other_state("test_vit"),
    "part of the body": lambda: dict(list(other_state("test_resnet").items())[:20]),
    "one tensor of another shape": lambda: other_state("test_resnet") | {"conv1.0.weight": torch.zeros(3)},
    "more than the body": lambda: other_state("test_resnet") | {"layer9.weight": torch.zeros(3)},
    "nothing": lambda: {"x": torch.zeros(3)},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit_are_refused_naming_tensors(tmp_path, misfit):
    path = saved(tmp_path / "w.pth", MISFITS[misfit]())
    with pytest.raises(ValueError, match=r"w.pth does not fit ResNet: \d+ of the body's \d+ tensors match; \d+ "):
        create_model("test_resnet", 3, path)


def test_a_transformers_file_of_another_image_size_has_its_positions_resampled(tmp_path):
    "Bicubic and antialiased, but for the class token's; all else stays as it is."
    there = create_model("test_vit", 3, "none", image_size=64)
    here = create_model("test_vit", 3, saved(tmp_path / "w.pth", there.state_dict()), image_size=96)
    extra, side = there.num_prefix_tokens, 64 // 16
    positions = there.state_dict()["pos_embed"]
    grid = positions[:, extra:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (96 // 16, 96 // 16), mode="bicubic", antialias=True)
    expected = torch.cat([positions[:, :extra], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
    torch.testing.assert_close(here.state_dict()["pos_embed"], expected)
    for name, tensor in there.state_dict().items():
        if name != "pos_embed" and not name.startswith("head."):
            assert torch.equal(here.state_dict()[name], tensor), name
    wrong = saved(tmp_path / "x.pth", there.state_dict() | {"pos_embed": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"1 of another shape \(pos_embed\)"):
        create_model("test_vit", 3, wrong, image_size=96)


def test_a_deeper_member_of_the_family_is_refused(tmp_path):
    "All of resnet18's body stands in resnet34's file, with the same shapes."
    path = saved(tmp_path / "w.pth", other_state("resnet34"))
    with pytest.raises(ValueError, match="unknown"):
        create_model("resnet18", 3, path)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="--weights /no/such.pth: no such file"):
        create_model("test_resnet", 3, "/no/such.pth")


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Trap()))
    torch.save({"w": Trap()}, tmp_path / "z.pth")
    for name in ("w.pth", "z.pth"):
        with pytest.raises(ValueError, match="holds no weights that can be read safely"):
            create_model("test_resnet", 3, str(tmp_path / name))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02]q\x00."])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pth (holds no weights|is not a state dict)"):
        create_model("test_resnet", 3, str(tmp_path / "w.pth"))


HUB = "from toolkit.models.timm_model import create_model; print(create_model('test_resnet', 3, 'imagenet').origin)"


def in_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=False
    )


@pytest.mark.long
def test_imagenet_weights_are_found_in_a_filled_hub_cache_without_a_network(tmp_path):
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789abcdef")
    source = timm.create_model("test_resnet", num_classes=1000)
    save_file(source.state_dict(), snapshot / "model.safetensors")
    code = HUB + "; import torch; m = create_model('test_resnet', 3, 'imagenet'); print(m.conv1[0].weight.sum().item())"
    done = in_process(code, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    origin, total = done.stdout.splitlines()
    assert "timm/test_resnet.r160_in1k" in origin
    assert "'license': 'apache-2.0'" in origin
    assert f"'loaded': {len(source.state_dict()) - 2}" in origin
    assert float(total) == pytest.approx(source.conv1[0].weight.sum().item())


@pytest.mark.long
def test_no_network_and_no_cache_is_an_error_that_names_both_ways_out(tmp_path):
    done = in_process(HUB, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "ConnectionError" in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert "--weights FILE (.pth, .safetensors) or none" in message
    assert "bring timm/test_resnet.r160_in1k into this machine's hub cache" in message


def test_deployable_is_normalisation_then_model_then_softmax():
    model = create_model("test_resnet", 3, "none").eval()
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    image = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        logits, probabilities = Deployable(model, mean, std)(image)
        pixels = (image.numpy().transpose(0, 3, 1, 2) / 255 - [[[[m]] for m in mean]]) / [[[[s]] for s in std]]
        expected = model(torch.from_numpy(pixels).float())
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probabilities, expected.softmax(1), rtol=1e-4, atol=1e-5)


# What the weights were trained on

MEMBERS = {
    "resnet18": 224,
    "mobilenetv2_050": 224,
    "efficientnet_b0": 224,
    "convnext_atto": 224,
    "vit_tiny_patch16_224": 224,
    "mixer_s32_224": 224,
    "swin_s3_tiny_224": 224,
    "mobilevit_xxs": 224,
    "inception_v3": 299,
    "xception41": 224,
    "densenet121": 224,
    "regnety_002": 224,
}


@pytest.mark.parametrize("arch", MEMBERS)
def test_through_our_preparation_a_photo_gets_the_logits_that_timms_own_gives_it(arch, tmp_path):
    """timm's transform of the weights' configuration, but for what is ours on purpose: squares of the size that is
    asked for, crop_pct 224/256 and bilinear.
    """
    size, draws = MEMBERS[arch], np.random.default_rng(0)
    path = saved(tmp_path / "w.pth", create_model(arch, 5, "none", image_size=size).state_dict())
    model = create_model(arch, 5, path, image_size=size).eval()
    preprocess = for_size(size, **normalization_of(model))
    config = timm.data.resolve_model_data_config(model)
    ours = {
        "input_size": (3, size, size),
        "crop_pct": size / (preprocess["resize"] + 0.01),
        "interpolation": "bilinear",
    }
    photo = Image.fromarray(draws.integers(0, 256, (9, 12, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    theirs = timm.data.create_transform(**(config | ours))(photo)[None]
    mine = torch.from_numpy(prepare(np.asarray(photo), preprocess))[None]
    deployed = Deployable(model, preprocess["mean"], preprocess["std"])
    mean, std = (torch.tensor(preprocess[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    off = (mine.permute(0, 3, 1, 2) / 255 - mean) / std - theirs
    assert 255 * (off.abs() * torch.tensor(config["std"]).view(1, 3, 1, 1)).mean() < 1.1  # grey levels, README's bound
    with torch.no_grad():
        expected, logits = model(theirs), deployed(mine)[0]
        other = Deployable(model, [0.2] * 3, [0.1] * 3)(mine)[0]  # statistics that no weights have
    spread = (other - expected).abs().max()
    assert (logits - expected).abs().max() < 0.25 * spread


def test_a_file_of_another_patch_size_is_another_architecture(tmp_path):
    there = timm.create_model("vit_tiny_patch16_224", patch_size=32, num_classes=5)
    path = saved(tmp_path / "w.pth", there.state_dict())
    with pytest.raises(ValueError, match="of another shape"):
        create_model("vit_tiny_patch16_224", 5, path)


def test_a_file_of_a_run_is_normalised_as_the_run_was_and_keeps_its_licence(digits_run, tmp_path):
    assert digits_run.recipe["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    run = tmp_path / "run"
    shutil.copytree(digits_run.folder, run)
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["preprocess"]["mean"], recipe["weights"]["license"] = [0.1, 0.2, 0.3], "cc-by-nc-4.0"
    (run / "recipe.json").write_text(json.dumps(recipe))
    model = create_model("test_resnet", 3, str(run / "best.safetensors"), image_size=32)
    assert normalization_of(model) == {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    assert model.origin["license"] == "cc-by-nc-4.0"
    assert (model.origin["made_for"]["input_size"], "assumed" in model.origin) == (32, False)


def test_random_weights_are_normalised_as_imagenets():
    model = create_model("test_vit", 3, "none", image_size=64)
    assert normalization_of(model) == {}
    assert for_size(64, **normalization_of(model))["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("named", [None, "classifier"])
def test_a_network_without_a_classifier_is_refused(named, monkeypatch):
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3))
    encoder.pretrained_cfg = {"classifier": named}  # as of timm's qwen3_vit_88m_enc and mobilenetv5_300m_enc
    monkeypatch.setattr(timm, "create_model", lambda *given, **options: encoder)
    with pytest.raises(ValueError, match="timm's test_vit has no classifier to train: give another --arch"):
        create_model("test_vit", 2, "none")


def test_an_encoder_of_timm_names_no_classifier():
    with torch.device("meta"):
        encoder = timm.create_model("qwen3_vit_88m_enc", num_classes=2)
    assert head_tensors(encoder) == []


def test_a_size_is_refused_without_a_reason_that_says_nothing():
    class Net(nn.Module):
        pretrained_cfg = {"input_size": (3, 256, 256)}

        def forward(self, x):
            if x.shape[-1] != 256:
                raise AssertionError

    with pytest.raises(
        ValueError, match="--image_size 64: Net takes no photos of that size; 256 is what it was made for"
    ):
        check_size(Net(), 64, "image_size")
