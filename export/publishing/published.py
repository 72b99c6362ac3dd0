"""A model file for other people: without facts of this machine."""

import json
from pathlib import PureWindowsPath
from typing import Any

import onnx

from toolkit.files import json_text


def last_part(path: str) -> str:
    "The last name of a path of any system, as Unicode text; a plain word stays as it is."
    return PureWindowsPath(path).name.encode(errors="replace").decode()


def without_paths(value: Any) -> Any:
    """A recipe's record in which each option that is a path is cut to its last part.

    An average holds the records of its models, each with its own options.
    """
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: _cut(each) if name == "options" else without_paths(each) for name, each in value.items()}


def _cut(options: Any) -> Any:
    if not isinstance(options, dict):
        return options
    return {name: _cut_value(value) for name, value in options.items()}


def _cut_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_cut_value(each) for each in value]
    return last_part(value) if isinstance(value, str) else value


def published(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed in place: no paths in its options and its certificate, no stack traces and no remarks in its
    graph.
    """
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    if "recipe" in metadata:
        metadata["recipe"] = json_text(without_paths(json.loads(metadata["recipe"])))
    certificate = json.loads(metadata.get("verification", "null"))
    if isinstance(certificate, dict) and "worst" in certificate:
        certificate["worst"] = [[last_part(name), *rest] for name, *rest in certificate["worst"]]
        metadata["verification"] = json_text(certificate)
    onnx.helper.set_model_props(model, metadata)
    _clear(model.graph)
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _clear_nodes(function.node)
    return model


def _clear(graph: onnx.GraphProto) -> None:
    for part in (graph, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    _clear_nodes(graph.node)


def _clear_nodes(nodes: Any) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs) if attribute.type in GRAPHS else ():
                _clear(graph)


GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
