"""Training by recorded batches is training: on a CPU by a stand-in for a CUDA graph, on a GPU in test_gpu.py."""

import contextlib

import pytest
import torch
from fastai.callback.core import Callback
from noise import write_noise
from torch import nn

from recipes import hw1
from toolkit.learner import cuda_graphs
from toolkit.learner.cuda_graphs import SEEN, CudaGraphs, RecordedStep, check_hooks, kind_of
from toolkit.learner.device import resolved
from toolkit.options import Options


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "48 photos to train on: four batches of ten, and one of eight."
    return write_noise(tmp_path_factory.mktemp("noise") / "data", valid=5)


@pytest.fixture
def recordings(monkeypatch):
    "The steps recorded. Replaying one runs it again, into the memory of the first time, as a CUDA graph does."
    found = []

    def recorded(function, stream, pool=None):
        step = function.__self__
        function()
        if function == step._forward:
            found.append(step)
            return function, None
        static = step.gradients

        def replay():
            function()
            for memory, gradient in zip(static, step.gradients, strict=True):
                if gradient is not None:
                    memory.copy_(gradient)
            step.gradients = static

        return replay, None

    monkeypatch.setattr(cuda_graphs, "recorded", recorded)
    monkeypatch.setattr(cuda_graphs, "side_stream", contextlib.nullcontext)
    return found


def learner(data, **options):
    small = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 10, "workers": 0, "device": "cpu"}
    return hw1.learner(data, **small, **options)


def trained(data, *callbacks, epochs=2, **options):
    "The learner, and its weights and averages after a fit."
    learn = learner(data, **options)
    learn.add_cbs(callbacks)
    torch.manual_seed(0)
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs)
    return learn, [weight.detach().clone() for weight in [*learn.model.parameters(), *learn.model.buffers()]]


@pytest.mark.parametrize("options", [{"accum": 1}, {"accum": 2}, {"accum": 3, "class_weights": "balanced"}])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_recorded_training_has_the_bits_of_training(data, recordings, options, precision):
    _, expected = trained(data, precision=precision, **options)
    learn, weights = trained(data, CudaGraphs(), precision=precision, **options)
    assert len(recordings) == 1
    assert len(learn.recorder.losses) == 2 * len(learn.dls.train)
    for one, other in zip(weights, expected, strict=True):
        assert torch.equal(one, other)
    assert not isinstance(vars(learn.model).get("forward"), RecordedStep)
    assert learn.callback(CudaGraphs).step is None  # the memory is free again


def test_only_whole_batches_are_replayed_from_the_third_on(data, recordings):
    class Watch(Callback):
        order, replayed = 98, 0

        def before_batch(self):
            self.replayed += isinstance(vars(self.model).get("forward"), RecordedStep)

    trained(data, CudaGraphs(), watch := Watch(), accum=1)
    assert watch.replayed == 2 * 4 - (SEEN - 1)
    assert len(recordings) == 1


class Freeze(Callback):
    "Freezes the stem in the second epoch."

    def before_train(self):
        self.learn.model.layer1.requires_grad_(self.epoch == 0)


def test_a_network_that_changes_is_recorded_anew(data, recordings):
    _, expected = trained(data, Freeze(), epochs=3)
    _, weights = trained(data, Freeze(), CudaGraphs(), epochs=3)
    assert len(recordings) == 2
    for one, other in zip(weights, expected, strict=True):
        assert torch.equal(one, other)


def test_a_kind_is_of_the_images_the_weights_and_the_modes():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    images, kind = (
        torch.zeros(2, 3, 8, 8),
        lambda images: kind_of(list(model.parameters()), list(model.modules()), images),
    )
    kinds = [kind(images), kind(images.contiguous(memory_format=torch.channels_last))]
    kinds += [kind(images[:, :, :4]), kind(images.half())]
    assert kind(images.clone()) == kinds[0]
    model[1].eval()
    kinds.append(kind(images))
    model[0].bias.requires_grad_(False)
    kinds.append(kind(images))
    model[0].weight.data = model[0].weight.data.clone()
    kinds.append(kind(images))
    model.autocast = "cuda", torch.float16
    kinds.append(kind(images))
    assert len(set(kinds)) == 8


def test_hooks_of_layers_end_the_fit_by_an_error_and_those_of_the_model_do_not(data, recordings):
    learn = learner(data)
    learn.model.register_forward_hook(lambda *_: None)
    check_hooks(learn.model)
    learn.model.layer1[0].bn1.register_forward_hook(lambda *_: None)
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match=r"layer1\.0\.bn1 has hooks, .* leave "):
        learn.fit(1, cbs=CudaGraphs())


def test_a_network_that_cannot_be_recorded_is_an_error_and_no_memory_stays_one(data, recordings, monkeypatch):
    for raised, expected, words in (
        (RuntimeError("operation not permitted when stream is capturing"), ValueError, "can't be recorded .operation"),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "out of memory"),
    ):

        def refuse(*_, error=raised):
            raise error

        monkeypatch.setattr(cuda_graphs, "recorded", refuse)
        learn = learner(data)
        with learn.no_bar(), learn.no_logging(), pytest.raises(expected, match=words):
            learn.fit(1, cbs=CudaGraphs())
        assert not isinstance(vars(learn.model).get("forward"), RecordedStep)


def test_no_memory_at_the_end_of_a_recording_is_told_as_such(monkeypatch):
    "torch then ends the recording with another error, in whose context the first one is."

    def refuse(*_):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(cuda_graphs, "recorded", refuse)
    monkeypatch.setattr(cuda_graphs, "side_stream", contextlib.nullcontext)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        RecordedStep(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(2, 3, 2, 2))


@pytest.mark.parametrize(
    ("changed", "ranks", "message"),
    [
        ({"device": "cpu"}, 1, "--cuda_graphs on cpu: only a CUDA device has them"),
        ({"device": "cuda", "compile": True}, 1, "--cuda_graphs and --compile: choose one"),
        ({"device": "cuda"}, 2, "--cuda_graphs on 2 processes"),
    ],
)
def test_where_there_are_no_graphs_the_option_is_refused(monkeypatch, changed, ranks, message):
    monkeypatch.setattr("toolkit.learner.device.pick_device", torch.device)
    monkeypatch.setattr("toolkit.learner.device.ranks.count", lambda: ranks)
    with pytest.raises(ValueError, match=message):
        resolved(Options(cuda_graphs=True, **changed))


def test_after_an_error_in_a_replay_the_model_has_its_own_forward_pass(data, recordings, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    learn = learner(data, precision="fp16")
    before = vars(learn.model)["forward"]
    monkeypatch.setattr(RecordedStep, "__call__", interrupted)
    with learn.no_bar(), learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=CudaGraphs())
    assert vars(learn.model)["forward"] == before
