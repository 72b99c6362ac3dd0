"""Training by recorded batches is training: on a CPU by a stand-in for a CUDA graph, on a GPU in test_gpu.py."""

import contextlib
import gc
import weakref

import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException, CancelFitException
from noise import write_noise
from torch import nn

from recipes import hw1
from toolkit.learner.cuda_graphs import recorded_step
from toolkit.learner.cuda_graphs.callback import SEEN, CudaGraphs, check_hooks, kind_of
from toolkit.learner.cuda_graphs.recorded_step import RecordedStep
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

    monkeypatch.setattr(recorded_step, "recorded", recorded)
    monkeypatch.setattr(recorded_step, "side_stream", contextlib.nullcontext)
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


def refusing(kind, text):
    "A stand-in for `recorded`: the recording ends with an error."

    def refuse(*_):
        raise kind(text)

    return refuse


def test_a_network_that_cannot_be_recorded_is_an_error(data, recordings, monkeypatch):
    refused = refusing(RuntimeError, "operation not permitted when stream is capturing")
    monkeypatch.setattr(recorded_step, "recorded", refused)
    learn = learner(data)
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match="can't be recorded .operation not perm"):
        learn.fit(1, cbs=CudaGraphs())
    assert not isinstance(vars(learn.model).get("forward"), RecordedStep)


def test_without_memory_for_a_recording_training_goes_on_without_and_says_so(data, recordings, monkeypatch, capsys):
    _, expected = trained(data)
    monkeypatch.setattr(recorded_step, "recorded", refusing(torch.OutOfMemoryError, "CUDA out of memory"))
    _, weights = trained(data, CudaGraphs())
    for one, other in zip(weights, expected, strict=True):
        assert torch.equal(one, other)
    assert capsys.readouterr().out.count("batches of 10 x 3 x 32 x 32 are not recorded: there is no memory") == 1


def test_a_recording_without_memory_is_given_back_before_the_step_is_taken(data, recordings, monkeypatch):
    learn, places, alive = learner(data, accum=1), [], []
    monkeypatch.setattr(RecordedStep, "__init__", watched(places))
    monkeypatch.setattr(recorded_step, "recorded", refusing(torch.OutOfMemoryError, "CUDA out of memory"))
    learn.add_cb(Stop("after_pred", CancelFitException(), lambda: alive.extend(place() for place in places)))
    gc.disable()
    try:
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, cbs=CudaGraphs())
    finally:
        gc.enable()
    assert alive == [None]


def gradient_leaves(tensor):
    "The tensors whose gradients the backward pass of `tensor` would add to."
    seen, left = set(), [tensor.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [following for following, _ in node.next_functions]
    return [node.variable for node in seen if hasattr(node, "variable")]


def test_no_weight_of_the_model_is_in_a_recording(data, monkeypatch):
    "A weight's own gradient is tied to the stream of an earlier batch if that batch's graph is alive."
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    model[1].bias.requires_grad_(False)
    kept, images = [], torch.randn(4, 3, 2, 2)
    alive = model(images)

    def recorded(function, stream, pool=None):
        function()
        kept.extend(gradient_leaves(function.__self__.logits))
        return function, None

    monkeypatch.setattr(recorded_step, "recorded", recorded)
    monkeypatch.setattr(recorded_step, "side_stream", contextlib.nullcontext)
    step = RecordedStep(model, images)
    own = {id(weight) for weight in model.parameters()}
    assert len(gradient_leaves(alive)) == 5
    assert len(kept) == 10  # of the forward and the backward pass
    assert not own & {id(leaf) for leaf in kept}
    assert {leaf.data_ptr() for leaf in kept} <= {weight.data_ptr() for weight in model.parameters()}
    step(images).sum().backward()
    expected = torch.autograd.grad(model(images).sum(), step.weights)
    for weight, gradient in zip(step.weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


class Stop(Callback):
    "Ends a fit at an event of its fourth batch, or leaves a batch out."

    order, run_valid = 99, False

    def __init__(self, event, error, look=lambda: None, at=3):
        self.look, self.at = look, at
        setattr(self, event, lambda: self._raise(error))

    def _raise(self, error):
        if self.iter == self.at:
            self.look()
            raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CancelFitException()])
def test_after_a_fit_that_ends_within_an_epoch_the_recording_is_gone(data, recordings, monkeypatch, error):
    learn, places = learner(data, accum=1), []
    monkeypatch.setattr(RecordedStep, "__init__", watched(places))
    ends = pytest.raises(KeyboardInterrupt) if isinstance(error, KeyboardInterrupt) else contextlib.nullcontext()
    with learn.no_bar(), learn.no_logging(), ends:
        learn.fit(1, cbs=[CudaGraphs(), Stop("after_backward", error)])
    recordings.clear()
    gc.collect()
    assert [place() for place in places] == [None]


def watched(places, begin=RecordedStep.__init__):
    "A RecordedStep's __init__ that keeps a weak reference to it."

    def init(self, *given):
        places.append(weakref.ref(self))
        begin(self, *given)

    return init


def test_the_batch_that_begins_a_step_may_be_left_out(data, recordings):
    "The gradients then start with the second batch of the step, and are kept from the third one's."
    left_out = {"event": "before_batch", "error": CancelBatchException(), "at": 0}
    _, expected = trained(data, Stop(**left_out), accum=3, epochs=3)
    _, weights = trained(data, Stop(**left_out), CudaGraphs(), accum=3, epochs=3)
    for one, other in zip(weights, expected, strict=True):
        assert torch.equal(one, other)


def test_a_batch_that_is_left_out_leaves_the_model_its_own_forward_pass(data, recordings):
    learn = learner(data, accum=1, precision="fp16")
    before = vars(learn.model)["forward"]
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=[CudaGraphs(), Stop("before_batch", CancelBatchException())])
    assert vars(learn.model)["forward"] == before


def test_the_first_error_of_a_recording_is_told(monkeypatch):
    "torch ends a recording that failed by an error of its own."

    def refuse(*_):
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(recorded_step, "recorded", refuse)
    monkeypatch.setattr(recorded_step, "side_stream", contextlib.nullcontext)
    with pytest.raises(ValueError, match="can't be recorded .operation not permitted"):
        RecordedStep(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(2, 3, 2, 2))


def test_no_memory_at_the_end_of_a_recording_is_told_as_such(monkeypatch):
    "torch then ends the recording with another error, in whose context the first one is."

    def refuse(*_):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(recorded_step, "recorded", refuse)
    monkeypatch.setattr(recorded_step, "side_stream", contextlib.nullcontext)
    with pytest.raises(torch.OutOfMemoryError, match="no memory for a recording"):
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
