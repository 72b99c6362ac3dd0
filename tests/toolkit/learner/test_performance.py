"""torch's global flags are put back; --compile changes neither names nor results, and says what it lacks."""

import contextvars
import copy
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fastai.callback.core import Callback
from noise import write_noise
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from recipes import hw1, rapid
from toolkit.finetuning.linear_probe import features_of
from toolkit.learner import performance
from toolkit.learner.device import mixed_precision
from toolkit.learner.performance import compiled, cudnn_flags, in_whole_batches, retaining_freed_memory, whole_batches
from toolkit.learner.recorder import Recorder

ROOT = Path(__file__).resolve().parents[3]
CUDA = torch.device("cuda")  # the flags can be set without one


def flags():
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic


@pytest.mark.parametrize(
    ("exact", "within"), [(False, ("high", True, False, False)), (True, ("highest", False, False, True))]
)
def test_torchs_flags_hold_within_and_are_put_back_after_an_error_too(exact, within):
    def interrupted():
        with cudnn_flags(CUDA, exact):
            assert flags() == within
            raise KeyboardInterrupt

    before = flags()
    assert before != within
    pytest.raises(KeyboardInterrupt, interrupted)
    assert flags() == before


def test_on_a_cpu_torchs_flags_stay():
    before = flags()
    with cudnn_flags(torch.device("cpu"), False):
        assert flags() == before


@pytest.mark.parametrize("asked", [False, True])
def test_cudnn_searches_for_no_shape_unless_the_user_asked_for_it(monkeypatch, asked):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", asked)
    with cudnn_flags(CUDA, exact=False):
        assert torch.backends.cudnn.benchmark is asked
    with cudnn_flags(CUDA, exact=True):
        assert torch.backends.cudnn.benchmark is False
    assert torch.backends.cudnn.benchmark is asked


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_loss_of_another_dtype_is_smoothed_too(dtype):
    smooth = Recorder().smooth_loss
    smooth.reset()
    smooth.accumulate(SimpleNamespace(loss=torch.tensor(2.0, dtype=dtype)))
    assert float(smooth.value) == pytest.approx(2.0)


class NoCopies(TorchDispatchMode):
    "Refuses copies from one device to another."

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert "_to_copy" not in str(function), function
        assert "_local_scalar_dense" not in str(function), function
        return function(*arguments, **(options or {}))


def test_the_recorders_smoothed_loss_copies_nothing_at_a_batch():
    "On the device `meta`, which computes nothing, in a GPU's place: a copy from the CPU would make the host wait."
    recorder, meta = Recorder(), torch.device("meta")
    learn = SimpleNamespace(loss=torch.zeros((), device=meta), dls=SimpleNamespace(device=meta))
    recorder.learn, recorder.cancel_train = learn, False
    recorder.smooth_loss.reset()
    recorder.before_train()
    with NoCopies():
        recorder.smooth_loss.accumulate(learn)
        recorder.smooth_loss.accumulate(learn)
    assert recorder.smooth_loss.value.device == meta


def test_a_short_mini_batch_is_filled_up_on_cuda_only_and_never_for_a_batch_norm_in_training_mode():
    sizes, model = [], network()

    def forward(images):
        sizes.append(len(images))
        return model(images)

    def passed(device, exact, *batches):
        sizes.clear()
        with torch.no_grad(), whole_batches(device, exact):
            for batch in batches:
                torch.testing.assert_close(in_whole_batches(model, forward, batch), model(batch))
        return sizes

    torch.manual_seed(1)
    whole, large = torch.randn(8, 3, 8, 8), torch.randn(4, 3, 8, 8)
    model.eval()
    assert passed(CUDA, False, whole, whole[:3], whole[:1]) == [8, 8, 8]
    assert passed(CUDA, False, large, whole, whole[:3]) == [4, 8, 8]
    assert passed(CUDA, False, whole[:3], whole) == [3, 8]  # the first is whole, whatever was before
    assert passed(CUDA, True, whole, whole[:3]) == [8, 3]
    assert passed(torch.device("cpu"), False, whole, whole[:3]) == [8, 3]
    model.train()
    model[1].eval()  # as toolkit.finetuning.frozen_batch_norm.FrozenBatchNorm has it
    assert passed(CUDA, False, whole, whole[:3]) == [8, 8]
    model.train()
    assert passed(CUDA, False, whole, whole[:3]) == [8, 3]


