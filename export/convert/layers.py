"""Which layers a network can't have in half precision or 8 bits: found by measuring, kept in float32.

A layer is a Conv, Gemm or MatMul with the nodes that follow it, up to the next one.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import onnx

WEIGHTY = ("Conv", "Gemm", "MatMul")
"Where nearly all of the time goes; each begins a layer."

Layers = dict[str, list[str]]
"Names of nodes by layer, in the order they run; layers are named as torch's modules are."


def layers_of(model: onnx.ModelProto) -> Layers:
    "What stands before the first layer is none: making pixels of bytes."
    layers: Layers = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTY:
            name = _module_of(node)
            nodes = layers.setdefault(name if name not in layers else f"{name} ({node.name})", [])
        if layers:
            nodes.append(node.name)
    return layers


def precision_of(path: Path) -> str:
    "fp32, fp16 or int8, by what is in the file."
    graph = onnx.load(path).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "int8"
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    return "fp16" if halves else "fp32"


def _module_of(node: onnx.NodeProto) -> str:
    "The torch module whose weights the node multiplies by; the node's own name where the exporter doesn't say."
    for name in node.input:
        if name.endswith(".weight"):
            return name.removesuffix(".weight").removeprefix("model.")
    for prop in node.metadata_props:
        if prop.key == "pkg.torch.onnx.name_scopes":
            modules = [
                part for part in prop.value.strip("[]").replace("'", "").split(", ") if part.startswith("model.")
            ]
            return modules[-1].removeprefix("model.") if modules else node.name
    return node.name


def nodes_of(layers: Layers, names: Iterable[str]) -> list[str]:
    return [node for name in names for node in layers[name]]


def costliest_first(layers: list[str], damage: Callable[[list[str]], float]) -> Iterator[tuple[str, float]]:
    """Each layer with the damage it does when it alone is lowered, the worst first, nearly.

    damage: of lowering these layers and no other. Groups are halved where they do the most damage, so that a few bad
    layers of many are found in a few measurements: a layer's damage is taken to be at most that of a group it is in.
    """
    ranked = [(-damage(layers), 0, layers)]
    while ranked:
        cost, start, group = heapq.heappop(ranked)
        if len(group) == 1:
            yield group[0], -cost
            continue
        middle = len(group) // 2
        for at, half in ((start, group[:middle]), (start + middle, group[middle:])):
            heapq.heappush(ranked, (-damage(half), at, half))
