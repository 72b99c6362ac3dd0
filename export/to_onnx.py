"""A run -> one self-contained model.onnx, verified on real photos before it gets its name.

    python -m export.to_onnx runs/hw1/20261124-120000-ce --precision int8

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

import numpy as np

from export.calibrate import calibration, temperature_line
from export.certificate import PRECISIONS, brief, faults, for_search, table
from export.device import DEVICES, choose_device
from export.journal import clear_half_written, held
from export.lower import lower
from export.reference import Reference, reference_of, training_reference
from export.verify import measured
from toolkit.command import command
from toolkit.run import Run, load, replacing, target_of

if TYPE_CHECKING:
    from torch import nn

OPSET = 18  # onnxruntime 1.14 and later
CALIBRATED_ON = 256  # training photos, of which 8 bits have their ranges
FOLDED = 2**30  # the largest constant, in elements, that is computed when the graph is exported


def export_graph(model: "nn.Module", preprocess: dict[str, Any], path: Path, temperature: float = 1.0) -> None:
    """Write the graph: image uint8 [batch, crop, crop, 3] RGB -> logits, probabilities float32 [batch, classes].

    model: float [batch, 3, crop, crop], normalised -> logits. Its weights end up in the one file. temperature: the
    probabilities are softmax(logits / temperature).
    """
    import onnx
    import torch
    from onnxscript import optimizer

    from toolkit.model import Deployable

    size = preprocess["crop"]
    with _quiet_exporter(), _not_in_place(model):
        torch.onnx.export(
            Deployable(model, preprocess["mean"], preprocess["std"], temperature).eval(),
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
        # weights that are computed of others, as nfnet's, are too large for the exporter to compute them itself
        model = optimizer.optimize(onnx.load(path), input_size_limit=FOLDED, output_size_limit=FOLDED)
    for part in (*model.graph.node, *model.graph.value_info):
        for prop in [prop for prop in part.metadata_props if "stack_trace" in prop.key]:  # with places of this machine
            part.metadata_props.remove(prop)
    onnx.save(model, path)


@contextlib.contextmanager
def _not_in_place(model: "nn.Module") -> Iterator[None]:
    """Within it no activation of the model writes over its input. It computes the same, and the exporter takes each for
    one node of the graph: one that writes in place it takes apart and puts together again, 4 of 12 s for a mobilenetv2.
    """
    layers = [layer for layer in model.modules() if getattr(layer, "inplace", False) is True]
    for layer in layers:
        layer.inplace = False
    try:
        yield
    finally:
        for layer in layers:
            layer.inplace = True


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


def _write_float32(run: Run, path: Path, reference: Reference, calibrate: bool) -> dict[str, Any]:
    "The run's weights as a file with all that it says about itself, but for its certificate. Returns its calibration."
    from toolkit.learner import load_weights
    from toolkit.model import make_model

    recipe, preprocess = run.recipe, run.recipe["preprocess"]
    model = make_model(recipe["model"]["arch"], len(recipe["classes"]), "none", image_size=preprocess["crop"])
    load_weights(model, run.path("best.safetensors"))
    labels = np.array([recipe["classes"].index(label) for label in reference.labels])
    fitted = calibration(reference.logits, labels) if calibrate else {"temperature": 1.0}
    export_graph(model, preprocess, path, fitted["temperature"])
    said = {name: recipe[name] for name in ("classes", "preprocess")}
    said["recipe"] = {name: recipe.get(name) for name in ("recipe", "options", "versions", "git", "created")}
    said["weights_license"] = (recipe.get("weights") or {}).get("license")
    said["metrics"] = {name: value for name, value in run.metrics.items() if "reliability" not in name}
    write_metadata(path, said | {"calibration": fitted})
    return fitted


def _certified(reference: Reference, path: Path, device: str, precision: str, kept: list[str]) -> dict[str, Any]:
    certificate = measured(reference, path, device, precision, kept)
    if wrong := faults(certificate):
        what = "the exported model is not the trained one"
        if precision != "fp32":
            what = f"{precision} is over its budget on validation photos, which the search for layers does not see"
        remedy = {"fp32": "", "fp16": "; leave --precision out", "int8": "; give fp16, or leave --precision out"}
        raise ValueError(f"{what}, no file is written: {'; '.join(wrong)}{remedy[precision]}")
    return certificate


def _lowered(run: Run, path: Path, precision: str, device: str, images: int) -> list[str]:
    "Replace the float32 file at `path` by one of `precision`, searched for on training photos; the layers it keeps."
    training = training_reference(run, images)
    calibrated = training if images >= CALIBRATED_ON else training_reference(run, CALIBRATED_ON)

    def judge(candidate: Path, kept: list[str]) -> list[str]:
        return faults(for_search(measured(training, candidate, device, precision, kept)))

    return list(lower(path, precision, device, calibrated.images[:CALIBRATED_ON], judge))


def _checked_out(out: Path) -> Path:
    "The file to write. Raises OSError if it is there and is no .onnx file, but a run's weights, a photo or a device."
    if (target := target_of(out)).exists() and target.suffix.lower() != ".onnx":
        raise FileExistsError(f"--out {out} is a file that no export wrote, and it would be lost: give FILE.onnx")
    return out


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[Path]:
    "What `replacing` gives, for this process alone, after clearing what a killed export to `out` left half written."
    with held(out):
        clear_half_written([out])
        with replacing(out) as beside:
            yield beside


@command
def to_onnx(
    run: Path,  # run folder with its best.safetensors
    out: Path | None = None,  # file to write (default: model.onnx in the run folder)
    precision: Annotated[str, {"choices": PRECISIONS}] = "fp32",  # fp16 for GPUs, int8 for CPUs with VNNI
    device: Annotated[str, {"choices": DEVICES}] = "auto",  # where the file is verified
    images: int = 1000,  # validation photos to verify and calibrate it on, at most; training photos to search layers on
    calibrate: bool = True,  # fit a temperature on them, so that probabilities mean what they say
    details: bool = True,  # print the whole certificate, not one line of it
) -> Path:
    """Export a run as one verified model.onnx.

    Returns its path. Raises FileNotFoundError where run, weights or photos are missing, and ValueError, by how much,
    where the file does not do what the run's own weights do; no file is written then.
    """
    trained = load(run)
    out, device = _checked_out(Path(out) if out else trained.path("model.onnx")), choose_device(device)
    reference = reference_of(trained, images)
    with _writing(out) as beside:
        fitted = _write_float32(trained, beside, reference, calibrate)
        certificate = _certified(reference, beside, device, "fp32", [])
        if precision != "fp32":
            kept = _lowered(trained, beside, precision, device, images)
            certificate = _certified(reference, beside, device, precision, kept)
        write_metadata(beside, {"precision": precision, "verification": certificate})
    print(f"{table(certificate)}\n{temperature_line(fitted)}" if details else brief(certificate), flush=True)
    print(f"model {out}", flush=True)
    return out