def test_on_several_processes_nothing_is_filled_up(monkeypatch):
    "They share one mini-batch's dropout, whose rows are those of the photos there are."
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    sizes, model = [], network().eval()
    with torch.no_grad(), whole_batches(CUDA, False):
        for count in (8, 3):
            images = torch.randn(count, 3, 8, 8)
            in_whole_batches(model, lambda images: sizes.append(len(images)) or model(images), images)
    assert sizes == [8, 3]


def test_a_network_of_two_inputs_may_compute_in_mixed_precision():
    class Two(nn.Module):
        def forward(self, left, right):
            return left @ right

    model, ones = mixed_precision(Two(), torch.device("cpu"), "bf16"), torch.ones(2, 2)
    assert torch.equal(model(ones, ones), torch.full((2, 2), 2.0))


def test_gradients_of_a_mini_batch_that_is_filled_up_are_those_of_its_images():
    model, images, gradients = network(), torch.randn(8, 3, 8, 8), []
    model[1].eval()
    for device in (CUDA, torch.device("cpu")):  # filled up, and not
        model.zero_grad()
        with whole_batches(device, False):
            in_whole_batches(model, model, images)
            in_whole_batches(model, model, images[:3]).square().mean().backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    for filled, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(filled, alone)


def test_features_and_figures_of_whole_mini_batches_are_those_of_the_photos_alone(tmp_path):
    "As on a GPU: of 48 photos to train on in mini-batches of 9, and of 15 to validate on, the last ones are filled up."
    photos = write_noise(tmp_path / "data", valid=11)
    small = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 9, "device": "cpu", "precision": "bf16"}

    def figures():
        learn = rapid.learner(photos, workers=0, epochs=1, **small)
        learn.model.conv1[0].register_forward_hook(lambda layer, inputs, output: sizes.append(len(output)))
        features, labels = features_of(learn)
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
        return features, labels, torch.tensor(learn.recorder.values[0]), learn.get_preds()[0]

    sizes = []
    expected, context = figures(), contextvars.copy_context()
    assert {3, 6, 9} == set(sizes)
    sizes.clear()
    context.run(performance._largest.set, {})
    for own, wanted in zip(context.run(figures), expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=2e-2, atol=2e-2)
    assert {3, 9} == set(sizes)  # a short mini-batch to train on, of 3, stays so: batch norms are in training mode


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler: apt-get install g++")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_network_computes_the_same_under_the_same_names(precision):
    plain, x = mixed_precision(network(), torch.device("cpu"), precision), torch.randn(8, 3, 8, 8)
    model = compiled(mixed_precision(network(), torch.device("cpu"), precision), torch.device("cpu"))
    tolerance = {"fp32": 1e-5, "bf16": 2e-2}[precision]
    for inputs in (x, x[:3], x):
        expected, found = plain(inputs), model(inputs)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    expected.square().mean().backward()
    found.square().mean().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=tolerance, atol=tolerance)
    assert model.state_dict().keys() == network().state_dict().keys()
    assert copy.deepcopy(model).state_dict().keys() == network().state_dict().keys()
    for name, tensor in model.state_dict().items():  # the running statistics among them
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=tolerance, atol=tolerance)


