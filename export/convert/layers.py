"""Rank the layers of a network by the damage that half precision or 8 bits do to them.

A layer is a Conv, Gemm or MatMul with the nodes that follow it, up to the next one.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import onnx

WEIGHTY = ("Conv", "Gemm", "MatMul")
"The operators that take nearly all of the time; each starts a layer."

Layers = dict[str, list[str]]
"Names of nodes by layer, in the order in which they run. Layers have the names of torch's modules."


def layers_of(model: onnx.ModelProto) -> Layers:
    "The layers of a model. Nodes before the first layer, which turn bytes into pixels, belong to none."
    layers: Layers = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTY:
            name = _module_of(node)
            nodes = layers.setdefault(name if name not in layers else f"{name} ({node.name})", [])
        if layers:
            nodes.append(node.name)
    return layers


def precision_of(path: Path) -> str:
    "fp32, fp16 or int8, by the nodes and weights in the file."
    graph = onnx.load(path).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "int8"
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    return "fp16" if halves else "fp32"


def _module_of(node: onnx.NodeProto) -> str:
    "The torch module with the node's weights; the node's own name if the exporter does not record it."
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
    "The nodes of the layers with these names."
    return [node for name in names for node in layers[name]]


def costliest_first(layers: list[str], damage: Callable[[list[str]], float]) -> Iterator[tuple[str, float]]:
    """Yield each layer with the damage done when it alone is in low precision, approximately the worst first.

    damage: the damage when these layers and no others are in low precision. The group with the most damage is halved
    again and again, so that a few measurements find a few bad layers among many: the damage of a layer is taken to be
    at most that of its group.
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
