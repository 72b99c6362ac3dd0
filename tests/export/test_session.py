"""Sessions and the classifier, on real onnxruntime models and against numpy by hand."""

import ctypes.util
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_onnx
from onnx import TensorProto
from PIL import Image

from export.reading.prepare import fill
from export.runtime import batch_size, providers
from export.runtime import open_session as opening
from export.runtime.batch_size import choose_bs
from export.runtime.buffers import BoundBuffer, MemoryBuffer
from export.runtime.metadata import read_card
from export.runtime.open_session import CUDA_VARIANTS, nodes_on_cpu, providers_of, session_of, tensorrt_options
from export.runtime.providers import PROVIDERS
from export.session import Classifier

ROOT = Path(__file__).resolve().parents[2]
no_gpu = pytest.mark.skipif(providers.gpus() > 0, reason="a GPU is here")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_onnx.write(tmp_path_factory.mktemp("model") / "model.onnx")


def test_the_card_holds_the_metadata(model):
    card = read_card(Classifier(model, "cpu").session, model)
    assert card.classes == ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"]
    assert card.preprocess == tiny_onnx.PREPROCESS | {"steps": card.preprocess["steps"]}
    assert card.recipe == "tiny"
    assert card.verification == {"agreement": 1.0}
    assert card.metrics is None


# Devices


@no_gpu
@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_a_gpu_that_is_not_there_is_an_error_not_a_cpu_run(model, name):
    with pytest.raises(ValueError, match=rf"device {name} is not to be had: no NVIDIA GPU here.*\nchoose cpu or auto"):
        Classifier(model, name)


@no_gpu
def test_auto_without_a_gpu_is_the_cpu_and_prints_why(model, capfd):
    session = Classifier(model).session
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert capfd.readouterr() == ("", "device auto: cpu (no NVIDIA GPU here, or no driver for it)\n")


