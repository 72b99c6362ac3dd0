"""Export a torch model as an ONNX graph with normalization, softmax and metadata in one file."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.convert.fold_batch_norm import folded
from toolkit.errors import first_line
from toolkit.files import json_text

if TYPE_CHECKING:
    from torch import nn


OPSET = 18  # onnxruntime 1.14 and later
FLAGS = ("inplace", "fused_attn")  # of torch's and timm's layers
FOLDED = 2**30  # the largest constant, in elements, that is computed when the graph is exported


def export_graph(model: "nn.Module", preprocess: dict[str, Any], path: Path, temperature: float = 1.0) -> None:
    """Write the graph: image uint8 [batch, crop, crop, 3] RGB -> logits, probabilities float32 [batch, classes].

    model: float [batch, 3, crop, crop], normalised -> logits. The file holds its weights. temperature: the
    probabilities are softmax(logits / temperature).

    Raises ValueError for a network that torch can't export.
    """
    import onnx
    import torch
    from onnxscript import optimizer

    from toolkit.models.deployable import Deployable

    size = preprocess["crop"]
    with _quiet_exporter(), _in_plain_steps(model), _refusing(model):
        torch.onnx.export(
            Deployable(folded(model.eval(), size), preprocess["mean"], preprocess["std"], temperature).eval(),
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),  # a batch of 1 would become a constant
            path,
            input_names=["image"],
            output_names=["logits", "probabilities"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        # weights that are computed from others, as in nfnet, are too large for the exporter's own limit
        model = optimizer.optimize(onnx.load(path), input_size_limit=FOLDED, output_size_limit=FOLDED)
    for part in (*model.graph.node, *model.graph.value_info):
        # a stack trace holds paths of this machine
        for prop in [prop for prop in part.metadata_props if "stack_trace" in prop.key]:
            part.metadata_props.remove(prop)
    onnx.save(model, path)


@contextlib.contextmanager
def _in_plain_steps(model: "nn.Module") -> Iterator[None]:
    """In the block no activation of the model overwrites its input, and attention is written out in plain operations.

    The results are the same but for rounding. torch's exporter takes activations in place apart and puts them together
    again, 4 of 12 s for a mobilenetv2. It accepts fused attention of four dimensions only. timm's Hiera, NesT and Twins
    have five.
    """
    flags = [(layer, name) for layer in model.modules() for name in FLAGS if getattr(layer, name, False) is True]
    for layer, name in flags:
        setattr(layer, name, False)
    try:
        yield
    finally:
        for layer, name in flags:
            setattr(layer, name, True)


@contextlib.contextmanager
def _refusing(model: "nn.Module") -> Iterator[None]:
    "Raise ValueError, with its cause, in place of the several errors of torch's exporter about a network."
    import torch

    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        raise ValueError(
            f"torch can't export {type(model).__name__} as ONNX ({first_line(cause):.160}); its trained weights are "
            "kept. Another --arch may do"
        ) from error


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    "Silence torch's remarks on its own conversion, about which a user can do nothing."
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_metadata(path: Path, values: dict[str, Any]) -> None:
    "Put `values`, each as JSON, into the metadata_props of the model at `path`; existing keys are replaced."
    import onnx

    model = onnx.load(path)
    kept = {prop.key: prop.value for prop in model.metadata_props}
    added = {name: json_text(value) for name, value in values.items()}
    onnx.helper.set_model_props(model, kept | added)
    onnx.save(model, path)
