"""MixUp and CutMix: one of them for each mini-batch, and what must not see the loss that they put in place."""

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from noise import write_noise
from torch.nn import functional as F

from recipes import rapid
from toolkit.finetuning.mixup_cutmix import Mix, mixup_cutmix, own_loss


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), valid=4)


def learner(photos, **options):
    small = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 8, "workers": 0, "device": "cpu"}
    return rapid.learner(photos, precision="fp32", epochs=2, **small | options)


class Look(Callback):
    "Keeps the photos of each training mini-batch as they are at this order."

    run_valid = False

    def __init__(self, order):
        self.order, self.seen = order, []

    def before_batch(self):
        self.seen.append(self.xb[0].clone())


def fitted(learn, *cbs, epochs=1):
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, cbs=cbs)
    return learn


def test_of_both_each_mini_batch_gets_one_and_each_gets_some(photos):
    "CutMix has one share for all photos and changes no pixel but where it pastes; MixUp has a share for each photo."

    class Kinds(Callback):
        order, run_valid = Mix.order + 1, False

        def before_fit(self):
            self.seen = []

        def before_batch(self):
            pasted = torch.isin(self.xb[0], before.seen[-1]).all()
            self.seen.append((self.mix.lam.numel() > 1, bool(pasted)))

    fitted(learner(photos, mixup=0.4, cutmix=1.0), before := Look(Mix.order - 1), kinds := Kinds(), epochs=5)
    assert len(kinds.seen) == 5 * 6
    assert set(kinds.seen) == {(True, False), (False, True)}


def test_the_loss_is_that_of_both_labels_by_their_shares(photos):
    class Expected(Callback):
        order, run_valid = Mix.order + 1, False

        def after_loss(self):
            first, second = (F.cross_entropy(self.pred, y, reduction="none") for y in (self.mix.yb1[0], self.yb[0]))
            expected = (first * (1 - self.mix.lam) + second * self.mix.lam).mean()
            assert type(self.loss) is torch.Tensor
            assert float(self.loss) == pytest.approx(float(expected), rel=1e-5)

    for options in ({"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}):
        fitted(learner(photos, **options), Expected())


def test_a_last_mini_batch_of_one_photo_stays_as_it_is(photos):
    before, after = Look(Mix.order - 1), Look(Mix.order + 1)
    fitted(learner(photos, mixup=0.4, bs=47), before, after)
    assert [len(batch) for batch in after.seen] == [47, 1]
    assert torch.equal(before.seen[1], after.seen[1])
    assert not torch.equal(before.seen[0], after.seen[0])


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_a_probe_goes_by_the_recipes_own_loss(photos, tmp_path, options):
    path = tmp_path / "weights.pth"
    torch.save(learner(photos).model.state_dict(), path)
    probed = [fitted(learner(photos, weights=str(path), **given)).probe.found for given in (options, {})]
    assert probed[0]["loss"] == probed[1]["loss"]


def test_the_own_loss_is_found_while_mixing_and_after_it(photos):
    class See(Callback):
        order = 90

        def before_train(self):
            self.own, self.now = own_loss(self.learn), self.learn.loss_func

    for mix in (mixup_cutmix(0.4, 0.0), [MixUp()]):
        learn = learner(photos)
        loss = learn.loss_func
        fitted(learn, *mix, see := See())
        assert see.own is loss is learn.loss_func is own_loss(learn)
        assert see.now is not loss


def test_none_of_them_is_no_callback():
    assert mixup_cutmix(0.0, 0.0) == []


def test_on_several_processes_they_are_refused(monkeypatch):
    monkeypatch.setattr("toolkit.finetuning.mixup_cutmix.ranks.count", lambda: 2)
    with pytest.raises(ValueError, match="--cutmix on 2 processes: each would mix its own photos"):
        mixup_cutmix(0.0, 1.0)
    assert mixup_cutmix(0.0, 0.0) == []


def test_a_fit_that_ends_before_it_trains_says_why_and_leaves_the_loss_that_was_set(photos):
    class Refuse(Callback):
        order = Mix.order + 1

        def before_fit(self):
            self.learn.end_with(ValueError("not a state of this run"))

    learn = fitted(learner(photos, mixup=0.4))
    learn.loss_func = other = torch.nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match="not a state of this run"):
        fitted(learn, Refuse())
    assert learn.loss_func is other
