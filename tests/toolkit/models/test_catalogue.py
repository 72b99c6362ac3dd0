"""The table of networks against timm, and what `--arch auto` finds of it on a machine."""

import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from toolkit.models.at_hand import choice_of_networks
from toolkit.models.catalogue import NETWORKS, by_accuracy, forbids_commerce

BY_NAME = {each.name: each for each in NETWORKS}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_row_is_what_timm_says_of_its_weights(name):
    row, config = BY_NAME[name], timm.get_pretrained_cfg(name)
    with torch.device("meta"):
        body = timm.create_model(name, num_classes=0)
    assert row.millions == pytest.approx(sum(each.numel() for each in body.parameters()) / 1e6, abs=0.06)
    assert (row.licence, row.pixels, row.repository) == (config.license, config.input_size[-1], config.hf_hub_id)
    assert (row.accuracy is None) == (row.measure is None)


def test_the_table_is_sorted_by_speed_and_has_no_name_twice():
    speeds = [each.gpu or 0 for each in NETWORKS]
    assert speeds == sorted(speeds, reverse=True)
    assert len(BY_NAME) == len(NETWORKS) > 15


def test_licences_that_forbid_commercial_use_are_told_by_their_names():
    known = {timm.get_pretrained_cfg(name).license for name in timm.list_models(pretrained=True)}
    forbidden = {licence for licence in known if forbids_commerce(licence)}
    assert {"cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr"} <= forbidden
    assert not forbidden & {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "unknown", None, "dinov3-license"}


def put(cache, name):
    "Fill a hub cache with a file of weights."
    snapshot = cache / f"models--timm--{name}" / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123456789abcdef")
    save_file({"any": torch.zeros(1)}, snapshot / "model.safetensors")


def test_the_networks_in_the_hub_cache_are_at_hand_and_none_is_fetched_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("mobilenetv2_100.ra_in1k", "convnextv2_tiny.fcmae_ft_in22k_in1k"):
        put(tmp_path, name)
    found = choice_of_networks("imagenet", False, 0)
    assert [each.name for each in found.candidates] == ["mobilenetv2_100.ra_in1k"]
    assert found.left_out == {
        "convnextv2_tiny.fcmae_ft_in22k_in1k": "its licence cc-by-nc-4.0 forbids commercial use; --any_license "
        "compares it too"
    }
    assert len(found.missing) == len(NETWORKS) - 2
    more = choice_of_networks("imagenet", True, 2)
    assert {each.name: each.cached for each in more.candidates} == {
        "mobilenetv2_100.ra_in1k": True,
        "convnextv2_tiny.fcmae_ft_in22k_in1k": True,
        "vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k": False,
        "tiny_vit_21m_224.dist_in22k_ft_in1k": False,
    }
    top = sorted(NETWORKS, key=by_accuracy, reverse=True)[:2]
    assert {each.name for each in more.candidates if not each.cached} == {each.name for each in top}


def test_files_in_a_folder_are_networks_by_their_names(tmp_path):
    names = (
        "mobilenetv2_100.pth test_resnet.safetensors convnextv2_atto.pth nothing.pth hgnetv2_b0.ssld_stage2_ft_in1k.pt"
    )
    for name in [*names.split(), "readme.txt"]:
        (tmp_path / name).touch()
    found = choice_of_networks(str(tmp_path), False, 0)
    assert [(each.name, each.weights, each.network and each.network.name) for each in found.candidates] == [
        (
            "hgnetv2_b0.ssld_stage2_ft_in1k",
            str(tmp_path / "hgnetv2_b0.ssld_stage2_ft_in1k.pt"),
            each_name("hgnetv2_b0"),
        ),
        ("mobilenetv2_100", str(tmp_path / "mobilenetv2_100.pth"), each_name("mobilenetv2_100")),
        ("test_resnet", str(tmp_path / "test_resnet.safetensors"), None),
    ]
    assert found.left_out["nothing.pth"] == "timm has no network nothing"
    assert "cc-by-nc-4.0" in found.left_out["convnextv2_atto"]
    everything = choice_of_networks(str(tmp_path), True, 0)
    assert [each.name for each in everything.candidates][0] == "convnextv2_atto"


def each_name(start):
    return next(name for name in BY_NAME if name.startswith(start))


@pytest.mark.parametrize("weights", ["none", "/no/such/folder"])
def test_weights_that_are_no_pretrained_networks_are_refused(weights):
    with pytest.raises(ValueError, match=f"--arch auto --weights {weights}: it compares pretrained networks; give "):
        choice_of_networks(weights, False, 0)


def test_the_catalogue_needs_no_torch_to_be_imported():
    code = "import sys, toolkit.models.catalogue; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