def test_short_mini_batches_are_computed_without_a_program_of_their_own(tmp_path):
    photos = write_noise(tmp_path / "data", valid=5)  # 48 photos to train and 15 to validate, in tens
    made = {"arch": "test_resnet", "weights": "none", "image_size": 32, "workers": 0, "device": "cpu", "bs": 10}
    plain, learn = (hw1.learner(photos, **made) for _ in range(2))
    compiled_for = []

    def backend(graph, inputs):
        compiled_for.extend({len(each) for each in inputs if each.ndim == 4 and each.shape[1:] == (3, 32, 32)})
        return graph.forward

    learn.model.compile(dynamic=False, backend=backend)
    for one in (plain, learn):
        torch.manual_seed(0)
        with one.no_bar(), one.no_logging():
            one.fit(2)
    assert compiled_for == [10, 10]  # to train and to validate
    torch.testing.assert_close(torch.tensor(learn.recorder.losses), torch.tensor(plain.recorder.losses))
    assert len(learn.recorder.losses) == 10


@pytest.mark.slow
def test_compile_without_a_compiler_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    command = (
        "import torch; from toolkit.learner.performance import compiled; compiled(torch.nn.ReLU(), torch.device('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert "ValueError: --compile: torch " in done.stderr
    assert "install a C++ compiler" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@needs_compiler
def test_a_compiled_run_is_resumed_by_another_process_with_the_same_bits(tmp_path):
    photos = write_noise(tmp_path / "data", valid=5)
    fixed = f"--data {photos} --arch test_resnet --weights none --image_size 32 --bs 8 --device cpu --compile".split()

    def trained(out, epochs, *more):
        words = [sys.executable, "-m", "recipes.hw1", *fixed, "--out", tmp_path / out, "--epochs", epochs, *more]
        done = subprocess.run(map(str, words), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return torch.load(tmp_path / out / "last.pt", weights_only=True)

    whole, _, resumed = trained("whole", 2), trained("parts", 1), trained("parts", 2, "--resume")
    assert whole["epoch"] == resumed["epoch"] == 2
    assert whole["model"].keys() == resumed["model"].keys()
    assert all(torch.equal(tensor, resumed["model"][name]) for name, tensor in whole["model"].items())
    assert (tmp_path / "parts" / "model.onnx").is_file()  # whose certificate compares it with the network


def mapped():
    "Pages that the system maps anew for eight blocks of 64 MiB, as large as activations, one after the other."
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun


def held():
    "Bytes of memory that this process has."
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc whose memory can be kept")
def test_memory_stays_from_step_to_step_and_is_given_back_in_the_end_after_an_error_too():
    def interrupted():
        with retaining_freed_memory(torch.device("cpu")):
            mapped()
            assert held() > before + 2**25
            assert mapped() < 4 * 2**14  # pages of 4 KiB in half the blocks: small ones may have come between
            raise KeyboardInterrupt

    before = held()
    pytest.raises(KeyboardInterrupt, interrupted)
    assert held() < before + 2**24


def test_memory_is_kept_through_a_whole_fit_and_through_predictions(tmp_path, monkeypatch):
    class Watch(Callback):
        def after_pred(self):
            seen.append("train" if self.training else "valid")

    photos, seen = write_noise(tmp_path / "data", valid=5), []
    learn = hw1.learner(photos, arch="test_resnet", weights="none", image_size=32, bs=48, workers=0, device="cpu")
    libc = SimpleNamespace(mallopt=lambda name, value: seen.append(value), malloc_trim=lambda pad: seen.append("back"))
    monkeypatch.setattr("toolkit.learner.performance.ctypes.CDLL", lambda name: libc)
    monkeypatch.setattr("toolkit.learner.performance.platform.libc_ver", lambda: ("glibc", "2.36"))
    kept, given_back = [0, 2**31 - 1, 2**26], [2**16, 2**25, 2**26, 2**17, "back"]
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(Watch()):
        learn.fit(2)
        assert seen == [*kept, *["train", "valid"] * 2, *given_back]
        seen.clear()
        learn.get_preds()
        assert seen == [*kept, "valid", *given_back]


def test_on_a_gpu_memory_is_left_alone(monkeypatch):
    asked = []
    monkeypatch.setattr("toolkit.learner.performance.ctypes.CDLL", asked.append)
    with retaining_freed_memory(CUDA):
        pass
    assert asked == []
