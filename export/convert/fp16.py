"""Convert a float32 model to float16 weights and arithmetic, except for nodes that are kept in float32.

And emulate, on a CPU, the results of a device that computes in float16.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference


def to_half(model: onnx.ModelProto, kept: Iterable[str]) -> onnx.ModelProto:
    """Return the model in float16. Its inputs and outputs, the nodes named in `kept` and those after the logits stay
    float32.

    The given model is changed and must not be used again.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    ends = [node.name for node in model.graph.node if "logits" in node.input or "probabilities" in node.output]
    logger = logging.getLogger("onnxruntime.transformers.float16")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of weights too small for float16; the verification decides
    try:
        model = convert_float_to_float16(model, keep_io_types=True, node_block_list=[*kept, *ends])
    finally:
        logger.setLevel(level)
    _mend(model.graph)
    ordered = ONNXModel(model)
    ordered.topological_sort()
    return ordered.model


def _mend(graph: onnx.GraphProto) -> None:
    """Remove what onnxruntime 1.31's conversion leaves behind: the same cast once for each kept node that reads a
    tensor, casts to float16 and back between two kept nodes, and types that are wrong now.
    """
    casts = [node for node in graph.node if node.op_type == "Cast"]
    wide = {node.output[0]: node.input[0] for node in casts if node.name.endswith("_cast_to_fp16_node")}
    direct = {
        node.output[0]: wide[node.input[0]]
        for node in casts
        if helper.get_node_attr_value(node, "to") == TensorProto.FLOAT and node.input[0] in wide
    }
    ends = {direct[value.name]: value.name for value in graph.output if value.name in direct}
    nodes = {node.output[0]: node for node in graph.node if node.output[0] not in direct}
    for node in nodes.values():
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                name = direct.get(name, name)
                names[index] = ends.get(name, name)
    read = {value.name for value in graph.output}.union(*(node.input for node in nodes.values()))
    del graph.node[:]
    del graph.value_info[:]
    graph.node.extend(node for node in nodes.values() if node.op_type != "Cast" or node.output[0] in read)


@contextmanager
def as_computed(path: Path, precision: str, device: str) -> Iterator[Path]:
    "Yield the file that gives the results of `path` in its own precision: on a CPU, one that emulates float16."
    if (precision, device) != ("fp16", "cpu"):
        yield path
        return
    with TemporaryDirectory() as folder:
        twin = Path(folder) / "emulated.onnx"
        onnx.save(emulated(onnx.load(path)), twin)
        yield twin


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 model with the results of the float16 `model` on a device that computes in float16: each result
    is rounded to float16, and becomes infinite beyond 65504.

    On x86 onnxruntime computes float16 in float32 and drops the casts between nodes: an overflow would not be seen.
    Subgraphs are left as they are; torch's export of timm's models has none.
    """
    kinds = {
        value.name: value.type.tensor_type.elem_type for value in shape_inference.infer_shapes(model).graph.value_info
    }
    nodes, model = list(model.graph.node), _copied(model)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            wide = numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    del model.graph.node[:]
    for node in nodes:
        halves = [name for name in node.output if kinds.get(name) == TensorProto.FLOAT16]
        model.graph.node.extend(_rounded(node, halves))
    del model.graph.value_info[:]
    return model


def _rounded(node: onnx.NodeProto, halves: list[str]) -> list[onnx.NodeProto]:
    "The node in float32, and casts to float16 and back after each of its float16 results."
    node = _copied(node)
    if node.op_type == "Cast":
        if not halves:
            return [node]
        name = node.output[0]
        node.output[0] = f"{name}/half"
        return [node, helper.make_node("Cast", [node.output[0]], [name], f"{name}/wide", to=TensorProto.FLOAT)]
    added = []
    for index, name in enumerate(node.output):
        if name in halves:
            node.output[index] = f"{name}/exact"
            added.append(
                helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], f"{name}/half", to=TensorProto.FLOAT16)
            )
            added.append(helper.make_node("Cast", [f"{name}/half"], [name], f"{name}/wide", to=TensorProto.FLOAT))
    return [node, *added]


def _copied(message):
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
