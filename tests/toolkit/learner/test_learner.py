"The learner in a notebook: fastai's words for precision and accumulation mean ours."

import pytest
import torch
from fastai.callback.fp16 import MixedPrecision, NonNativeMixedPrecision
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.learner import load_learner
from noise import write_noise

from recipes import hw1, rapid
from toolkit.finetuning.layer_decay import layer_groups
from toolkit.learner.loss_scaler import LossScaler
from toolkit.training.begin import begin


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), valid=4)


def learner(photos, recipe=hw1, **options):
    small = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 16, "workers": 0, "device": "cpu"}
    return recipe.learner(photos, **small | options)


def seen(learn):
    "The dtypes inside the network and of its output, and how many scalers there are."
    inside = []
    watch = learn.model.conv1[0].register_forward_hook(lambda layer, inputs, output: inside.append(output.dtype))
    output = learn.model(torch.zeros(2, 3, 32, 32))
    watch.remove()
    return inside, output.dtype, sum(isinstance(callback, LossScaler) for callback in learn.cbs)


def test_to_fp16_to_bf16_and_to_fp32_switch_the_learners_own_precision(photos):
    learn = learner(photos, precision="fp32")
    plain = learn.model.forward
    for switch, precision, inside, scalers in (
        (learn.to_fp16, "fp16", torch.float16, 1),
        (learn.to_fp16, "fp16", torch.float16, 1),
        (learn.to_bf16, "bf16", torch.bfloat16, 0),
        (learn.to_fp16, "fp16", torch.float16, 1),
        (learn.to_fp32, "fp32", torch.float32, 0),
    ):
        assert switch() is learn
        assert learn.precision == precision
        assert seen(learn) == ([inside], torch.float32, scalers)
    assert learn.model.forward == plain
    assert not hasattr(learn.model, "autocast")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_switched_to_a_precision_it_trains_to_the_bit_as_begun_with_it(photos, precision):
    switched, begun = (
        getattr(learner(photos, precision="fp32"), f"to_{precision}")(),
        learner(photos, precision=precision),
    )
    for learn in (switched, begun):
        torch.manual_seed(0)  # of the dropout
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
    for one, other in zip(switched.model.state_dict().values(), begun.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("callback", "instead"),
    [
        (MixedPrecision(), r"learn.to_fp16\(\)"),
        (MixedPrecision, r"learn.to_fp16\(\)"),
        (NonNativeMixedPrecision(), r"learn.to_fp16\(\)"),
        (GradientAccumulation(32), "--accum"),
        (GradientAccumulation, "--accum"),
    ],
)
def test_what_would_do_so_again_is_refused_with_what_to_do_instead(photos, callback, instead):
    learn = learner(photos)
    with pytest.raises(ValueError, match=instead):
        learn.fit(1, cbs=callback)
    with pytest.raises(ValueError, match=instead):
        learn.add_cb(callback)
    assert not [
        one for one in learn.cbs if type(one).__module__ in ("fastai.callback.fp16", "fastai.callback.training")
    ]


@pytest.mark.parametrize("fit", ["fit", "fit_one_cycle", "fine_tune", "lr_find"])
def test_a_learner_rebuilt_from_a_run_predicts_only(digits_run, fit):
    "It lacks the recipe's dropout, schedule and more; trained without them it would be something else."
    learn = digits_run.learner("cpu")
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match=r"predicts only, .*--resume") as refused:
        getattr(learn, fit)(*([] if fit == "lr_find" else [1]))
    assert str(digits_run.folder) in str(refused.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learn.model.state_dict().items())
    assert not learn.model.training
    with learn.no_bar():
        loss, accuracy = learn.validate()
        probabilities, labels = learn.get_preds()
        assert float((probabilities.argmax(1) == labels).float().mean()) == pytest.approx(accuracy)
        assert learn.predict(next(iter(learn.dls.data.valid)))[0] in learn.dls.vocab


