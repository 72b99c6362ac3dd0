"""A float32 model -> 8 bits: static QDQ, unsigned activations, signed weights with a scale for each channel.

So it runs fastest on CPUs with VNNI; measured on resnet152, signed activations take more than twice the time.
Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

OPS = (
    "Conv ConvTranspose Gemm MatMul Add Mul Relu Clip LeakyRelu Sigmoid MaxPool AveragePool GlobalAveragePool Concat "
    "Reshape Transpose Squeeze Unsqueeze Flatten Slice Split Pad"
).split()
"What onnxruntime's CPU computes, or moves, in 8 bits; the rest would be float32 between two roundings."

FLOAT_OUTPUT = ["Gemm"]
"The logits: rounded to 256 steps they would tie."


def ranges_of(model: Path, images: np.ndarray, bs: int = 8) -> TensorsData:
    "The smallest and largest value of each tensor over `images`, uint8 [n, crop, crop, 3]; the mean over batches."
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
    """The model in 8 bits, the nodes named in `kept` in float32; inputs and outputs as they were.

    The model given is used up.
    """
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=list(kept),
            op_types_to_quantize=OPS,
            extra_options={"OpTypesToExcludeOutputQuantization": FLOAT_OUTPUT},
        )
        quantizer.quantize_model()
    _keep_in_float(quantizer.model.model.graph, set(kept))
    quantizer.model.topological_sort()
    return quantizer.model.model


def _keep_in_float(graph: onnx.GraphProto, kept: set[str]) -> None:
    """Keeps onnxruntime, from 1.20 on, from putting the kept layers between 8-bit tensors into 8 bits after all.

    Its WeightBiasQuantization does so on loading, with one scale for all channels: 0.58 instead of 0.02 nats from the
    float model, on mobilenetv2. It passes over an input with a scale for each channel; these are all the same one.
    """
    made = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.name in kept and node.op_type in ("Conv", "ConvTranspose", "Gemm") and node.input[0] in made:
            scaled, constants = _by_channel(
                made[node.input[0]], _channels(node, tensors[node.input[1]]), tensors, node.name
            )
            node.input[0] = scaled.output[0]
            graph.node.append(scaled)
            graph.initializer.extend(constants)
        graph.node.append(node)


def _channels(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    "Of the node's input, the second axis of it."
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Conv":
        return weight.dims[1] * attributes.get("group", 1)
    return weight.dims[1 if attributes.get("transB") else 0]


def _by_channel(
    node: onnx.NodeProto, channels: int, tensors: dict[str, onnx.TensorProto], name: str
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    "The same DequantizeLinear with its scale and zero point once for each channel."
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
    "Without its advice on the model's preparation, by the root logger."
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
