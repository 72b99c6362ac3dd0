"""Measure a certificate: an ONNX file and its run's torch model on the same photos."""

from pathlib import Path
from typing import Any

import numpy as np

from export.convert.fp16 import as_computed
from export.convert.raw_outputs import raw_outputs
from export.parity.certificate import BUDGETS
from export.parity.reference import Reference
from export.session import Classifier
from toolkit.evaluation.calibration import TEMPERATURES, calibration_error, reliability_curve
from toolkit.evaluation.metrics import softmax
from toolkit.evaluation.statistics import wilson_interval


def measured(reference: Reference, model: Path, device: str, precision: str, kept: list[str]) -> dict[str, Any]:
    """The certificate of the file `model` on the photos of the reference, within the budget or not.

    Keys: precision, kept (layers in float32), device, arithmetic (in words), images, not_finite (photos whose logits
    are no numbers), softmax_difference (of a probability from the softmax of the file's own logits, the largest),
    accuracy, accuracy_interval (Wilson, 95 %), ece, ece_in_sample (whether the temperature was fitted to these photos);
    and compared with torch, if the reference has logits: torch_accuracy, agreement (share of equal class names),
    agreement_interval (Wilson, 95 %), logit_difference and probability_difference (the largest), worst (file and logit
    difference of the photos that differ most), budget. If the logits are those of other files, `torch_accuracy` is
    their accuracy, compared_with says which files, and the budget is that of float32: both compute the same.
    """
    classifier = Classifier(model, device)
    with as_computed(model, precision, classifier.device) as computed:
        emulated = computed != model
        logits, probabilities = raw_outputs(Classifier(computed, device) if emulated else classifier, reference.images)
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
        "budget": BUDGETS[precision if reference.source == "torch" else "fp32", classifier.device],
        **({} if reference.source == "torch" else {"compared_with": reference.source}),
    }


def _temperature(classifier: Classifier) -> float:
    "The temperature in the file; 1 if it has none. Raises ValueError if it is out of range."
    fitted, (low, high) = classifier.card.calibration, TEMPERATURES
    value = fitted.get("temperature") if isinstance(fitted, dict) else 1.0
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError(
            f"{classifier.model}: its calibration has temperature {value!r:.60}, expected {low:g} to {high:g}"
        )
    return value
