"""Does this model.onnx do what its run's weights do? Real photos through both, and a certificate or a refusal.

    python -m export.verify model.onnx data --device cuda

DATA is any labelled folder or CSV. Of what comes split, and of what the run was trained on, it is the validation part.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from export.buffers import MemoryBuffer
from export.card import first_line
from export.certificate import BUDGETS, faults, table
from export.device import DEVICES
from export.half import as_computed
from export.layers import precision_of
from export.reference import Reference, evenly, prepared_all, torch_logits
from export.session import Classifier
from toolkit.command import command
from toolkit.metrics import TEMPERATURES, calibration_error, reliability_curve, softmax, wilson_interval
from toolkit.run import Run, load

AT_ONCE = 16
"Images of a batch. The last one is filled up on a GPU, where each new shape is planned for anew."


def measured(reference: Reference, model: Path, device: str, precision: str, kept: list[str]) -> dict[str, Any]:
    """What the file `model` does with the photos of the reference: its certificate, within the budget or not.

    Keys: precision, kept (layers in float32), device, arithmetic (in words), images, not_finite (photos whose logits
    are no numbers), softmax_difference (of a probability from the softmax of the file's own logits, the largest),
    accuracy, accuracy_interval (Wilson, 95 %), ece, ece_in_sample (whether the temperature was fitted to these photos);
    and against torch, where the reference has it: torch_accuracy, agreement (share of equal class names),
    agreement_interval (Wilson, 95 %), logit_difference and probability_difference (the largest), worst (file and logit
    difference of those that differ most), budget.
    """
    classifier = Classifier(model, device)
    with as_computed(model, precision, classifier.device) as computed:
        emulated = computed != model
        logits, probabilities = scores(Classifier(computed, device) if emulated else classifier, reference.images)
    temperature = _temperature(classifier)
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
        "softmax_difference": float(np.abs(softmax(logits / temperature) - probabilities)[finite].max(initial=0)),
        "accuracy": float(right.mean()),
        "accuracy_interval": list(wilson_interval(int(right.sum()), len(right))),
        "ece": calibration_error(reliability_curve(np.minimum(probabilities.max(1), 1), right)),
        "ece_in_sample": reference.validation and temperature != 1,
    }
    if reference.logits is None:
        return certificate
    torch_names = np.array(reference.classes)[reference.logits.argmax(1)]
    same = torch_names == names
    expected = softmax(reference.logits / temperature)
    difference = np.abs(reference.logits - logits).max(1)
    order = np.argsort(-difference, kind="stable")[:5]
    return certificate | {
        "torch_accuracy": float(np.mean(torch_names == np.array(reference.labels))),
        "agreement": float(same.mean()),
        "agreement_interval": list(wilson_interval(int(same.sum()), len(same))),
        "logit_difference": float(difference.max()),
        "probability_difference": float(np.abs(expected - probabilities).max()),
        "worst": [[reference.names[index], float(difference[index])] for index in order],
        "budget": BUDGETS[precision, classifier.device],
    }


def scores(classifier: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "Logits and probabilities, float32 [n, classes], of prepared images, uint8 [n, crop, crop, 3]; numbers or not."
    buffer = MemoryBuffer(classifier.session, np.empty((AT_ONCE, *images.shape[1:]), np.uint8), classifier.pads)
    try:
        parts = [buffer.run(images[start : start + AT_ONCE]) for start in range(0, len(images), AT_ONCE)]
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        raise ValueError(f"{classifier.model} can't be run on {classifier.device}: {first_line(error)}") from error
    logits, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return logits, probabilities


def _temperature(classifier: Classifier) -> float:
    said, (low, high) = classifier.card.calibration, TEMPERATURES
    value = said.get("temperature") if isinstance(said, dict) else 1.0
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError(
            f"{classifier.model}: its calibration has temperature {value!r:.60}, expected {low:g} to {high:g}"
        )
    return value


# The certificate again


def _claims(classifier: Classifier) -> tuple[str, list[str]]:
    "The file's precision, and the layers that it says are in float32. Raises ValueError where it says other things."
    said = classifier.card.verification if isinstance(classifier.card.verification, dict) else {}
    precision, kept = precision_of(classifier.model), said.get("kept", [])
    if classifier.card.precision != precision:
        raise ValueError(f"{classifier.model} says it is {classifier.card.precision!r:.60}, and is {precision}")
    if not isinstance(kept, list) or not all(isinstance(name, str) for name in kept):
        raise ValueError(f"{classifier.model}: its verification is no certificate; export it again")
    return precision, kept


def _run_of(model: Path, run: Path | None) -> Run | None:
    "The run to compare with: the one given, else the one whose folder the model lies in."
    if run is None and all((model.parent / name).is_file() for name in ("recipe.json", "best.safetensors")):
        run = model.parent
    return load(run) if run else None


def _is_own(data: Path, run: Run | None) -> bool:
    "Whether the run was trained on a part of `data`, and validated on another."
    return run is not None and Path(data).resolve() == Path(run.recipe["data"]["path"]).resolve()


def _labels(data: Path, run: Run | None, classifier: Classifier) -> dict[Path, str]:
    "The photos to judge by; of what the run was trained on, those it was validated on."
    from toolkit.data import labelled

    own = _is_own(data, run)
    labels = run.learner("cpu").dls.data.valid if own else labelled(data)
    unknown = sorted(set(labels.values()) - set(classifier.card.classes))
    if unknown:
        raise ValueError(
            f"{data} has photos of {unknown[0]!r}, a class that {classifier.model} doesn't know ({len(unknown)} such)"
        )
    return labels


def _reference(labels: dict[Path, str], run: Run | None, classifier: Classifier, own: bool) -> Reference:
    names, images = [str(photo) for photo in labels], prepared_all(labels, classifier.card.preprocess)
    if run is None:
        return Reference(names, images, list(labels.values()), classifier.card.classes)
    classes = run.recipe["classes"]
    if sorted(classes) != sorted(classifier.card.classes):
        raise ValueError(f"{classifier.model} has other classes than {run.folder}: give the run it was exported from")
    logits = torch_logits(run.learner("cpu"), list(labels))
    return Reference(names, images, list(labels.values()), classes, logits, validation=own)


@command
def verify(
    model: Path,  # model.onnx
    data: Path,  # labelled photos: a folder of class folders, a folder with val/, or a CSV with columns path,label
    run: Path | None = None,  # run folder to compare with (default: the one that the model lies in, if it does)
    device: Annotated[str, {"choices": DEVICES}] = "auto",  # where the model runs; auto says what it chose
    images: int = 1000,  # photos, at most, spread evenly over the classes
) -> dict[str, Any]:
    """Issue a model's certificate again: on any labelled photos, on any device.

    Without a run it is accuracy and calibration alone. Raises ValueError, by how much, for a file over its budget.
    """
    model = Path(model)
    classifier, trained = Classifier(model, device), _run_of(model, run)
    precision, kept = _claims(classifier)
    labels = evenly(_labels(data, trained, classifier), images)
    reference = _reference(labels, trained, classifier, _is_own(data, trained))
    certificate = measured(reference, model, classifier.device, precision, kept)
    print(table(certificate))
    if wrong := faults(certificate):
        raise ValueError(f"{model} is not what it is to be: {'; '.join(wrong)}")
    return certificate
