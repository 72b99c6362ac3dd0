"""A run -> one self-contained model.onnx, verified on real photos before it gets its name.

    python -m export.to_onnx runs/hw1/20261124-120000-ce

The graph takes uint8 photos as `toolkit.preprocess.prepare` makes them and holds normalisation, network and softmax;
everything else a client needs stands in the metadata.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from export.device import DEVICES
from export.verify import certificate_table, verify
from toolkit.command import command
from toolkit.run import load, replacing

if TYPE_CHECKING:
    from torch import nn

OPSET = 18  # onnxruntime 1.14 and later


def export_graph(model: "nn.Module", preprocess: dict[str, Any], path: Path) -> None:
    """Write the graph: image uint8 [batch, crop, crop, 3] RGB -> logits, probabilities float32 [batch, classes].

    model: float [batch, 3, crop, crop], normalised -> logits. Its weights end up in the one file.
    """
    import torch

    from toolkit.model import Deployable

    size = preprocess["crop"]
    with _quiet_exporter():
        torch.onnx.export(
            Deployable(model, preprocess["mean"], preprocess["std"]).eval(),
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),  # a batch of 1 would be taken for a constant
            path,
            input_names=["image"],
            output_names=["logits", "probabilities"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    "Without torch's remarks on its own conversion, which a user can do nothing about."
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
    "Put `values`, each as JSON, into the metadata_props of the model at `path`; one that is there already is replaced."
    import onnx

    model = onnx.load(path)
    kept = {prop.key: prop.value for prop in model.metadata_props}
    said = {name: json.dumps(value, ensure_ascii=False, allow_nan=False) for name, value in values.items()}
    onnx.helper.set_model_props(model, kept | said)
    onnx.save(model, path)


@command
def to_onnx(
    run: Path,  # run folder with its best.safetensors
    out: Path | None = None,  # file to write (default: model.onnx in the run folder)
    device: Annotated[str, {"choices": DEVICES}] = "auto",  # where the file is verified
    images: int = 256,  # validation photos to verify it on, at most
) -> Path:
    """Export a run as one verified model.onnx.

    Returns its path. Raises FileNotFoundError where run, weights or validation photos are missing, and ValueError, by
    how much, where the file does not do what the run's own weights do; no file is written then.
    """
    from toolkit.learner import load_weights
    from toolkit.model import make_model

    trained = load(run)
    recipe, out = trained.recipe, Path(out) if out else trained.path("model.onnx")
    model = make_model(recipe["model"]["arch"], len(recipe["classes"]), "none", image_size=recipe["preprocess"]["crop"])
    load_weights(model, trained.path("best.safetensors"))
    metrics = trained.metrics if trained.path("metrics.json").is_file() else {}
    with replacing(out) as beside:
        export_graph(model, recipe["preprocess"], beside)
        said = {name: recipe[name] for name in ("classes", "preprocess")}
        said["recipe"] = {name: recipe.get(name) for name in ("recipe", "options", "versions", "git", "created")}
        said["metrics"] = {name: value for name, value in metrics.items() if "reliability" not in name}
        write_metadata(beside, said)
        certificate = verify(trained, beside, device, images)
        write_metadata(beside, {"verification": certificate})
    print(certificate_table(certificate) + f"\nmodel {out}", flush=True)
    return out
