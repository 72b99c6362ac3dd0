"""A run -> one self-contained model.onnx, verified on real photos before it gets its name.

    python -m export.to_onnx runs/hw1/20261124-120000-ce --precision int8

The graph takes uint8 photos as `toolkit.data.preprocess.prepare` makes them. It holds normalization, network and
softmax; everything else a client needs stands in the metadata.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from export.convert.calibration import calibration, temperature_line
from export.convert.graph import export_graph, write_metadata
from export.convert.mixed_precision import lower
from export.parity.certificate import PRECISIONS, brief, faults, for_search, table
from export.parity.measure import measured
from export.parity.reference import Reference, reference_of, training_reference
from export.predictions.journal import clear_half_written, held
from export.runtime.providers import DEVICES, choose_device
from toolkit.command import run_script
from toolkit.files import replacing, target_of
from toolkit.run import Run, load

if TYPE_CHECKING:
    pass

CALIBRATED_ON = 256  # training photos, of which 8 bits have their ranges


def _write_float32(run: Run, path: Path, reference: Reference, calibrate: bool) -> dict[str, Any]:
    "The run's weights as a file with all that it says about itself, but for its certificate. Returns its calibration."
    from toolkit.models.pretrained import load_weights
    from toolkit.models.timm_model import create_model

    recipe, preprocess = run.recipe, run.recipe["preprocess"]
    model = create_model(recipe["model"]["arch"], len(recipe["classes"]), "none", image_size=preprocess["crop"])
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


if __name__ == "__main__":
    run_script(to_onnx)
