"""Layer-wise rates against powers written out, fixed statistics, and squares that grow."""

import pytest
import timm
import torch
from fastai.callback.core import Callback
from torch import nn

from recipes import digits
from toolkit.finetuning.frozen_batch_norm import FrozenBatchNorm
from toolkit.finetuning.layer_decay import decay_over, layer_groups
from toolkit.finetuning.progressive_resizing import ProgressiveResizing
from toolkit.learner.learner import make_learner
from toolkit.learner.schedule import OneCycle
from toolkit.models.timm_model import create_model
from toolkit.options import Options


@pytest.fixture(scope="module")
def dls(few_digits):
    return digits.learner(few_digits, device="cpu", bs=64).dls


def learner(dls, arch, groups, *cbs):
    options = Options(lr=0.1, precision="fp32", device="cpu")
    model = create_model(arch, 10, "none", image_size=32)
    learn = make_learner(options, dls, model, nn.CrossEntropyLoss(), cbs=cbs, splitter=groups)
    learn.remove_cb(learn.progress)
    return learn


def test_each_block_of_a_transformer_learns_slower_than_the_next():
    model = create_model("test_vit", 10, "none", image_size=160)
    groups = layer_groups(0.8)(model)
    scale = {id(weight): group["lr_scale"] for group in groups for weight in group["params"]}
    last = len(model.blocks)
    assert scale[id(model.head.weight)] == 1
    for index, block in enumerate(model.blocks):
        assert scale.get(id(block.attn.qkv.weight)) == pytest.approx(0.8 ** (last - index))
    assert scale[id(model.patch_embed.proj.weight)] == pytest.approx(0.8 ** (last + 1))


def test_one_is_the_same_rate_for_all_and_norms_and_biases_do_not_decay():
    model = create_model("test_resnet", 10, "none", image_size=32)
    groups = layer_groups(1.0, weight_decay=0.3)(model)
    decayed = {id(weight) for group in groups if group["weight_decay"] for weight in group["params"]}
    assert {group["lr_scale"] for group in groups} == {1}
    assert {group["weight_decay"] for group in groups} == {0, 0.3}
    assert decayed == {id(weight) for weight in model.parameters() if weight.ndim > 1}


def test_the_first_layers_are_frozen_and_the_others_follow_the_schedule(dls):
    class Rates(Callback):
        order = 80

        def after_step(self):
            self.seen = [(group["lr_scale"], group["lr"]) for group in self.opt.opt.param_groups]

    learn = learner(dls, "test_vit", layer_groups(0.2, frozen=0.7), OneCycle(), Rates())
    before = {name: weight.clone() for name, weight in learn.model.named_parameters()}
    with learn.no_logging():
        learn.fit(1)
    changed = {name for name, weight in learn.model.named_parameters() if not torch.equal(weight, before[name])}
    trained = {name for name, weight in learn.model.named_parameters() if weight.requires_grad}
    assert min(scale for scale, _ in learn.rates.seen) == pytest.approx(0.2)
    assert changed == trained
    assert {name.partition(".")[0] for name in trained} == {"blocks", "norm", "fc_norm", "head"} & {
        name.partition(".")[0] for name in before
    }
    head = max(rate for _, rate in learn.rates.seen)
    assert all(rate == pytest.approx(head * scale) for scale, rate in learn.rates.seen)


@pytest.mark.parametrize(
    ("share", "frozen"),
    [
        (0, set()),
        (0.1, {"conv1", "bn1"}),
        (0.2, {"conv1", "bn1", "layer1"}),
        (0.5, {"conv1", "bn1", "layer1", "layer2"}),
    ],
)
def test_the_share_of_frozen_layers_is_rounded_up(share, frozen):
    "test_resnet has six layers: its stem, four stages and its head."
    model = create_model("test_resnet", 10, "none", image_size=32)
    layer_groups(1.0, frozen=share)(model)
    found = {name.partition(".")[0] for name, weight in model.named_parameters() if not weight.requires_grad}
    assert found == frozen


def test_the_head_is_trained_whatever_is_frozen_and_layers_can_be_trained_again():
    model = create_model("test_resnet", 10, "none", image_size=32)
    model.layer1.requires_grad_(False)  # not by a splitter: it stays so
    kept = {name for name, _ in model.layer1.named_parameters(prefix="layer1")}
    for share, trained in (
        (0.999, {"fc.weight", "fc.bias"}),
        (0.0, {name for name, _ in model.named_parameters()} - kept),
    ):
        layer_groups(1.0, frozen=share)(model)
        assert {name for name, weight in model.named_parameters() if weight.requires_grad} == trained


@pytest.mark.parametrize(("arch", "frozen"), [("test_resnet", 1 / 3), ("test_vit", 0.0), ("mobilenetv2_100", 1 / 3)])
def test_the_decay_over_all_layers_gives_the_first_trained_one_its_rate(arch, frozen):
    model = timm.create_model(arch)
    groups = layer_groups(decay_over(model, 0.1, frozen), frozen=frozen)(model)
    scales = [group["lr_scale"] for group in groups]
    assert (min(scales), max(scales)) == (pytest.approx(0.1), 1)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_another_share_is_refused(share):
    with pytest.raises(ValueError, match="--frozen .*from 0 .* to below 1"):
        layer_groups(1.0, frozen=share)


@pytest.mark.parametrize("decay", [0, 1.1, -0.5])
def test_another_decay_is_refused(decay):
    with pytest.raises(ValueError, match="--layer_decay .*more than 0, at most 1"):
        layer_groups(decay)


def test_fixed_statistics_stay_and_the_norms_weights_learn(dls):
    def trained(*cbs, frozen=0.0):
        learn = learner(dls, "test_resnet", layer_groups(1.0, frozen=frozen), *cbs)
        before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
        with learn.no_logging():
            learn.fit(1)
        return {name for name, tensor in learn.model.state_dict().items() if not torch.equal(tensor, before[name])}

    free, fixed = trained(), trained(FrozenBatchNorm())
    assert {name for name in free if "running" in name}
    assert not {name for name in fixed if "running" in name or "num_batches" in name}
    assert {name for name in fixed if name.endswith("bn1.weight")}
    of_frozen = trained(FrozenBatchNorm(everywhere=False), frozen=0.2)
    assert of_frozen == {name for name in free if not name.startswith(("conv1", "bn1", "layer1"))}


def test_squares_grow_from_the_first_epoch_to_the_last_and_validation_stays(dls):
    class Sides(Callback):
        order = 80

        def before_fit(self):
            self.seen = {"train": [], "valid": []}

        def before_batch(self):
            self.seen["train" if self.training else "valid"].append(self.xb[0].shape[-1])

    learn = learner(dls, "test_resnet", layer_groups(1.0), ProgressiveResizing([16, 24, 32]), Sides())
    with learn.no_logging():
        learn.fit(4)
    assert learn.sides.seen["train"][::5] == [16, 16, 24, 32]
    assert set(learn.sides.seen["valid"]) == {32}
