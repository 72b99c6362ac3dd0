"""Join models of the same classes in one graph whose probabilities are the mean of theirs."""

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper

SMALLEST = float(np.finfo(np.float32).tiny)
"The least probability whose logarithm is taken, 1.2e-38: the logit of a smaller one is -87.3, never infinite."


def averaged(models: list[onnx.ModelProto], orders: list[list[int]]) -> onnx.ModelProto:
    """Return one model: image -> logits, probabilities, both float32 [batch, classes].

    probabilities: the mean of the models' probabilities. logits: the logarithm of that mean, so that their softmax is
    the mean again. orders: for each model, the index in it of each class of the joined one. The names of model i begin
    with `i/`. Weights are joined as they are, in any precision.
    Raises ValueError if the models use different versions of the operators, which one file can't hold.
    """
    parts = [compose.add_prefix(model, f"{number}/", rename_inputs=False) for number, model in enumerate(models)]
    first = models[0].graph
    outputs = {value.name: value for value in first.output}
    graph = helper.make_graph(
        [node for part in parts for node in part.graph.node],
        "average",
        [value for value in first.input if value.name == "image"],
        [outputs["logits"], outputs["probabilities"]],
        [tensor for part in parts for tensor in part.graph.initializer],
        value_info=[value for part in parts for value in part.graph.value_info],
    )
    _add_mean(graph, orders)
    joined = helper.make_model(
        graph, opset_imports=_operators(parts), functions=[each for part in parts for each in part.functions]
    )
    joined.ir_version = max(part.ir_version for part in parts)
    return joined


def _add_mean(graph: onnx.GraphProto, orders: list[list[int]]) -> None:
    "Add the nodes from the models' probabilities to the outputs. Classes in another order are put in the first's."
    named = [f"{number}/probabilities" for number in range(len(orders))]
    for number, order in enumerate(orders):
        if order != sorted(order):
            graph.initializer.append(numpy_helper.from_array(np.array(order, np.int64), f"{number}/order"))
            ordered = f"{number}/ordered"
            graph.node.append(
                helper.make_node("Gather", [named[number], f"{number}/order"], [ordered], ordered, axis=1)
            )
            named[number] = ordered
    graph.initializer.append(numpy_helper.from_array(np.array(SMALLEST, np.float32), "smallest"))
    graph.node.extend(
        [
            helper.make_node("Mean", named, ["probabilities"], "mean"),
            helper.make_node("Max", ["probabilities", "smallest"], ["positive"], "positive"),
            helper.make_node("Log", ["positive"], ["logits"], "log"),
        ]
    )


def _operators(models: list[onnx.ModelProto]) -> list[onnx.OperatorSetIdProto]:
    "The versions of the operators, by domain. Raises ValueError if two models use different ones."
    versions: dict[str, int] = {}
    for model in models:
        for each in model.opset_import:
            if versions.setdefault(each.domain, each.version) != each.version:
                raise ValueError(
                    f"the files use operators of opset {versions[each.domain]} and {each.version}, one file holds one: "
                    "export them again, all with this toolkit"
                )
    return [helper.make_opsetid(domain, version) for domain, version in versions.items()]
