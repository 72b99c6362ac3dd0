"""float16 and 8 bits: what is in the files, which layers stay in float32, and when nothing is written."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file, save_file

from export.convert.fp16 import emulated, to_half
from export.convert.int8 import ranges_of, to_int8
from export.convert.layers import costliest_first, layers_of, nodes_of
from export.convert.mixed_precision import lower
from export.parity.certificate import BUDGETS, for_search
from export.parity.measure import measured
from export.parity.reference import prepared_all, training_reference
from export.to_onnx import to_onnx
from export.verify import verify
from toolkit import run as runs
from toolkit.models.timm_model import create_model

NONE = {"agreement": 0.0, "probability": 1.0, "accuracy_loss": 1.0}


@pytest.fixture
def run(digits_run):
    return digits_run


@pytest.fixture(scope="module")
def files(digits_run, tmp_path_factory):
    "The run's model.onnx in each precision."
    folder = tmp_path_factory.mktemp("files")
    lowered = {kind: to_onnx(digits_run.folder, folder / f"{kind}.onnx", kind, "cpu") for kind in ("fp16", "int8")}
    return {"fp32": digits_run.path("model.onnx"), **lowered}


def logits_of(model, images):
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0]


def pixels(size, count=16):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_float16_has_half_the_weight_and_the_same_inputs_and_outputs(files):
    model = onnx.load(files["fp16"])
    kinds = {tensor.data_type for tensor in model.graph.initializer if np.prod(tensor.dims) > 8}
    assert kinds == {TensorProto.FLOAT16}
    assert files["fp16"].stat().st_size < 0.6 * files["fp32"].stat().st_size
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [TensorProto.UINT8]
    assert [value.type.tensor_type.elem_type for value in model.graph.output] == [TensorProto.FLOAT] * 2
    session = onnxruntime.InferenceSession(files["fp16"], providers=["CPUExecutionProvider"])
    sums = session.run(["probabilities"], {"image": pixels(32)})[0].sum(1)
    np.testing.assert_allclose(sums, 1, atol=1e-6)  # in float16 they would be 1e-3 off


def test_8_bits_are_unsigned_activations_and_signed_weights_with_a_scale_for_each_channel(files):
    graph = onnx.load(files["int8"]).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {tensors[node.input[2]].dtype for node in quantized} == {np.dtype(np.uint8)}
    scales = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 5
    for node in convolutions:
        weight = scales[node.input[1]]
        assert tensors[weight.input[0]].dtype == np.int8
        assert np.abs(tensors[weight.input[0]].astype(int)).max() <= 64  # else two products overflow 16 bits
        assert tensors[weight.input[1]].shape == (tensors[weight.input[0]].shape[0],)
    assert files["int8"].stat().st_size < 0.5 * files["fp32"].stat().st_size


def test_the_certificate_names_the_precision_and_how_it_was_computed(files):
    said = {kind: json.loads(metadata(path)["verification"]) for kind, path in files.items()}
    assert {kind: one["precision"] for kind, one in said.items()} == {kind: kind for kind in files}
    assert {kind: one["arithmetic"] for kind, one in said.items()} == {
        "fp32": "cpu",
        "fp16": "cpu, fp16 emulated",
        "int8": "cpu",
    }
    assert said["fp16"]["agreement"] >= 0.999
    assert said["int8"]["agreement"] >= 0.99
    assert said["int8"]["torch_accuracy"] - said["int8"]["accuracy"] <= 0.005


def metadata(path):
    return {prop.key: prop.value for prop in onnx.load(path).metadata_props}


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_a_file_of_less_precision_is_verified_again(digits_run, files, kind, capsys):
    data = digits_run.recipe["data"]["path"]
    said = verify(files[kind], data, digits_run.folder, "cpu")
    inside = json.loads(metadata(files[kind])["verification"])
    assert (said["agreement"], said["accuracy"]) == (inside["agreement"], inside["accuracy"])
    assert said["arithmetic"] == ("cpu, fp16 emulated" if kind == "fp16" else "cpu")
    assert f"{kind} on 270 labelled photos" in capsys.readouterr().out


def test_8_bits_are_calibrated_on_training_photos_drawn_by_the_seed(digits_run):
    train = digits_run.learner("cpu").dls.data.train
    of_train = {image.tobytes() for image in prepared_all(train, digits_run.recipe["preprocess"])}
    drawn = training_reference(digits_run, 40).images
    assert len(drawn) == 40
    assert {image.tobytes() for image in drawn} <= of_train
    first = {image.tobytes() for image in prepared_all([*train][:40], digits_run.recipe["preprocess"])}
    assert {image.tobytes() for image in drawn} != first
    np.testing.assert_array_equal(training_reference(digits_run, 90).images[:40], drawn)


# float16 on a CPU


def chain(factors):
    "uint8 image -> its mean colour times each factor in turn, as 1 x 1 convolutions -> logits, probabilities."
    nodes, last = [helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT)], "moved"
    nodes.append(helper.make_node("Transpose", ["float"], ["moved"], "transpose", perm=[0, 3, 1, 2]))
    for number in range(len(factors)):
        nodes.append(helper.make_node("Conv", [last, f"w{number}.weight"], [f"conv{number}"], f"node{number}"))
        last = f"conv{number}"
    nodes.append(helper.make_node("ReduceMean", [last, "axes"], ["logits"], "mean", keepdims=0))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax"))
    weights = [np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1) * factor for factor in factors]
    tensors = [numpy_helper.from_array(weight, f"w{number}.weight") for number, weight in enumerate(weights)]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 2, 2, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("logits", "probabilities")
    ]
    graph = helper.make_graph(
        nodes, "chain", [image], outputs, [*tensors, numpy_helper.from_array(np.array([2, 3]), "axes")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("factors", [(0.37, 1.9, 0.7), (300, 300, 1e-5)], ids=["within range", "overflow"])
def test_the_emulation_gives_what_onnx_itself_computes_in_float16(factors):
    "onnxruntime on x86 computes in float32 and lets an overflow pass; onnx's reference implementation does not."
    half, images = to_half(chain(factors), []), pixels(2, 4)
    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(half).run(["logits"], {"image": images})[0]
    np.testing.assert_allclose(logits_of(emulated(half), images), expected, rtol=2e-3)
    if factors[0] == 300:
        assert not np.isfinite(expected).any()
        assert np.isfinite(logits_of(half, images)).all(), "onnxruntime has learnt it: the emulation can go"


def test_a_kept_node_that_reads_what_was_an_integer_is_float32():
    "Casts that were in the model are no casts between float32 and float16."
    model = chain((1.0, 2.0))
    counted = helper.make_node("Cast", ["float"], ["counted"], "to integer", to=TensorProto.INT64)
    back = helper.make_node("Cast", ["counted"], ["again"], "from integer", to=TensorProto.FLOAT)
    model.graph.node[1].input[0] = "again"
    nodes = [model.graph.node[0], counted, back, *model.graph.node[1:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    half = to_half(model, ["transpose", "node0"])
    onnx.checker.check_model(half, full_check=True)
    images = pixels(2, 4)
    np.testing.assert_allclose(logits_of(half, images), 2 * images.mean((1, 2)), rtol=1e-3)


def scaled(run, folder, names, factor):
    """The run with the outputs of these batch norms times `factor` and the next convolution's weights divided by it:
    in float32 the same function, as ReLU lies between.
    """
    shutil.copytree(run.folder, folder)
    state = load_file(folder / "best.safetensors")
    for norm, after in names.items():
        for part in ("weight", "bias"):
            state[f"{norm}.{part}"] *= factor
        state[f"{after}.weight"] /= factor
    save_file(state, folder / "best.safetensors")
    return runs.load(folder)


@pytest.mark.long
def test_layers_that_overflow_in_float16_are_found_and_kept_in_float32(run, tmp_path):
    large = scaled(run, tmp_path / "run", {"layer1.0.bn1": "layer1.0.conv2"}, 2.0**20)
    path = to_onnx(large.folder, precision="fp16", device="cpu")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    said = json.loads(metadata(path)["verification"])
    assert set(said["kept"]) == {"layer1.0.conv1", "layer1.0.conv2"}
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert kinds["model.layer1.0.conv1.weight"] == kinds["model.layer1.0.conv2.weight"] == TensorProto.FLOAT
    assert kinds["model.layer2.0.conv1.weight"] == TensorProto.FLOAT16


# Layers in 8 bits


def test_a_layer_kept_in_float32_stays_there_when_onnxruntime_optimises(run, files, tmp_path):
    "From 1.20 on it puts a float convolution between 8-bit tensors into 8 bits by itself."
    path = files["fp32"]
    images = pixels(32)
    layers = layers_of(onnx.load(path))
    kept = "layer2.0.conv1"
    onnx.save(to_int8(onnx.load(path), ranges_of(path, images), layers[kept]), tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert sum(kind.endswith("Conv") and "QLinear" not in kind for kind in kinds) == 1
    assert kinds.count("QLinearConv") == len([name for name in layers if "conv" in name or "downsample" in name]) - 1


def lopsided(run, folder):
    "The run with two channels of its first layer 300 times the others: 256 steps are too few for both."
    shutil.copytree(run.folder, folder)
    state = load_file(folder / "best.safetensors")
    for part in ("weight", "bias"):
        state[f"conv1.1.{part}"][:2] *= 300
    state["conv1.3.weight"][:, :2] /= 300
    save_file(state, folder / "best.safetensors")
    return runs.load(folder)


@pytest.mark.long
def test_layers_that_hurt_in_8_bits_are_found_and_kept_in_float32(run, tmp_path, capsys):
    path = to_onnx(lopsided(run, tmp_path / "run").folder, precision="int8", device="cpu")
    said = json.loads(metadata(path)["verification"])
    assert {"conv1.0", "conv1.3"} <= set(said["kept"])
    assert len(said["kept"]) <= 4
    assert said["agreement"] >= 0.99
    printed = capsys.readouterr()
    assert f"kept in float32     {', '.join(said['kept'])}" in printed.out
    assert "int8: conv1.0 in float32:" in printed.err


@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=pytest.mark.long)])
def test_layers_are_searched_on_training_photos_and_certified_on_validation_photos(
    run, tmp_path, precision, monkeypatch
):
    data, judged = run.learner("cpu").dls.data, []
    parts = {"train": set(map(data.relative, data.train)), "valid": set(map(data.relative, data.valid))}

    def noted(reference, path, device, of, kept, promise=0):
        found = measured(reference, path, device, of, kept, promise)
        (part,) = [name for name, photos in parts.items() if set(reference.names) <= photos]
        judged.append((of, part, len(reference.names)))
        return found

    monkeypatch.setattr("export.to_onnx.measured", noted)
    to_onnx(lopsided(run, tmp_path / "run").folder, precision=precision, device="cpu", images=200)
    assert judged[0] == ("fp32", "valid", 200)
    assert judged[-1] == (precision, "valid", 200)
    assert set(judged[1:-1]) == {(precision, "train", 200)}


@pytest.mark.long
def test_a_file_that_only_training_photos_find_good_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "export.to_onnx.for_search", lambda certificate: certificate | {"not_finite": 0, "budget": NONE}
    )
    path = tmp_path / "int8.onnx"
    said = "int8 is over its budget on validation photos, which the search .*; give fp16, or leave --precision out"
    with pytest.raises(ValueError, match=said):
        to_onnx(lopsided(run, tmp_path / "run").folder, path, "int8", "cpu")
    assert not path.exists()


def test_the_search_lets_half_as_many_labels_and_half_as_much_accuracy_be_lost():
    found = for_search({"budget": BUDGETS["int8", "cpu"], "agreement": 0.9935})["budget"]
    assert found == {"agreement": pytest.approx(0.995), "accuracy_loss": pytest.approx(0.0025), "probability": 1.0}


def test_if_half_of_the_layers_are_not_enough_the_file_stays_and_the_worst_are_named(files, tmp_path):
    path = tmp_path / "model.onnx"
    shutil.copy(files["fp32"], path)
    message = r"int8 is over its budget, no file is written: with 8 of 16 layers in float32 still not good enough\n.*: "
    with pytest.raises(ValueError, match=message) as raised:
        lower(path, "int8", "cpu", pixels(32), lambda candidate, kept: ["not good enough"])
    assert path.read_bytes() == files["fp32"].read_bytes()
    worst = [name.split(" (")[0] for name in str(raised.value).splitlines()[1].split(": ")[1].split(", ")]
    assert set(worst) <= set(layers_of(onnx.load(path)))


@pytest.mark.parametrize("costs", [{"c": 5.0, "k": 3.0}, {"a": float("inf"), "p": 2.0}])
def test_the_costliest_layers_come_first_after_few_measurements(costs):
    layers, measured = list("abcdefghijklmnop"), []

    def damage(group):
        measured.append(group)
        return sum(costs.get(name, 0.001) for name in group)

    found = costliest_first(layers, damage)
    assert [next(found) for _ in costs] == sorted(costs.items(), key=lambda pair: -pair[1])
    assert len(measured) < len(layers)
    assert sorted(name for name, _ in found) == sorted(set(layers) - set(costs))


def test_layers_have_the_names_of_torchs_modules_and_all_nodes_after_the_first(files):
    model = onnx.load(files["fp32"])
    layers, names = layers_of(model), [node.name for node in model.graph.node]
    modules = dict(create_model("test_resnet", 10, "none", image_size=32).named_modules())
    assert set(layers) <= set(modules)
    first = names.index(next(iter(layers.values()))[0])
    assert sorted(nodes_of(layers, layers)) == sorted(names[first:])


def test_a_file_within_its_budget_at_once_keeps_no_layer(run, files, tmp_path):
    path = tmp_path / "model.onnx"
    shutil.copy(files["fp32"], path)
    asked = []
    assert lower(path, "int8", "cpu", pixels(32), lambda candidate, kept: asked.append(kept) or []) == {}
    assert asked == [[]]
