"""What only a GPU can show: `pytest -m gpu`. Skipped without one."""

import contextlib
import gc

import pytest
import torch
from fastai.callback.core import Callback
from here import here

from export.runtime.providers import obstacle
from recipes import digits, hw1, rapid
from toolkit.training.begin import begin
from toolkit.training.evaluate import evaluate
from toolkit.training.fit import fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(60),  # its report names the test and where it stood
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, which this machine lacks"),
]


TF32 = 1e-2
"""The bound of a probability's error. TF32 rounds factors to 10 bits, which changes the tiny model's by 5.2e-3 on
2,000 of its photos, computed by numpy with factors so rounded."""


@pytest.fixture
def onnxruntime_on_cuda():
    if reason := obstacle("cuda"):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("digits") / "data"


def test_fp16_training_on_cuda_learns_and_steps_with_finite_weights(data):
    learn = digits.learner(data, device="cuda", precision="auto")
    assert learn.precision == "fp16"
    with learn.no_bar(), learn.no_logging():
        learn.fit(8)
    assert learn.recorder.values[-1][2] > 0.95
    assert all(weight.isfinite().all() and weight.is_cuda for weight in learn.model.parameters())


@pytest.mark.parametrize(
    ("recipe", "precision", "workers", "graphs"),
    [
        ("digits", "fp16", 0, False),
        ("digits", "fp16", 2, False),
        ("digits", "bf16", 0, False),
        ("digits", "fp32", 0, False),
        ("rapid", "fp16", 2, False),
        ("rapid", "fp16", 2, True),
    ],
)
def test_the_training_loop_never_waits_for_the_device(data, tmp_path, recipe, precision, workers, graphs):
    "From before an epoch's first batch to after its last: transfers, the loss scaler and a run's callbacks included."
    from toolkit.finetuning.frozen_batch_norm import FrozenBatchNorm
    from toolkit.learner.guards import NaNGuard
    from toolkit.learner.profiler import Profile
    from toolkit.run import Run
    from toolkit.training.checkpoint import Checkpoint

    class Refuse(Callback):
        order = 200

        def before_train(self):
            torch.cuda.set_sync_debug_mode("error")

    class Allow(Callback):
        order = -200

        def after_train(self):
            torch.cuda.set_sync_debug_mode("default")

    made = {"device": "cuda", "precision": precision, "workers": workers, "accum": 2, "cuda_graphs": graphs}
    learn = digits.learner(data, **made)  # it writes the digits
    if recipe == "rapid":
        small = {"arch": "test_resnet", "weights": "none", "image_size": 32, "probe": False, "layer_decay": 0.8}
        learn = rapid.learner(data, **small, **made)
        learn.add_cb(FrozenBatchNorm())
    try:
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, cbs=[NaNGuard(), Checkpoint(Run(tmp_path), 1), Profile(), Refuse(), Allow()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(learn.recorder.losses) == len(learn.dls.train)


def test_torchs_flags_are_set_for_a_fit_and_put_back(data):
    class Look(Callback):
        def before_batch(self):
            self.seen = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    for exact, within in ((False, ("high", False)), (True, ("highest", False))):
        look = Look()
        with (learn := digits.learner(data, device="cuda", exact=exact)).no_bar(), learn.no_logging():
            learn.fit(1, cbs=look)
        assert look.seen == within
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == before


def test_exact_training_on_cuda_is_the_same_to_the_bit_twice(data):
    weights = []
    for _ in range(2):
        learn = digits.learner(data, device="cuda", precision="fp32", exact=True)
        with learn.no_bar(), learn.no_logging():
            learn.fit(2)
        weights.append([weight.detach().cpu() for weight in learn.model.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("accum", [1, 2])
def test_training_by_cuda_graphs_has_the_bits_of_training(data, accum, capsys):
    weights = []
    for graphs in (False, True):
        made = {"precision": "fp32", "exact": True, "accum": accum, "workers": 4}  # a thread pins batches meanwhile
        learn = digits.learner(data, device="cuda", cuda_graphs=graphs, **made)
        with learn.no_bar(), learn.no_logging():
            learn.fit(2)
        weights.append([weight.detach().cpu() for weight in [*learn.model.parameters(), *learn.model.buffers()]])
    assert capsys.readouterr().out.count("recorded in") == 1
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext", "test_efficientnet"])
def test_other_networks_train_by_cuda_graphs_in_fp16(data, arch):
    digits.learner(data, device="cpu")  # writes the photos
    made = {"arch": arch, "weights": "none", "image_size": 160, "bs": 32, "lr": 1e-3, "device": "cuda"}
    losses = []
    for graphs in (False, True):
        torch.manual_seed(0)
        learn = hw1.learner(data, cuda_graphs=graphs, **made)
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
        losses.append(torch.stack(list(learn.recorder.losses)).float())
    torch.testing.assert_close(losses[1][:8], losses[0][:8], rtol=0.05, atol=0.05)  # TF32 and atomics add up later
    assert losses[1].isfinite().all()


def test_a_file_verified_on_cuda_runs_there_and_one_of_a_cpu_says_the_same(data, tmp_path, onnxruntime_on_cuda):
    from export.session import Classifier
    from export.to_onnx import to_onnx
    from export.verify import verify
    from toolkit import run

    learn = digits.learner(data, device="cuda")
    begun = begin(tmp_path / "run", learn)
    fit(learn, begun, 2)
    evaluate(learn, begun)
    to_onnx(tmp_path / "run", device="cuda")
    assert Classifier(tmp_path / "run/model.onnx", "cuda").device == "cuda"
    assert run.load(tmp_path / "run").path("model.onnx").is_file()
    exported = to_onnx(tmp_path / "run", tmp_path / "of_cpu.onnx", device="cpu")
    certificate = verify(exported, data, tmp_path / "run", device="cuda")
    assert certificate["device"] == "cuda"
    assert certificate["agreement"] >= 0.99  # the budget in TF32


def begun(data, out, **changed):
    "(run, learner) of the digits on the GPU."
    options = {
        "loss": "ce",
        "arch": "test_resnet",
        "bs": 64,
        "accum": 1,
        "lr": 4e-3,
        "seed": 0,
        "image_size": 32,
    } | changed
    learn = digits.learner(data, device="cuda", **options)
    return begin(out, learn), learn


@pytest.mark.parametrize("graphs", [False, True])
def test_where_memory_runs_out_the_batch_is_halved_and_training_goes_on(data, tmp_path, graphs):
    """resnet18 keeps about 25 MB a photo of 224 pixels for its backward pass: 6 GB for 256 of them, and 3 are allowed.
    A graph keeps the memory of a step beside that of short batches.
    """
    run, learn = begun(data, tmp_path / "run", arch="resnet18", image_size=224, bs=256, cuda_graphs=graphs)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(3 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    try:
        fit(learn, run, 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert learn.dls.train.bs < 256
    assert learn.dls.train.bs * learn.accumulate.n == 256
    assert run.path("best.safetensors").is_file()


def test_a_loss_that_is_not_finite_on_cuda_ends_the_run_by_the_end_of_its_epoch(data, tmp_path):
    run, learn = begun(data, tmp_path / "run")
    calls = []

    def forward(x, forward=learn.model.forward):
        calls.append(len(x))
        return forward(x) * (float("nan") if len(calls) == 5 else 1.0)

    learn.model.forward = forward
    with pytest.raises(ValueError, match="the loss is not finite in epoch 1, step 5: .*\nits photos: "):
        fit(learn, run, 1)
    assert not run.path("last.pt").exists()


class Garbage(Callback):
    "Leaves cycles of garbage that hold pinned memory and memory of the GPU, as an exception's traceback does."

    def after_batch(self):
        cycle = {"pinned": torch.zeros(8).pin_memory(), "batch": self.xb, "loss": self.loss}
        cycle["itself"] = cycle


def test_sixteen_workers_survive_passes_that_leave_garbage_of_cuda(data):
    learn = digits.learner(data, device="cuda", workers=16, bs=64)
    for _ in range(2):
        with learn.no_bar(), learn.no_logging():
            learn.fit(3, cbs=Garbage())
        assert len(learn.recorder.losses) == 3 * len(learn.dls.train)
        for _ in range(2):  # without a fit workers are forked for each pass
            assert sum(len(labels) for _, labels in learn.dls.train) == learn.dls.train.n
    gc.collect()


def test_an_exact_run_resumed_inside_an_epoch_on_cuda_has_the_same_bits(data, tmp_path):
    class Interrupt(Callback):
        order = 90

        def after_batch(self):
            if self.training and self.epoch == 1 and self.iter == 8:
                raise KeyboardInterrupt

    exact = {"exact": True, "precision": "fp32"}
    whole, learn = begun(data, tmp_path / "whole", **exact)
    fit(learn, whole, 3)
    run, learn = begun(data, tmp_path / "run", **exact)
    learn.add_cb(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        fit(learn, run, 3, save_every=3)
    resumed, again = begun(data, tmp_path / "run", **exact)
    fit(again, resumed, 3)
    states = [torch.load(folder.path("last.pt"), weights_only=True) for folder in (whole, run)]
    assert [row[:4] for row in states[0]["history"]] == [row[:4] for row in states[1]["history"]]  # but lr and seconds
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name


def test_every_auto_the_cache_and_the_profile_run_on_cuda(data, tmp_path, capsys, onnxruntime_on_cuda):
    digits.learner(data, device="cpu")  # writes the photos
    options = "--arch test_resnet --weights none --image_size 32 --epochs 2 --device cuda --profile"
    status = here("--data", data, "--out", tmp_path / "run", *options.split(), "--cache", tmp_path / "cache",
                  "--bs", "auto", "--lr", "auto", "--workers", "auto")  # fmt: skip
    said = capsys.readouterr()
    assert status == 0, said.err
    expected = "--bs auto: ", "--workers auto: ", "--lr auto: ", "waiting for photos", "bound by ", "on cuda in fp16"
    for words in expected:
        assert words in said.out


def test_the_learner_of_hw1_names_the_precision_it_chose_on_cuda(data):
    digits.learner(data, device="cpu")  # writes the photos
    learn = hw1.learner(data, arch="test_resnet", weights="none", image_size=32, device="auto")
    assert (learn.dls.device.type, learn.precision) == ("cuda", "fp16")


def photo_files(folder, count):
    import tiny_onnx
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        Image.fromarray(tiny_onnx.photo(number)).save(folder / f"{number}.png")
    (folder / f"{count // 2}.png").write_bytes(b"no photo")
    return folder


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
@pytest.mark.parametrize(("tta", "processes"), [("none", False), ("flip", False), ("none", True)])
def test_a_stream_through_pinned_and_bound_buffers_is_that_of_the_cpu(
    tmp_path, device, tta, processes, onnxruntime_on_cuda
):
    import numpy as np
    import tiny_onnx

    from export.reading.readers import Readers
    from export.session import Classifier

    if device == "tensorrt" and (reason := obstacle(device)):
        pytest.skip(reason)
    model, photos = tiny_onnx.write(tmp_path / "model.onnx"), photo_files(tmp_path / "photos", 101)
    paths = [photos / f"{number}.png" for number in range(101)]
    expected = list(Classifier(model, "cpu").stream(paths, workers=2))
    for bs, workers in ((8, 4), (32, 1), (256, 16)):
        with contextlib.closing(Readers(workers)) if processes else contextlib.nullcontext() as readers:
            answers = list(Classifier(model, device, bs, tta=tta).stream(paths, workers, readers=readers))
        for answer, wanted in zip(answers, expected, strict=True):
            if isinstance(wanted, Exception):
                assert str(answer) == str(wanted)
            else:
                assert answer[0] == wanted[0]
                np.testing.assert_allclose(answer[1], wanted[1], atol=TF32)


def test_bs_auto_fills_a_gpu_and_predict_says_so(tmp_path, capsys, onnxruntime_on_cuda):
    import tiny_onnx

    from export.predict import predict

    model, photos = tiny_onnx.write(tmp_path / "model.onnx"), photo_files(tmp_path / "photos", 20)
    unread = predict(model, photos, tmp_path / "p.csv", "cuda")
    assert [name for name, _, _ in unread] == ["10"]
    assert "bs auto: 256\n" in capsys.readouterr().err


def test_pinned_memory_is_given_back_with_its_array():
    from pathlib import Path

    from export.runtime.cuda import pinned

    def address_space():
        return int(Path("/proc/self/status").read_text().partition("VmSize:")[2].split()[0]) * 1024

    pinned((1,))
    before = address_space()
    for _ in range(32):
        array = pinned((64, 2**20))  # 2 GiB in all, if they were kept
        assert array.shape == (64, 2**20)
        assert not array.any()
    del array
    assert address_space() - before < 2**29


def test_tensorrt_keeps_its_engines(tmp_path, monkeypatch):
    import tiny_onnx

    from export.session import Classifier

    if reason := obstacle("tensorrt"):
        pytest.skip(reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = tiny_onnx.write(tmp_path / "model.onnx")
    Classifier(model, "tensorrt", bs=8)([tiny_onnx.photo(0)])
    engines = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.engine")}
    Classifier(model, "tensorrt", bs=8)([tiny_onnx.photo(0)])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.engine")} == engines != {}


@pytest.mark.parametrize("processes", [False, True])
def test_an_ensemble_on_cuda_labels_as_on_a_cpu(tmp_path, processes, onnxruntime_on_cuda):
    import numpy as np
    import tiny_onnx

    from export.ensemble import Ensemble
    from export.reading.readers import Readers

    models = [tiny_onnx.write(tmp_path / f"{seed}.onnx", seed=seed) for seed in range(2)]
    paths = sorted(photo_files(tmp_path / "photos", 40).iterdir())
    expected = list(Ensemble(models, "cpu").stream(paths, workers=2))
    with contextlib.closing(Readers(4)) if processes else contextlib.nullcontext() as readers:
        answers = list(Ensemble(models, "cuda", 16).stream(paths, 4, readers=readers))
    for answer, wanted in zip(answers, expected, strict=True):
        if isinstance(wanted, Exception):
            assert str(answer) == str(wanted)
        else:
            assert answer[0] == wanted[0]
            np.testing.assert_allclose(answer[1], wanted[1], atol=TF32)


@pytest.mark.parametrize("processes", [False, True])
def test_features_on_cuda_are_those_of_the_cpu(tmp_path, processes, onnxruntime_on_cuda):
    import numpy as np
    import tiny_onnx

    from export.reading.readers import Readers
    from export.session import Classifier

    model = tiny_onnx.write(tmp_path / "model.onnx", features=True)
    paths = [path for path in photo_files(tmp_path / "photos", 40).iterdir() if path.stem != "20"]
    expected = list(Classifier(model, "cpu", features=True).stream(paths, workers=2))
    with contextlib.closing(Readers(4)) if processes else contextlib.nullcontext() as readers:
        answers = list(Classifier(model, "cuda", 16, features=True).stream(paths, 4, readers=readers))
    for (_, _, features), (_, _, wanted) in zip(answers, expected, strict=True):
        np.testing.assert_allclose(features, wanted, rtol=1e-5)


def test_a_service_on_cuda_answers_as_one_photo_at_a_time_on_a_cpu(tmp_path, onnxruntime_on_cuda):
    from concurrent.futures import ThreadPoolExecutor

    import service
    import tiny_onnx

    from export.session import Classifier

    model = tiny_onnx.write(tmp_path / "model.onnx")
    photos = [path for path in photo_files(tmp_path / "photos", 40).iterdir() if path.stem != "20"]
    labels, probabilities = Classifier(model, "cpu")(photos)
    with service.started(model, device="cuda") as running, ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda photo: service.ask(running.port, "/predict", photo.read_bytes()), photos))
    for answer, label, row in zip(answers, labels, probabilities, strict=True):
        assert answer.status == 200, answer.body
        (found,) = answer.json["predictions"]
        assert found["label"] == label
        assert found["confidence"] == pytest.approx(row.max(), abs=TF32)


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_heatmaps_on_cuda_are_those_of_the_cpu(arch):
    import timm

    from toolkit.features.heatmaps.layer_cam import layer_cam
    from toolkit.features.heatmaps.layers import heatmap_layer
    from toolkit.learner.performance import cudnn_flags

    torch.manual_seed(0)
    model, images = timm.create_model(arch, num_classes=3).eval(), torch.randn(4, 3, 160, 160)
    layer, classes = heatmap_layer(model, 160), torch.tensor([0, 1, 2, 0])
    _, expected = layer_cam(model, images, layer, classes)
    with cudnn_flags(torch.device("cuda"), exact=True):
        _, heatmaps = layer_cam(model.cuda(), images.cuda(), layer, classes.cuda())
    torch.testing.assert_close(heatmaps.cpu(), expected, rtol=0, atol=1e-3)


def test_rapid_within_minutes_on_cuda_writes_every_file(data, tmp_path, capsys, onnxruntime_on_cuda):
    digits.learner(data, device="cpu")  # writes the photos
    options = "--arch test_resnet --weights none --image_size 32 --device cuda --minutes 0.3 --promise 0.9"
    status = here("--data", data, "--out", tmp_path / "run", *options.split(), recipe=rapid)
    said = capsys.readouterr()
    assert status == 0, said.err
    assert "on cuda in fp16" in said.out
    assert "--minutes 0.3: " in said.out
    for name in ("report.html", "model.onnx", "predictions.csv", "heatmaps.json"):
        assert (tmp_path / "run" / name).is_file()


def test_a_probe_before_the_first_fit_has_its_class_weights_on_the_gpu(data, tmp_path):
    digits.learner(data, device="cpu")  # writes the photos
    options = {"arch": "test_resnet", "image_size": 32, "device": "cuda", "class_weights": "balanced"}
    torch.save(rapid.learner(data, weights="none", **options).model.state_dict(), tmp_path / "weights.pth")
    learn = rapid.learner(data, weights=str(tmp_path / "weights.pth"), **options)
    found, _ = learn.probe.probed()
    assert found["held_out"] > 0.5
