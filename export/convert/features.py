"""The output `features` of a graph: the input of its linear classifier, after pooling."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from export.convert.layers import WEIGHTY

OF = "input of the linear classifier, after pooling"


def add_features(path: Path) -> int:
    """Add the output `features`, float32 [batch, n], to the float32 model file at `path`. Returns n.

    The classifier is taken to be the last layer: a certificate compares the features with torch's.
    """
    model = onnx.load(path)
    graph = model.graph
    last = [node for node in graph.node if node.op_type in WEIGHTY][-1]
    size = _inputs_of(last, {tensor.name: list(tensor.dims) for tensor in graph.initializer})
    step = "Flatten" if last.op_type == "Conv" else "Identity"  # a convolution takes [batch, n, 1, 1]
    graph.node.append(helper.make_node(step, [last.input[0]], ["features"], "features"))
    logits = next(value for value in graph.output if value.name == "logits")
    batch = logits.type.tensor_type.shape.dim[0].dim_param
    graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, size]))
    onnx.save(model, path)
    return size


def _inputs_of(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    "The number of inputs of a layer, by the shape of its weights."
    shape = shapes[node.input[1]]
    if node.op_type == "Conv":
        return shape[1]
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    return shape[1 if transposed else 0]