@pytest.mark.filterwarnings("ignore:load_learner")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("recipe", [hw1, rapid])
def test_exported_by_fastai_and_loaded_a_learner_predicts_as_before(photos, recipe, precision, tmp_path):
    torch.manual_seed(0)
    torch.save(learner(photos).model.state_dict(), tmp_path / "weights.pth")
    with_all = {"mixup": 0.4, "average": "last", "weights": str(tmp_path / "weights.pth")} if recipe is rapid else {}
    learn, photo = learner(photos, recipe, precision=precision, **with_all), photos / "val/c1/0.png"
    for epochs in (0, 2):
        if epochs:
            with learn.no_bar(), learn.no_logging():
                learn.fit(epochs)
        learn.export(tmp_path / "learner.pkl")
        expected, predicted = learn.predict(photo), load_learner(tmp_path / "learner.pkl").predict(photo)
        assert predicted[0] == expected[0]
        assert torch.equal(predicted[2], expected[2])


def bits(learn):
    return {name: weight.detach().clone() for name, weight in learn.model.named_parameters()}


def changed(learn, before):
    return {name for name, weight in learn.model.named_parameters() if not torch.equal(weight, before[name])}


@pytest.mark.parametrize("splitter", [None, layer_groups(0.75, frozen=0.3)])
def test_freeze_trains_the_classifier_and_the_norms_alone_and_unfreeze_the_rest_again(photos, splitter):
    learn = learner(photos, precision="fp32")
    learn.splitter = splitter or learn.splitter
    norms = {
        f"{name}.{part}"
        for name, layer in learn.model.named_modules()
        if isinstance(layer, torch.nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    learn.create_opt()
    trained = {name for name, weight in learn.model.named_parameters() if weight.requires_grad}
    body = {name for name in trained - norms if not name.startswith("fc.")}
    before = bits(learn)
    with learn.no_bar(), learn.no_logging():
        learn.freeze()
        learn.fit_one_cycle(1, 1e-2)
        assert {"fc.weight", "fc.bias"} <= changed(learn, before) <= {"fc.weight", "fc.bias"} | norms
        before = bits(learn)
        learn.unfreeze()
        learn.fit_one_cycle(1, 1e-2)
    assert body < changed(learn, before) <= trained


def test_a_batch_of_one_photo_shows_how_it_is_augmented(photos):
    dls = learner(photos, precision="fp32", bs=4).dls
    images, labels, shown = dls.train.show_batch(unique=True, max_n=5, show=False)
    assert len(shown) == 5
    assert len({tuple(image.flatten().tolist()) for image in images}) == 5
    first = dls.train.items[0]
    assert [dls.vocab[label] for label in labels] == [dls.data.train[first]] * 5
    assert len(dls.show_batch(unique=True, show=False)[0]) == 9
    assert {
        tuple(image.flatten().tolist()) for image in dls.valid.show_batch(unique=True, show=False)[0]
    }.__len__() == 1


def test_a_run_records_what_a_notebook_changed(photos, tmp_path):
    learn = learner(photos, precision="fp32")
    learn.lr, learn.dls.train.bs, learn.accumulate.n = 0.0123, 4, 1
    options = begin(tmp_path / "run", learn).recipe["options"]
    assert (options["lr"], options["bs"], options["accum"]) == (0.0123, 4, 1)


@pytest.mark.parametrize("use", [lambda learn, folder: learn.fit(1), lambda learn, folder: begin(folder, learn)])
def test_other_data_loaders_are_refused_where_a_recipes_are_needed(photos, tmp_path, use):
    learn = learner(photos, rapid, precision="fp32", probe=False)
    learn.dls = DataLoaders(learn.dls.train.new(bs=4), learn.dls.valid.new(bs=4))
    with pytest.raises(TypeError, match="learn.dls is DataLoaders, .*for another batch size set learn.dls.train.bs"):
        use(learn, tmp_path / "run")
