"""Convert a float32 model to 8 bits: static QDQ, unsigned activations, signed weights with a scale for each channel.

This is the fastest on CPUs with VNNI: on resnet152, signed activations take more than twice the time. Weights use 7 of
the 8 bits: x86 CPUs without VNNI add two products in 16 bits, which larger weights would overflow.
Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from export.convert.layers import WEIGHTY

OPS = (
    "Conv Gemm MatMul Add Mul Relu Clip LeakyRelu Sigmoid MaxPool AveragePool GlobalAveragePool Concat "
    "Reshape Transpose Squeeze Unsqueeze Flatten Slice Split Pad"
).split()
"The operators that onnxruntime's CPU computes, or moves, in 8 bits; others would be float32 between two roundings."

STREAM = ("Add", "Mul")
"""The sums between a transformer's LayerNormalizations stay in float32: on vit_tiny with random weights the logits are
then off by 0.05 of their standard deviation instead of 0.84, and it is faster."""

FLOAT_OUTPUT = ["Gemm", "MatMul"]
"Their outputs stay float32: logits, which would tie if rounded to 256 steps, and what a transformer's blocks add."


def ranges_of(model: Path, images: np.ndarray, bs: int = 8) -> TensorsData:
    "The smallest and largest value of each tensor over `images`, uint8 [n, crop, crop, 3], averaged over batches."
    with tempfile.TemporaryDirectory() as folder, _quiet():
        calibrator = create_calibrator(
            model,
            OPS,
            str(Path(folder) / "ranges.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"moving_average": True},
        )
        calibrator.collect_data(_Batches(images, bs))
        return calibrator.compute_data()


def to_int8(model: onnx.ModelProto, ranges: TensorsData, kept: Iterable[str]) -> onnx.ModelProto:
    """Return the model in 8 bits, with the nodes named in `kept` in float32; inputs and outputs stay as they were.

    The given model is changed and must not be used again.
    """
    kept = {*kept, *_ending_of(model.graph)}
    channels = {node.name: count for node, count in _with_channels(model) if node.name in kept}
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=list(kept),
            op_types_to_quantize=_ops_of(model.graph),
            extra_options={"OpTypesToExcludeOutputQuantization": FLOAT_OUTPUT},
        )
        quantizer.quantize_model()
    _keep_in_float(quantizer.model.model.graph, channels)
    quantizer.model.topological_sort()
    return quantizer.model.model


def _ops_of(graph: onnx.GraphProto) -> list[str]:
    transforms = any(node.op_type == "LayerNormalization" for node in graph.node)
    return [name for name in OPS if not (transforms and name in STREAM)]


def _ending_of(graph: onnx.GraphProto) -> list[str]:
    "The nodes from the last layer on, unless that is a Gemm or MatMul: else the logits would be rounded to 256 steps."
    last = max(index for index, node in enumerate(graph.node) if node.op_type in WEIGHTY)
    return [] if graph.node[last].op_type in FLOAT_OUTPUT else [node.name for node in graph.node[last:]]


def _with_channels(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    "Yield each Conv and Gemm with the length of its input's second axis, by the shape of its weights."
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in shape_inference.infer_shapes(model).graph.value_info:
        shapes.setdefault(value.name, [size.dim_value for size in value.type.tensor_type.shape.dim])
    for node in model.graph.node:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Conv":
            yield node, shapes[node.input[1]][1] * attributes.get("group", 1)
        elif node.op_type == "Gemm":
            yield node, shapes[node.input[1]][1 if attributes.get("transB") else 0]


def _keep_in_float(graph: onnx.GraphProto, channels: dict[str, int]) -> None:
    """Prevent onnxruntime 1.20 and later from converting kept layers between 8-bit tensors to 8 bits when it loads
    them.

    Its WeightBiasQuantization would do so with one scale for all channels: 0.58 instead of 0.02 nats from the float
    model, on mobilenetv2. It skips an input with a scale for each channel; here these scales are all equal. channels:
    the number of input channels of each kept Conv and Gemm, by its name.
    """
    made = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.name in channels and node.input[0] in made:
            scaled, constants = _by_channel(made[node.input[0]], channels[node.name], tensors, node.name)
            node.input[0] = scaled.output[0]
            graph.node.append(scaled)
            graph.initializer.extend(constants)
        graph.node.append(node)


def _by_channel(
    node: onnx.NodeProto, channels: int, tensors: dict[str, onnx.TensorProto], name: str
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    "The same DequantizeLinear, with its scale and zero point repeated for each channel."
    constants = [
        numpy_helper.from_array(np.repeat(numpy_helper.to_array(tensors[constant]), channels), f"{name}/{kind}")
        for constant, kind in zip(node.input[1:], ("scale", "zero_point"), strict=True)
    ]
    inputs = [node.input[0], *(constant.name for constant in constants)]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}/float"], f"{name}/dequantize", axis=1), constants


class _Batches(CalibrationDataReader):
    def __init__(self, images: np.ndarray, bs: int):
        self.batches: Iterator[np.ndarray] = (images[start : start + bs] for start in range(0, len(images), bs))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


@contextmanager
def _quiet() -> Iterator[None]:
    "Silence onnxruntime's advice on preparing the model, which goes to the root logger."
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