@pytest.mark.gpu
@pytest.mark.skipif(providers.gpus() == 0, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_on_cuda_the_labels_are_those_of_the_cpu(model, name):
    photos = [tiny_onnx.photo(seed) for seed in range(17)]
    gpu = Classifier(model, name, bs=8)
    assert gpu.device == "cuda"
    assert gpu.pads
    labels, probabilities = gpu(photos)
    expected = Classifier(model, "cpu")(photos)
    assert labels == expected[0]
    np.testing.assert_allclose(probabilities, expected[1], atol=1e-3)


def test_an_unknown_device_is_refused_naming_the_known_ones(model):
    with pytest.raises(ValueError, match="unknown device 'gpu': choose one of auto, cuda, tensorrt, cpu"):
        Classifier(model, "gpu")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's loader")
def test_a_missing_library_is_named_with_the_line_that_brings_it():
    missing = providers.missing_library("tensorrt")
    if missing is None:
        pytest.skip("TensorRT is installed here")
    assert missing.startswith("lib")
    assert ".so" in missing
    assert providers.line_that_brings("libnvinfer.so.10").startswith("pip install 'tensorrt-cu")
    assert providers.line_that_brings("libnvinfer.so.10").endswith("==10.*'")
    assert providers.line_that_brings("libcurand.so.10") == "pip install 'onnxruntime-gpu[cuda,cudnn]'"


CUDNN_ABSENT = """
import functools
import onnxruntime
from export.runtime import providers
from toolkit.installation import compute
onnxruntime.preload_dlls = functools.partial(onnxruntime.preload_dlls, cudnn=False)  # as if it was not installed
providers.gpus = compute.gpus = lambda: 1
providers.missing_library = lambda device: None  # without a driver it would be the driver's
compute._provider = lambda wanted: wanted  # its Relu needs no cuDNN
print(providers.obstacle("cuda"))
print(*[finding.text for finding in compute.onnxruntime_cuda()])
print(*[finding.fix for finding in compute.onnxruntime_cuda()])
try:
    providers.choose_device("cuda")
except ValueError as error:
    print(error)
providers.choose_device("auto")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's loader")
def test_without_cudnn_cuda_is_refused_and_doctor_names_the_line_that_installs_it():
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime is built without CUDA")
    if ctypes.util.find_library("cudnn"):
        pytest.skip("the system has a cuDNN of its own")
    done = subprocess.run([sys.executable, "-c", CUDNN_ABSENT], capture_output=True, text=True, cwd=ROOT)
    obstacle, text, mend, refusal, _ = done.stdout.splitlines()
    assert obstacle == "libcudnn.so.9 can't be loaded: pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert text.endswith("computes convolutions slowly or not at all: libcudnn.so.9 can't be loaded")
    assert mend == "pip install 'onnxruntime-gpu[cuda,cudnn]' -U"
    assert refusal == f"device cuda is not to be had: {obstacle}"
    assert done.stderr == f"device auto: cpu ({obstacle})\n"


def assigned(path):
    "A session on the CPU, which says so of each of its nodes."
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def test_nodes_that_fall_back_are_named_but_for_those_that_compute_sizes(tmp_path):
    model = onnx.load(tiny_onnx.write(tmp_path / "model.onnx"))
    model.graph.node[2].name = "head"
    model.graph.node.append(onnx.helper.make_node("Shape", ["image"], ["size"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [4]))
    onnx.save(model, tmp_path / "model.onnx")
    assert nodes_on_cpu(assigned(tmp_path / "model.onnx")) == ["ReduceMean", "Gemm head", "Softmax"]


def stand_in(monkeypatch, device, parts):
    "Have `opened` get a session on `device` whose graph is assigned as parts() says."
    session = SimpleNamespace(get_provider_graph_assignment_info=parts, get_providers=lambda: PROVIDERS[device])
    monkeypatch.setattr(opening, "session_of", lambda *given: session)
    monkeypatch.setattr(opening, "providers_of", lambda *given: [])


def test_a_model_of_which_a_part_would_run_on_the_cpu_is_refused_by_name(model, monkeypatch):
    stand_in(monkeypatch, "cuda", assigned(model).get_provider_graph_assignment_info)
    with pytest.raises(ValueError, match="would run ReduceMean, Gemm, Softmax of .* on the CPU: choose cpu"):
        opening.opened(model, b"", "cuda")


def test_a_model_of_which_tensorrt_takes_no_part_is_refused(model, monkeypatch):
    parts = [SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=list)]
    stand_in(monkeypatch, "tensorrt", lambda: parts)
    with pytest.raises(ValueError, match="device tensorrt: TensorRT takes no part of .*; choose cuda"):
        opening.opened(model, b"", "tensorrt")


def test_threads_is_how_many_the_cpu_computes_with(model):
    assert Classifier(model, "cpu", threads=1).session.get_session_options().intra_op_num_threads == 1


# Files that are not models of ours


def truncated(path):
    whole = tiny_onnx.write(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def external(path):
    "A model whose weights lie in ../secret: onnxruntime would go and read it."
    loaded = onnx.load(tiny_onnx.write(path))
    secret = path.parent.parent / "secret"
    secret.write_bytes(bytes(4096))
    for tensor in loaded.graph.initializer:
        if tensor.name == "weight":
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../secret")
    onnx.save(loaded, path)


def external_in_an_attribute(path):
    "The same, out of sight of whoever looks at the initialisers alone."
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[3, 12], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    loaded = onnx.load(tiny_onnx.write(path))
    loaded.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["unused"], value=tensor))
    onnx.save(loaded, path)


def tiny(**options):
    return lambda path: tiny_onnx.write(path, **options)


def saying(**metadata):
    return lambda path: tiny_onnx.write(path, metadata=metadata)


def preprocess(**changes):
    return saying(preprocess=json.dumps(tiny_onnx.PREPROCESS | changes))


BAD_FILES = {
    "empty": (lambda path: path.write_bytes(b""), "not a model that onnxruntime can load"),
    "text": (lambda path: path.write_text("<html>404 at this location</html>"), "not an ONNX file"),
    "a pickle": (lambda path: path.write_bytes(b"\x80\x04\x95K\x00\x00\x00."), "not a model that onnxruntime can load"),
    "truncated": (truncated, "not a model that onnxruntime can load"),
    "external data": (external, "keeps weights in other files"),
    "external attribute": (external_in_an_attribute, "keeps weights in other files"),
    "input name": (tiny(name="x"), "takes x and gives logits, probabilities: expected image -> logits, probabilities"),
    "output name": (tiny(outputs="logits output"), "takes image and gives logits, output: expected image -> "),
    "input type": (
        tiny(kind=TensorProto.FLOAT),
        r"image is tensor\(float\) \['batch', 28, 28, 3\], expected uint8 \[batch, height, width, 3\] with a free",
    ),
    "channels first": (
        tiny(shape=("batch", 3, 28, 28), axes=(2, 3)),
        r"image is tensor\(uint8\) \['batch', 3, 28, 28\], expected uint8",
    ),
    "fixed batch": (tiny(shape=(1, 28, 28, 3)), r"image is .* expected uint8 .* with a free batch"),
    "rank": (tiny(shape=("batch", 3)), r"expected uint8 \[batch, height, width, 3\]|can load"),
    "no classes": (saying(classes=None), "carries no 'classes': export it with"),
    "no preprocess": (saying(preprocess=None), "carries no 'preprocess'"),
    "not json": (saying(classes="['cat', 'dog']"), "its 'classes' is not JSON"),
    "deep json": (saying(recipe="[" * 200_000), "its 'recipe' is not JSON"),
    "no list": (saying(classes='"abc"'), "its classes are not a list of names"),
    "no names": (saying(classes=json.dumps(list(range(12)))), "its classes are not a list of names"),
    "a million": (
        saying(classes=json.dumps([f"{n}" for n in range(1_000_000)])),
        "names 1000000 classes, its logits have 12",
    ),
    "twice": (saying(classes=json.dumps(["a"] * 12)), "two of its classes have one name"),
    "preprocess list": (saying(preprocess="[]"), "its preprocess is list, expected a dictionary"),
    "crop": (preprocess(crop=224), "its preprocess crops to 224 pixels, its input takes 28"),
    "resize": (preprocess(resize=10**9), "its preprocess has resize 1000000000"),
    "interpolation": (preprocess(interpolation="lanczos"), "its preprocess has interpolation 'lanczos'"),
    "std": (preprocess(std=[0, 0, 0]), r"its preprocess has std \[0, 0, 0\]"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_file_that_is_no_model_of_ours_is_refused_by_name_and_reason(tmp_path, fault):
    make, reason = BAD_FILES[fault]
    folder = tmp_path / "inner"
    folder.mkdir()
    make(folder / "bad.onnx")
    with pytest.raises(ValueError, match=reason) as caught:
        Classifier(folder / "bad.onnx", "cpu")
    assert str(folder / "bad.onnx") in str(caught.value)
    assert str(caught.value).count("\n") <= 1
    assert len(str(caught.value).replace(str(folder), "")) < 300


def test_a_class_called_location_is_not_external_data(tmp_path):
    model = tiny_onnx.write(tmp_path / "model.onnx", classes=["location", "other"])
    assert Classifier(model, "cpu").card.classes == ["location", "other"]


def test_a_wrong_number_of_classes_that_only_a_run_shows_is_refused(tmp_path):
    loaded = onnx.load(tiny_onnx.write(tmp_path / "open.onnx"))
    loaded.graph.node[2].input[1] = "some"  # Compress: how many columns it keeps is known when it runs
    loaded.graph.node.insert(0, onnx.helper.make_node("Compress", ["weight", "keep"], ["some"], axis=1))
    loaded.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(12) == 5, "keep"))
    loaded.graph.node[3].input.pop()  # the bias
    for output in loaded.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = "classes"
    onnx.save(loaded, tmp_path / "open.onnx")
    with pytest.raises(ValueError, match=r"probabilities of shape \(1, 1\), expected \(1, 12\)"):
        Classifier(tmp_path / "open.onnx", "cpu")([tiny_onnx.photo(0)])


def test_a_missing_file_and_a_folder_have_different_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.onnx: no such file; give a model.onnx"):
        Classifier(tmp_path / "nothing.onnx", "cpu")
    with pytest.raises(IsADirectoryError, match=r"is a folder: give the model file, as in .*model.onnx"):
        Classifier(tmp_path, "cpu")


def test_probabilities_that_are_no_numbers_are_an_error(tmp_path):
    loaded = onnx.load(tiny_onnx.write(tmp_path / "nan.onnx"))
    for tensor in loaded.graph.initializer:
        if tensor.name == "bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(12, np.nan, np.float32), "bias"))
    onnx.save(loaded, tmp_path / "nan.onnx")
    with pytest.raises(ValueError, match="probabilities that are no numbers"):
        Classifier(tmp_path / "nan.onnx", "cpu")([tiny_onnx.photo(0)])


# Classifier


def test_labels_and_probabilities_are_those_computed_by_hand(model, tmp_path):
    photos = [tiny_onnx.photo(seed) for seed in range(17)]
    for seed, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / f"{seed}.png")
    sources = [tmp_path / "0.png", str(tmp_path / "1.png"), (tmp_path / "2.png").read_bytes(), *photos[3:]]
    labels, probabilities = Classifier(model, "cpu", bs=8)(sources)
    expected = [tiny_onnx.expected(photo) for photo in photos]
    assert labels == [label for label, _ in expected]
    assert len(set(labels)) > 3
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, np.array([row for _, row in expected]), atol=1e-6)


def test_one_path_is_a_list_of_one_and_none_is_empty(model, tmp_path):
    Image.fromarray(tiny_onnx.photo(0)).save(tmp_path / "0.png")
    classifier = Classifier(model, "cpu")
    assert (
        classifier(tmp_path / "0.png")[0]
        == classifier([tmp_path / "0.png"])[0]
        == [tiny_onnx.expected(tiny_onnx.photo(0))[0]]
    )
    labels, probabilities = classifier([])
    assert labels == []
    assert probabilities.shape == (0, 12)


def test_a_padded_batch_gives_the_rows_of_its_images_alone(model):
    class Watched:
        "The session, noting the batches it is given."

        def __init__(self, session):
            self.session, self.batches = session, []

        def run(self, outputs, inputs, options):
            self.batches.append(len(inputs["image"]))
            return self.session.run(outputs, inputs, options)

    classifier = Classifier(model, "cpu", bs=8)
    classifier.session, classifier.pads = Watched(classifier.session), True
    photos = [tiny_onnx.photo(seed) for seed in range(17)]
    labels, probabilities = classifier(photos)
    assert classifier.session.batches == [8, 8, 8]
    assert labels == [tiny_onnx.expected(photo)[0] for photo in photos]
    assert probabilities.shape == (17, 12)


def test_a_photo_that_can_not_be_read_is_raised(model, tmp_path):
    classifier = Classifier(model, "cpu")
    (tmp_path / "bad.png").write_bytes(b"no photo")
    with pytest.raises(FileNotFoundError, match="gone.png"):
        classifier([tiny_onnx.photo(0), tmp_path / "gone.png"])
    with pytest.raises(ValueError, match="bad.png"):
        classifier([tmp_path / "bad.png"])
    with pytest.raises(ValueError, match=r"array float32 \(32, 32, 3\): expected uint8 \[height, width, 3\] RGB"):
        classifier([tiny_onnx.photo(0).astype(np.float32)])


def test_threads_may_share_one_classifier(model):
    classifier = Classifier(model, "cpu", bs=4)
    photos = [tiny_onnx.photo(seed) for seed in range(40)]
    expected = [tiny_onnx.expected(photo)[0] for photo in photos]
    answers = {}

    def ask(start):
        for _ in range(5):
            answers.setdefault(start, []).append(classifier(photos[start:])[0])

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {start: all(got == expected[start:] for got in gots) for start, gots in answers.items()} == dict.fromkeys(
        range(8), True
    )


def test_a_classifier_goes_to_a_spawned_process_and_answers_there_as_here(tmp_path, monkeypatch):
    tiny_onnx.write(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    classifier = Classifier("model.onnx", "cpu", bs=3, threads=1, tta="flip")
    photos = [tiny_onnx.photo(seed) for seed in range(7)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        labels, probabilities = pool.submit(classifier, photos).result()
    expected = classifier(photos)
    assert labels == expected[0]
    np.testing.assert_array_equal(probabilities, expected[1])
    pickled = pickle.dumps(classifier)
    monkeypatch.chdir("/")
    copy = pickle.loads(pickled)
    assert (copy.bs, copy.tta, copy.device, copy.checksum) == (3, "flip", "cpu", classifier.checksum)
    assert copy.session.get_session_options().intra_op_num_threads == 1


def test_a_pickled_classifier_whose_file_has_changed_is_refused(tmp_path):
    pickled = pickle.dumps(Classifier(tiny_onnx.write(tmp_path / "model.onnx"), "cpu"))
    tiny_onnx.write(tmp_path / "model.onnx", metadata={"recipe": '"another"'})
    with pytest.raises(ValueError, match="model.onnx has changed since this classifier was made from it: make another"):
        pickle.loads(pickled)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError, match="model.onnx: no such file"):
        pickle.loads(pickled)


def test_reading_stays_two_batches_ahead_of_the_workers_at_most(model):
    asked = 0

    def photos():
        nonlocal asked
        for seed in range(200):
            asked += 1
            yield tiny_onnx.photo(seed)

    answers = Classifier(model, "cpu", bs=8).stream(photos(), workers=2)
    next(answers)
    assert asked <= (2 + 2) * 8
    answers.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_bound_buffer_returns_the_sessions_outputs_and_does_not_change_earlier_ones(model):
    "On the CPU what a GPU does: fixed memory, whole batches, outputs that a later run leaves alone."
    classifier = Classifier(model, "cpu", bs=8)
    buffer = BoundBuffer(classifier.session, (8, 28, 28, 3), "cpu")
    images = np.stack([tiny_onnx.photo(seed)[2:30, 2:30] for seed in range(13)])
    expected = classifier.session.run(["logits", "probabilities"], {"image": images})
    buffer.images[:] = images[:8]
    whole = buffer.run(buffer.images)
    others = buffer.run(images[8:])
    for output, first, second in zip(expected, whole, others, strict=True):
        np.testing.assert_allclose(first, output[:8], atol=1e-6)
        np.testing.assert_allclose(second, output[8:], atol=1e-6)
    assert not buffer.images[5:].any(), "the places of a batch that is not whole are black"


def test_a_bound_buffer_with_outputs_in_place_gives_the_same(model):
    "As a CUDA graph needs it: memory that is given, outputs at fixed places."
    classifier, given = Classifier(model, "cpu", bs=8), np.zeros((8, 28, 28, 3), np.uint8)
    buffer = BoundBuffer(classifier.session, given.shape, "cpu", images=given, classes=12)
    assert buffer.images is given
    images = np.stack([tiny_onnx.photo(seed)[2:30, 2:30] for seed in range(13)])
    expected = classifier.session.run(["logits", "probabilities"], {"image": images})
    first, second = buffer.run(images[:8]), buffer.run(images[8:])
    for whole, one, other in zip(expected, first, second, strict=True):
        np.testing.assert_allclose(np.concatenate([one, other]), whole, atol=1e-6)


def test_without_pinned_memory_a_gpu_reads_ordinary_memory_and_a_line_says_so(monkeypatch, capsys):
    def refused(shape):
        raise OSError("the CUDA driver's cuMemHostAlloc failed with error 2")

    monkeypatch.setattr("export.runtime.buffers.pinned", refused)
    memory = BoundBuffer._memory((2, 4, 4, 3), "cuda")
    assert (memory.shape, memory.dtype, memory.any()) == ((2, 4, 4, 3), np.uint8, False)
    assert capsys.readouterr().err.count("not pinned: the CUDA driver's cuMemHostAlloc failed with error 2") == 1


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_through_bound_buffers_the_stream_is_that_of_the_cpu(tmp_path, monkeypatch, tta):
    loaded = onnx.load(tiny_onnx.write(tmp_path / "left.onnx"))  # sees the left half, so that a mirror matters
    for name, values in (("start", [0]), ("end", [14]), ("axis", [2])):
        loaded.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values), name))
    loaded.graph.node.insert(1, onnx.helper.make_node("Slice", ["pixels", "start", "end", "axis"], ["left"]))
    loaded.graph.node[2].input[0] = "left"
    onnx.save(loaded, tmp_path / "left.onnx")
    photos = [np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8) for seed in range(29)]
    for number, photo in enumerate(photos):
        photo[:, : 2 + number % 16] //= 4
    expected = Classifier(tmp_path / "left.onnx", "cpu", bs=8, tta=tta)(photos)
    classifier = Classifier(tmp_path / "left.onnx", "cpu", bs=8, tta=tta)
    monkeypatch.setattr(classifier, "buffer", lambda workers: BoundBuffer(classifier.session, (8, 28, 28, 3), "cpu"))
    labels, probabilities = classifier(photos)
    assert labels == expected[0]
    np.testing.assert_allclose(probabilities, expected[1], atol=1e-6)
    mirrored = classifier([photo[:, ::-1] for photo in photos])[1]
    assert (abs(mirrored - probabilities).max() < 1e-6) == (tta == "flip")


class Threads:
    "Stands in for processes that read: threads of this process do, once `wait` is set."

    def __init__(self, preprocess):
        self.preprocess, self.seconds, self.wait = preprocess, {}, threading.Event()

    def open(self, buffers, shape, preprocess):
        return [np.empty(shape, np.uint8) for _ in range(buffers)]

    def fill(self, images, start, photos):
        assert self.wait.wait(10)
        return fill(images, start, photos, self.preprocess)

    def break_off(self):
        pass


@pytest.mark.parametrize("processes", [True, False])
def test_beside_processes_each_thread_that_runs_the_model_on_a_gpu_does_so_first_on_black_photos(
    model, monkeypatch, processes
):
    classifier, two, runs = Classifier(model, "cpu", bs=4), threading.Barrier(2), []
    photos, shape = [tiny_onnx.photo(seed) for seed in range(10)], (4, 28, 28, 3)
    readers, expected = Threads(classifier.card.preprocess), classifier(photos)[0]

    def watched(names, inputs, options):
        runs.append((threading.get_ident(), inputs["image"].shape, inputs["image"].any()))
        two.wait(10)  # neither thread does it twice
        readers.wait.set()

    session = Classifier(model, "cpu").session  # that of the buffers, whose runs do not count
    monkeypatch.setattr(classifier.session, "run", watched)
    monkeypatch.setattr(classifier, "device", "cuda")
    monkeypatch.setattr(
        classifier,
        "buffer",
        lambda _, images=None: MemoryBuffer(session, np.empty(shape, np.uint8) if images is None else images, True),
    )
    answers = classifier.stream(photos, workers=2, readers=readers if processes else None)
    assert [label for label, _ in answers] == expected
    assert len({thread for thread, _, _ in runs}) == 2 * processes
    assert [(size, lit) for _, size, lit in runs] == [(shape, False)] * 2 * processes


def test_an_unreadable_photo_is_black_whatever_the_buffer_held(model, monkeypatch):
    classifier = Classifier(model, "cpu", bs=3)
    buffer = classifier.buffer(0)
    buffer.images[:] = 255
    monkeypatch.setattr(classifier, "buffer", lambda workers: buffer)
    answers = list(classifier.stream([tiny_onnx.photo(0), b"no photo", tiny_onnx.photo(1)], workers=0))
    assert [isinstance(answer, Exception) for answer in answers] == [False, True, False]
    assert buffer.images.reshape(3, -1).any(1).tolist() == [True, False, True]


def slow_model(path):
    "A minute on a batch: its photos' mean goes through a chain of 400 large products, with which it makes the bias."
    loaded, make, size = onnx.load(tiny_onnx.write(path)), onnx.helper.make_node, 1500
    cast, mean, gemm, softmax = loaded.graph.node
    chain = [make("MatMul", [f"step{number}", "zeros"], [f"step{number + 1}"]) for number in range(400)]
    first = [make("ReduceMax", ["mean"], ["most"], keepdims=0), make("Expand", ["most", "square"], ["step0"])]
    last = [make("ReduceMax", ["step400"], ["nothing"], keepdims=0), make("Add", ["bias", "nothing"], ["biased"])]
    gemm.input[2] = "biased"
    nodes = [cast, mean, *first, *chain, *last, gemm, softmax]
    del loaded.graph.node[:]
    loaded.graph.node.extend(nodes)
    for name, value in {"zeros": np.zeros((size, size), np.float32), "square": np.array([size, size])}.items():
        loaded.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.save(loaded, path)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_an_interrupt_stops_the_model(tmp_path):
    classifier = Classifier(slow_model(tmp_path / "slow.onnx"), "cpu", bs=1, threads=1)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(classifier.stream([tiny_onnx.photo(0)] * 4, workers=2))
    assert time.monotonic() - begun < 5
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


# Batches


@pytest.mark.parametrize(
    ("device", "model_bytes", "crop", "free", "expected"),
    [
        ("cpu", 45_000_000, 224, 16e9, 8),
        ("cpu", 236_000_000, 224, 16e9, 1),
        ("cpu", 45_000_000, 1024, 8e9, 1),  # 0.5 GB an image: 4 batches of one in half of it
        ("cuda", 45_000_000, 224, 60e9, 256),
        ("cuda", 45_000_000, 224, 8e9, 32),  # 26 MB an image: 4 batches of 32 are 3.3 GB, of 64 too much
        ("tensorrt", 45_000_000, 224, 1e6, 1),
    ],
)
def test_bs_auto_is_by_the_model_and_the_memory(monkeypatch, device, model_bytes, crop, free, expected):
    monkeypatch.setattr(batch_size, "free_memory" if device == "cpu" else "free_gpu_memory", lambda: int(free))
    assert choose_bs("auto", device, model_bytes, crop, in_flight=4) == expected
    assert choose_bs(7, device, model_bytes, crop, in_flight=4) == 7


def test_a_batch_that_does_not_fit_into_memory_is_refused_at_the_start(monkeypatch):
    monkeypatch.setattr(batch_size, "free_memory", lambda: 3 * 10 * 4 * 100**2)
    assert choose_bs(10, "cpu", 1, 100, 4) == 10
    message = r"--bs 11: the images of 4 batches take 0.00132 GB, 0.0012 GB are free: give a smaller one, or auto"
    with pytest.raises(ValueError, match=message):
        choose_bs(11, "cpu", 1, 100, 4)


@pytest.mark.parametrize("bs", [0, -1, "0", "many", "1.5", 2.5, ""])
def test_a_batch_of_no_images_is_refused(model, bs):
    with pytest.raises(ValueError, match=rf"--bs {bs}: give auto, or how many images a batch has, at least 1"):
        Classifier(model, "cpu", bs)


# CUDA


def test_a_variant_gives_cuda_its_options_and_the_cpu_none():
    for name, options in CUDA_VARIANTS.items():
        assert providers_of(b"", "cuda", name) == [("CUDAExecutionProvider", options), ("CPUExecutionProvider", {})]
        assert providers_of(b"", "cpu", name) == [("CPUExecutionProvider", {})]


@pytest.mark.parametrize(
    ("precision", "variant"), [("fp16", "nhwc heuristic"), ("fp32", "heuristic"), (None, "heuristic")]
)
def test_the_variant_follows_the_precision_in_the_files_metadata(tmp_path, precision, variant):
    said = {"precision": precision and json.dumps(precision)}
    data = tiny_onnx.write(tmp_path / "model.onnx", metadata=said).read_bytes()
    assert providers_of(data, "cuda")[0] == ("CUDAExecutionProvider", CUDA_VARIANTS[variant])


def test_a_session_may_have_one_size_of_batch(model):
    session = session_of(model.read_bytes(), providers_of(b"", "cpu", "graph"), None, batch=8)
    assert session.get_inputs()[0].shape == [8, 28, 28, 3]


# TensorRT


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_computes_in_the_files_precision_and_keeps_engines_by_file_and_version(precision):
    options = tensorrt_options("a" * 64, precision, 101400)
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (
        str(precision == "fp16"),
        str(precision == "int8"),
    )
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir()
    assert folder.is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert options["trt_timing_cache_path"] == str(folder)
    others = [tensorrt_options("b" * 64, precision, 101400), tensorrt_options("a" * 64, precision, 101500)]
    assert len({str(folder), *(other["trt_engine_cache_path"] for other in others)}) == 3


CUDA_OPTIONS = {item for variant in CUDA_VARIANTS.values() for item in variant.items()}
NAMES = {
    "cuda": {text for name, value in CUDA_OPTIONS for text in (name, value) if not text.isdigit()},
    "tensorrt": set(tensorrt_options("a" * 64, "fp32", 1)),
}


@pytest.mark.parametrize("provider", NAMES)
def test_onnxruntime_knows_the_options_of_its_providers(provider):
    "By the names and the words for values in its library, if this onnxruntime has one."
    library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    if not library.exists():
        pytest.skip(f"this onnxruntime is built without {provider}")
    content = library.read_bytes()
    assert all(name.encode() + b"\0" in content for name in NAMES[provider])


def test_one_array_is_one_photo_and_a_stack_of_them_several(model):
    photos = np.stack([tiny_onnx.photo(seed) for seed in range(3)])
    labels, probabilities = Classifier(model, "cpu")(photos)
    for photo, label, row in zip(photos, labels, probabilities, strict=True):
        (alone,), (figures,) = Classifier(model, "cpu")(photo)
        assert alone == label
        np.testing.assert_allclose(figures, row, rtol=1e-5)
