"""Layer-wise rates against powers written out, fixed statistics, and squares that grow."""

import pytest
import torch
from fastai.callback.core import Callback
from torch import nn

from recipes import digits
from toolkit.finetuning.frozen_batch_norm import FrozenBatchNorm
from toolkit.finetuning.layer_decay import STILL, layer_groups
from toolkit.finetuning.progressive_resizing import ProgressiveResizing
from toolkit.learner.learner import make_learner
from toolkit.learner.schedule import OneCycle
from toolkit.models.timm_model import create_model
from toolkit.options import Options


@pytest.fixture(scope="module")
def dls(tmp_path_factory):
    return digits.learner(tmp_path_factory.mktemp("digits") / "data", device="cpu", bs=256).dls


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


def test_layers_below_the_smallest_share_are_frozen_and_the_others_follow_the_schedule(dls):
    class Rates(Callback):
        order = 80

        def after_step(self):
            self.seen = [(group["lr_scale"], group["lr"]) for group in self.opt.opt.param_groups]

    learn = learner(dls, "test_vit", layer_groups(0.2), OneCycle(), Rates())
    before = {name: weight.clone() for name, weight in learn.model.named_parameters()}
    with learn.no_logging():
        learn.fit(1)
    changed = {name for name, weight in learn.model.named_parameters() if not torch.equal(weight, before[name])}
    trained = {name for name, weight in learn.model.named_parameters() if weight.requires_grad}
    assert min(scale for scale, _ in learn.rates.seen) == pytest.approx(0.2)
    assert STILL > 0.2**2
    assert changed == trained
    assert "patch_embed.proj.weight" not in trained
    assert "head.weight" in trained
    head = max(rate for _, rate in learn.rates.seen)
    assert all(rate == pytest.approx(head * scale) for scale, rate in learn.rates.seen)


@pytest.mark.parametrize("decay", [0, 1.1, -0.5])
def test_another_decay_is_refused(decay):
    with pytest.raises(ValueError, match="--layer_decay .*more than 0, at most 1"):
        layer_groups(decay)


def test_fixed_statistics_stay_and_the_norms_weights_learn(dls):
    def trained(*cbs):
        learn = learner(dls, "test_resnet", layer_groups(1.0), *cbs)
        before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
        with learn.no_logging():
            learn.fit(1)
        return {name for name, tensor in learn.model.state_dict().items() if not torch.equal(tensor, before[name])}

    free, fixed = trained(), trained(FrozenBatchNorm())
    assert {name for name in free if "running" in name}
    assert not {name for name in fixed if "running" in name or "num_batches" in name}
    assert {name for name in fixed if name.endswith("bn1.weight")}


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
