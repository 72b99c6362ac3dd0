"""model.onnx: exported from every family, verified against the run, refused when it does something else."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import cv2
import forked
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import nn

from export.convert.fp16 import emulated, to_half
from export.convert.graph import export_graph, write_metadata
from export.convert.int8 import ranges_of, to_int8
from export.convert.layers import layers_of, nodes_of
from export.convert.model_file import writing
from export.parity.certificate import faults
from export.parity.measure import measured
from export.parity.reference import validation_reference
from export.to_onnx import to_onnx
from toolkit import files
from toolkit import run as runs
from toolkit.data.dataset import find_data
from toolkit.data.preprocess import for_size
from toolkit.models.timm_model import create_model
from toolkit.training.evaluate import evaluate

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = {
    "test_resnet": 64,
    "test_efficientnet": 64,
    "mobilenetv3_small_050": 64,
    "test_convnext": 64,
    "test_vit": 64,
    "swin_tiny_patch4_window7_224": 56,
    "regnetx_002": 64,
    "test_nfnet": 64,
    "test_byobnet": 64,
}


def test_activations_write_in_place_as_before_but_not_while_the_graph_is_made(tmp_path):
    "The exporter takes those apart that do, which is a third of its time for a mobilenetv2."
    seen = []

    class Watched(nn.ReLU6):
        def forward(self, images):
            seen.append(self.inplace)
            return super().forward(images)

    layers = [Watched(inplace=True), Watched(inplace=False)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    export_graph(model, for_size(32), tmp_path / "model.onnx")
    assert seen
    assert not any(seen)
    assert [layer.inplace for layer in layers] == [True, False]
    with pytest.raises(FileNotFoundError):
        export_graph(model, for_size(32), tmp_path / "nowhere" / "model.onnx")
    assert [layer.inplace for layer in layers] == [True, False]


def marks(arch):
    if arch in ("test_resnet", "test_vit"):
        return []
    return pytest.mark.slow if arch.startswith("swin") else pytest.mark.long


@pytest.mark.parametrize("arch", [pytest.param(arch, marks=marks(arch)) for arch in FAMILIES])
def test_a_member_of_each_family_exports_in_each_precision_and_agrees_with_torch_at_any_batch(arch, tmp_path):
    size, path = FAMILIES[arch], tmp_path / "model.onnx"
    torch.manual_seed(0)
    model, preprocess = create_model(arch, 12, "none", image_size=size).eval(), for_size(size)
    export_graph(model, preprocess, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    mean, std = (np.array(preprocess[name]) for name in ("mean", "std"))
    for batch in (1, 3, 17):
        images = np.random.default_rng(batch).integers(0, 256, (batch, size, size, 3), np.uint8)
        logits, probabilities = session.run(["logits", "probabilities"], {"image": images})
        with torch.no_grad():
            expected = model(torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2)).float())
        np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(probabilities, expected.softmax(1).numpy(), rtol=1e-3, atol=1e-4)
    if arch.startswith("swin"):  # half a minute more, for what test_vit has too
        return
    ranges, layers = ranges_of(path, images), layers_of(onnx.load(path))
    half = emulated(to_half(onnx.load(path), []))
    eight = {kept: to_int8(onnx.load(path), ranges, nodes_of(layers, kept)) for kept in ((), (*layers,)[::2])}
    assert error(logits_of(half, images), logits) < 0.01
    assert error(logits_of(eight[()], images), logits) < 0.12  # nfnet's, the worst, 0.110
    assert error(logits_of(eight[(*layers,)[::2]], images), logits) < 0.12
    for lowered in eight.values():
        onnx.checker.check_model(lowered, full_check=True)
        assert lowered.ir_version <= 10  # what onnxruntime 1.18 reads
    weights = {tensor.name: tensor.data_type for tensor in eight[()].graph.initializer}
    made = {node.output[0]: node.input[0] for node in eight[()].graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in eight[()].graph.node if node.op_type == "Conv"]
    assert {weights[made[node.input[1]]] for node in convolutions} == {onnx.TensorProto.INT8}


def logits_of(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0]


def error(found, expected):
    "Root mean square of the difference, as a share of the standard deviation."
    return np.sqrt(np.mean((found - expected) ** 2)) / expected.std()


@pytest.fixture
def run(digits_run):
    return digits_run


def test_the_file_holds_its_certificate_with_the_measurements(run):
    props = {prop.key: json.loads(prop.value) for prop in onnx.load(run.path("model.onnx")).metadata_props}
    own = {"classes", "preprocess", "recipe", "weights_license", "metrics", "calibration", "precision", "verification"}
    assert props.keys() == own
    assert props["classes"] == run.recipe["classes"]
    assert props["preprocess"] == run.recipe["preprocess"]
    said = props["verification"]
    assert (said["device"], said["images"], said["agreement"], said["precision"]) == ("cpu", 270, 1.0, "fp32")
    assert said["probability_difference"] < 1e-4
    assert said["accuracy"] == said["torch_accuracy"]
    assert len(said["worst"]) == 5


def test_the_graph_holds_no_path_of_this_machine(run):
    graph = onnx.load(run.path("model.onnx")).graph
    assert str(Path(__file__).parents[2]).encode() not in graph.SerializeToString()


@pytest.fixture(scope="module")
def reference(digits_run):
    return validation_reference(digits_run)


def faults_of(reference, path):
    return "; ".join(faults(measured(reference, path, "cpu", "fp32", [])))


def damaged(run, tmp_path, **changes):
    "The run's model, exported with another preprocess dict than the run's."
    path = tmp_path / "model.onnx"
    learn = run.learner("cpu")
    export_graph(learn.model.cpu(), run.recipe["preprocess"] | changes, path)
    write_metadata(path, {"classes": run.recipe["classes"], "preprocess": run.recipe["preprocess"]})
    return path


def test_an_undamaged_export_of_the_same_kind_passes(run, reference, tmp_path):
    assert faults_of(reference, damaged(run, tmp_path)) == ""


@pytest.mark.parametrize("change", [{"mean": [0.2, 0.2, 0.2]}, {"std": [0.25, 0.25, 0.25]}])
def test_a_wrong_mean_or_std_is_refused_by_how_much(run, reference, tmp_path, change):
    said = faults_of(reference, damaged(run, tmp_path, **change))
    assert re.search(r"a probability differs by \d\.\de[+-]0\d, at most 1e-03 allowed", said)


def test_swapped_channels_are_refused(run, tmp_path):
    "The graph's first convolution with its input channels turned round, as if the photos were BGR."
    path = damaged(run, tmp_path)
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims)[1:2] == [3])
    turned = np.ascontiguousarray(numpy_helper.to_array(weight)[:, ::-1])
    weight.CopyFrom(numpy_helper.from_array(turned, weight.name))
    onnx.save(model, path)
    coloured = validation_reference(colour(run, tmp_path / "coloured"))
    assert "a probability differs by" in faults_of(coloured, path)
    assert faults_of(coloured, damaged(run, tmp_path)) == ""


def colour(run, folder):
    "The run, its validation photos red instead of grey: on grey ones swapped channels do nothing."
    data = folder / "data"
    shutil.copytree(run.folder, folder / "run")
    shutil.copytree(run.recipe["data"]["path"], data)
    for path in (data / "val").glob("*/*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path)) * np.array([0, 0, 1], np.uint8))
    recipe = json.loads((folder / "run/recipe.json").read_text())
    recipe["data"] |= {"path": str(data), "fingerprint": find_data(data).fingerprint}
    files.write_json(folder / "run/recipe.json", recipe)
    learn = runs.load(folder / "run").learner("cpu")
    evaluate(learn, runs.load(folder / "run"))  # so that the labels recorded are those of the red photos
    return runs.load(folder / "run")


def test_shuffled_classes_are_refused(run, reference, tmp_path):
    path = damaged(run, tmp_path)
    write_metadata(path, {"classes": run.recipe["classes"][::-1]})
    assert re.search(r"same label on \d+\.\d+% of 270 photos, at least 99.90% wanted", faults_of(reference, path))


def test_weights_that_are_not_this_runs_are_refused_though_file_and_torch_agree(run, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(run.folder, other)
    torch.manual_seed(9)
    save_file(create_model("test_resnet", 10, "none", image_size=32).state_dict(), other / "best.safetensors")
    before = (other / "model.onnx").read_bytes()
    with pytest.raises(ValueError, match="best.safetensors or recipe.json is not this run's"):
        to_onnx(other, device="cpu")
    assert (other / "model.onnx").read_bytes() == before


def test_no_photos_to_verify_on_is_an_error_and_no_file(run, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(run.folder, other)
    (other / "model.onnx").unlink()
    recipe = json.loads((other / "recipe.json").read_text())
    recipe["data"]["path"] = str(tmp_path / "gone")
    files.write_json(other / "recipe.json", recipe)
    with pytest.raises(FileNotFoundError, match="bring them back"):
        to_onnx(other, device="cpu")
    assert not (other / "model.onnx").exists()


def test_a_run_without_weights_yet_is_an_error(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run/best.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has not finished its first epoch"):
        to_onnx(tmp_path / "run", device="cpu")


@pytest.mark.parametrize("name", ["best.safetensors", "recipe.json", "link.onnx", "pipe.onnx"])
def test_a_file_that_no_export_wrote_is_not_replaced(run, tmp_path, name):
    other = tmp_path / "run"
    shutil.copytree(run.folder, other)
    (other / "link.onnx").symlink_to("best.safetensors")
    os.mkfifo(other / "pipe.onnx")
    before = {path.name: path.read_bytes() for path in other.iterdir() if path.is_file()}
    with pytest.raises(FileExistsError, match=f"{name} is (a file that no export wrote.*: give FILE.onnx|no regular)"):
        to_onnx(other, other / name, device="cpu")
    assert {path.name: path.read_bytes() for path in other.iterdir() if path.is_file()} == before


KILLED = """
import os, signal, sys
from export import to_onnx
to_onnx.lower = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
to_onnx.to_onnx(sys.argv[1], sys.argv[2], "int8", "cpu", 20)
"""


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_the_next_export_removes_only_half_written_files_of_a_killed_one(run, tmp_path):
    out, others = tmp_path / "m.onnx", [".m.onnx.abc", ".n.onnx.abcd1234"]
    for name in others:
        (tmp_path / name).write_text("another's")
    arguments = [sys.executable, "-c", KILLED, run.folder, out]
    assert forked.run(arguments, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    left = [path for path in tmp_path.glob(".m.onnx.????????") if path.stat().st_size > 10_000]
    assert len(left) == 1
    to_onnx(run.folder, out, device="cpu", images=20)
    assert sorted(os.listdir(tmp_path)) == sorted(["m.onnx", *others])


def test_a_resumed_run_leaves_a_running_export_alone_and_a_second_export_is_refused(run, tmp_path):
    with writing(tmp_path / "m.onnx") as beside:
        runs.lock(tmp_path).release()
        assert beside.exists()
        with pytest.raises(FileExistsError, match="m.onnx is being written by another process: give another --out"):
            to_onnx(run.folder, tmp_path / "m.onnx", device="cpu", images=20)
    assert sorted(os.listdir(tmp_path)) == [".lock", "m.onnx"]


def test_damaged_weights_are_an_error_that_names_the_file(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run/best.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match="best.safetensors does not hold this model's weights"):
        to_onnx(tmp_path / "run", device="cpu")


def test_an_unknown_precision_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="unknown precision 'bf16': choose one of fp32, fp16, int8"):
        to_onnx(tmp_path / "nowhere", precision="bf16", device="cpu")
