"""Does this model.onnx do what its run's weights do? Real photos through both, and a certificate or a refusal.

    python -m export.verify model.onnx data --device cuda

DATA is any labelled folder or CSV; where it comes split, its validation part is taken.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from export.certificate import BUDGETS, PRECISIONS, faults, table
from export.device import DEVICES
from export.half import as_computed
from export.reference import Reference, evenly, prepared_all, torch_logits
from export.session import Classifier
from toolkit.command import command
from toolkit.metrics import calibration_error, reliability_curve, softmax, wilson_interval
from toolkit.run import Run, load


def measured(reference: Reference, model: Path, device: str, precision: str, kept: list[str]) -> dict[str, Any]:
    """What the file `model` does with the photos of the reference: its certificate, within the budget or not.

    Keys: precision, kept (layers in float32), device, arithmetic (in words), images, not_finite (photos whose logits
    are no numbers), accuracy, accuracy_interval (Wilson, 95 %), ece; and against torch, where the reference has it:
    torch_accuracy, agreement (share of equal class names), logit_difference and probability_difference (the largest),
    worst (file and logit difference of those that differ most), budget.
    """
    classifier = Classifier(model, device)
    with as_computed(model, precision, classifier.device) as computed:
        emulated = computed != model
        logits, probabilities = scores(Classifier(computed, device) if emulated else classifier, reference.images)
    finite = np.isfinite(logits).all(1) & np.isfinite(probabilities).all(1)
    logits, probabilities = np.nan_to_num(logits), np.nan_to_num(probabilities)
    names = np.array(classifier.card.classes)[logits.argmax(1)]
    right = names == np.array(reference.labels)
    certificate = {
        "precision": precision,
        "kept": kept,
        "device": classifier.device,
        "arithmetic": f"{classifier.device}, {precision} emulated" if emulated else classifier.device,
        "images": len(right),
        "not_finite": int((~finite).sum()),
        "accuracy": float(right.mean()),
        "accuracy_interval": list(wilson_interval(int(right.sum()), len(right))),
        "ece": calibration_error(reliability_curve(np.minimum(probabilities.max(1), 1), right)),
    }
    if reference.logits is None:
        return certificate
    torch_names = np.array(reference.classes)[reference.logits.argmax(1)]
    expected = softmax(reference.logits / _temperature(classifier))
    difference = np.abs(reference.logits - logits).max(1)
    order = np.argsort(-difference, kind="stable")[:5]
    return certificate | {
        "torch_accuracy": float(np.mean(torch_names == np.array(reference.labels))),
        "agreement": float(np.mean(torch_names == names)),
        "logit_difference": float(difference.max()),
        "probability_difference": float(np.abs(expected - probabilities).max()),
        "worst": [[reference.names[index], float(difference[index])] for index in order],
        "budget": BUDGETS[precision, classifier.device],
    }


def scores(classifier: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "Logits and probabilities, float32 [n, classes], of prepared images, uint8 [n, crop, crop, 3]."
    parts = [
        classifier.session.run(["logits", "probabilities"], {"image": images[start : start + 16]})
        for start in range(0, len(images), 16)
    ]
    logits, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return logits, probabilities


def _temperature(classifier: Classifier) -> float:
    said = classifier.card.calibration
    value = said.get("temperature") if isinstance(said, dict) else 1.0
    if not isinstance(value, float) or not value > 0:
        raise ValueError(
            f"{classifier.model}: its calibration has temperature {value!r:.60}, expected a number above 0"
        )
    return value


def _claims(classifier: Classifier) -> tuple[str, list[str]]:
    "The precision that the file says it has, and the layers kept in float32. Raises ValueError for what is neither."
    said = classifier.card.verification if isinstance(classifier.card.verification, dict) else {}
    precision, kept = classifier.card.precision, said.get("kept", [])
    if precision not in PRECISIONS or not isinstance(kept, list) or not all(isinstance(name, str) for name in kept):
        raise ValueError(f"{classifier.model}: its verification is no certificate; export it again")
    return precision, kept


def _run_of(model: Path, run: Path | None) -> Run | None:
    "The run to compare with: the one given, else the one whose folder the model lies in."
    if run is None and all((model.parent / name).is_file() for name in ("recipe.json", "best.safetensors")):
        run = model.parent
    return load(run) if run else None


@command
def verify(
    model: Path,  # model.onnx
    data: Path,  # labelled photos: a folder of class folders, a folder with val/, or a CSV with columns path,label
    run: Path
    | None = None,  # run folder of the weights it is compared with (default: the model's folder, if it is one)
    device: Annotated[str, {"choices": DEVICES}] = "auto",  # where the model runs; auto says what it chose
    images: int = 1000,  # photos, at most, spread evenly over the classes
) -> dict[str, Any]:
    """Issue a model's certificate again: on any labelled photos, on any device.

    Without a run it is accuracy and calibration alone. Raises ValueError, by how much, for a file over its budget.
    """
    from toolkit.data import labelled

    classifier, model = Classifier(model, device), Path(model)
    (precision, kept), labels = _claims(classifier), evenly(labelled(data), images)
    unknown = sorted(set(labels.values()) - set(classifier.card.classes))
    if unknown:
        raise ValueError(
            f"{data} has photos of {unknown[0]!r}, a class that {model} doesn't know ({len(unknown)} such)"
        )
    found, logits = _run_of(model, run), None
    classes = found.recipe["classes"] if found else classifier.card.classes
    if found:
        logits = torch_logits(found.learner("cpu"), list(labels))
    names, pixels = [str(photo) for photo in labels], prepared_all(labels, classifier.card.preprocess)
    reference = Reference(names, pixels, list(labels.values()), classes, logits)
    certificate = measured(reference, model, classifier.device, precision, kept)
    print(table(certificate))
    if wrong := faults(certificate):
        raise ValueError(f"{model} is not what {found.folder} trained: {'; '.join(wrong)}")
    return certificate
