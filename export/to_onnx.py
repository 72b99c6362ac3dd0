"""Export a run as one self-contained model.onnx, which is verified on real photos before it gets its name.

    python -m export.to_onnx runs/hw1/20261124-120000-ce --precision int8

The graph takes uint8 photos as `toolkit.data.preprocess.prepare` makes them. It holds normalization, network and
softmax; the metadata hold everything else that a client needs.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from export.convert.calibration import calibration, temperature_line
from export.convert.features import OF, add_features
from export.convert.graph import export_graph, write_metadata
from export.convert.mixed_precision import lower
from export.convert.model_file import checked_out, writing
from export.parity.certificate import PRECISIONS, brief, faults, for_search, table
from export.parity.measure import measured
from export.parity.reference import Reference, training_reference, validation_reference
from export.runtime.providers import DEVICES, choose_device
from toolkit.command import run_script
from toolkit.ranges import check_ranges
from toolkit.run import Run, load

CALIBRATED_ON = 256
"Training photos from which the ranges of 8-bit tensors are taken."


def to_onnx(
    run: Path,  # run folder with its best.safetensors
    out: Path | None = None,  # file to write (default: model.onnx in the run folder)
    precision: Annotated[str, {"choices": PRECISIONS}] = "fp32",  # fp16 for GPUs, int8 for CPUs with VNNI
    device: Annotated[str, {"choices": DEVICES}] = "auto",  # device that the file is verified on
    images: int = 1000,  # validation photos at most, to verify and calibrate on; training photos to search layers on
    calibrate: bool = True,  # fit a temperature on them, so that probabilities match how often the model is right
    details: bool = True,  # print the whole certificate, but one line of it
    features: bool = False,  # add an output `features`, the input of the linear classifier: for search and clustering
    promise: float | None = None,  # precision to keep by unsure answers; 0: none (default: as the run was told)
) -> Path:
    """Export a run as one verified model.onnx.

    Returns its path. Raises FileNotFoundError if run, weights or photos are missing, and ValueError if the file does
    not give what the run's own weights give, with the differences, if the model has no linear classifier whose input
    are the features, or if the promise can't be kept; no file is written then.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    trained = load(run)
    promise = checked_promise(trained.recipe["options"].get("promise") if promise is None else promise)
    out, device = checked_out(Path(out) if out else trained.path("model.onnx")), choose_device(device)
    reference = validation_reference(trained, images, features)
    with writing(out) as beside:
        fitted = _write_float32(trained, beside, reference, calibrate)
        if features:
            write_metadata(beside, {"features": {"size": add_features(beside), "of": OF}})
        certificate = _certified(reference, beside, device, "fp32", [], promise if precision == "fp32" else 0)
        if precision != "fp32":
            kept = _lowered(trained, beside, precision, device, images, features)
            certificate = _certified(reference, beside, device, precision, kept, promise)
        found = certificate.pop("promise", None)
        metadata = {"precision": precision, "verification": certificate} | ({"promise": found} if found else {})
        write_metadata(beside, metadata)
    certificate |= {"unsure": found} if found else {}
    print(f"{table(certificate)}\n{temperature_line(fitted)}" if details else brief(certificate), flush=True)
    print(f"model {out}", flush=True)
    return out


def checked_promise(promise: float | None) -> float:
    "The promised precision, 0 for none. Raises ValueError if it is out of range."
    check_ranges({"promise": promise})
    return promise or 0


def _write_float32(run: Run, path: Path, reference: Reference, calibrate: bool) -> dict[str, Any]:
    "Write the run's model in float32 with all metadata but its certificate. Returns its calibration."
    recipe = run.recipe
    labels = np.array([recipe["classes"].index(label) for label in reference.labels])
    fitted = calibration(reference.logits, labels) if calibrate else {"temperature": 1.0}
    export_graph(run.model(), recipe["preprocess"], path, fitted["temperature"])
    metadata = {name: recipe[name] for name in ("classes", "preprocess")}
    metadata["recipe"] = {name: recipe.get(name) for name in ("recipe", "options", "versions", "git", "created")}
    metadata["weights_license"] = (recipe.get("weights") or {}).get("license")
    metadata["metrics"] = {name: value for name, value in run.metrics.items() if "reliability" not in name}
    write_metadata(path, metadata | {"calibration": fitted})
    return fitted


def _certified(
    reference: Reference, path: Path, device: str, precision: str, kept: list[str], promise: float
) -> dict[str, Any]:
    "The certificate of the file at `path`. Raises ValueError if it is over its budget, or can't keep the promise."
    certificate = measured(reference, path, device, precision, kept, promise)
    if wrong := faults(certificate):
        what = "the exported model is not the trained one"
        if precision != "fp32":
            what = f"{precision} is over its budget on validation photos, which the search for layers does not see"
        remedy = {"fp32": "", "fp16": "; leave --precision out", "int8": "; give fp16, or leave --precision out"}
        raise ValueError(f"{what}, no file is written: {'; '.join(wrong)}{remedy[precision]}")
    return certificate


def _lowered(run: Run, path: Path, precision: str, device: str, images: int, features: bool) -> list[str]:
    "Replace the float32 file by one of `precision`, searched on training photos. Returns the layers left in float32."
    training = training_reference(run, images, features)
    calibrated = training if images >= CALIBRATED_ON else training_reference(run, CALIBRATED_ON)

    def judge(candidate: Path, kept: list[str]) -> list[str]:
        return faults(for_search(measured(training, candidate, device, precision, kept)))

    return list(lower(path, precision, device, calibrated.images[:CALIBRATED_ON], judge))


if __name__ == "__main__":
    run_script(to_onnx)
