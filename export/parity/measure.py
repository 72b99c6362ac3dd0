"""Measure a certificate: an ONNX file and its run's torch model on the same photos."""

from pathlib import Path
from typing import Any

import numpy as np

from export.convert.fp16 import as_computed
from export.convert.raw_outputs import raw_outputs
from export.parity.certificate import BUDGETS, FEATURE_BUDGET_EXACT, FEATURE_BUDGETS
from export.parity.reference import Reference
from export.runtime.buffers import FEATURES, OUTPUTS
from export.runtime.metadata import Card
from export.session import Classifier
from toolkit.evaluation.calibration import TEMPERATURES, calibration_error, reliability_curve
from toolkit.evaluation.metrics import softmax
from toolkit.evaluation.selective import judged, promised
from toolkit.evaluation.statistics import wilson_interval


def measured(
    reference: Reference, model: Path, device: str, precision: str, kept: list[str], promise: float = 0
) -> dict[str, Any]:
    """The certificate of the file `model` on the photos of the reference, within the budget or not.

    Keys: precision, kept (layers in float32), device, arithmetic (in words), images, not_finite (photos whose logits
    are no numbers), softmax_difference (of a probability from the softmax of the file's own logits, the largest),
    accuracy, accuracy_interval (Wilson, 95 %), ece, ece_in_sample (whether the temperature was fitted to these photos);
    and compared with torch, if the reference has logits: torch_accuracy, agreement (share of equal class names),
    agreement_interval (Wilson, 95 %), logit_difference and probability_difference (the largest), worst (file and logit
    difference of the photos that differ most), budget. If the logits are those of other files, `torch_accuracy` is
    their accuracy, compared_with says which files, and the budget is that of float32: both compute the same. If file
    and reference have features: feature_difference (the largest over the photos of |file - torch| / |torch|, Euclidean
    lengths) and feature_cosine (the smallest). promise, if it is given: what `selective.promised` finds for it; else
    unsure, if the file has a threshold: what `selective.judged` finds at it.
    """
    classifier = Classifier(model, device)
    with as_computed(model, precision, classifier.device) as computed:
        emulated = computed != model
        opened, names = Classifier(computed, device) if emulated else classifier, _outputs(classifier, reference)
        logits, probabilities, *features = raw_outputs(opened, reference.images, names)
    temperature = _temperature(classifier)
    finite = np.all([np.isfinite(each).all(1) for each in (logits, probabilities, *features)], axis=0)
    logits, probabilities = np.nan_to_num(logits), np.nan_to_num(probabilities)
    names, confidence = np.array(classifier.card.classes)[logits.argmax(1)], np.minimum(probabilities.max(1), 1)
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
        "ece": calibration_error(reliability_curve(confidence, right)),
        "ece_in_sample": reference.validation and temperature != 1,
        **_selective(classifier.card, confidence, right, promise),
    }
    if reference.logits is None:
        return certificate
    budget = BUDGETS[precision if reference.source == "torch" else "fp32", classifier.device]
    certificate |= _compared(reference, names, logits, probabilities, temperature) | {"budget": budget}
    if reference.source != "torch":
        certificate["compared_with"] = reference.source
    if features:
        certificate |= _feature_differences(reference.features, np.nan_to_num(features[0]))
        certificate["feature_budget"] = _feature_budget(precision, classifier.device)
    return certificate


def _selective(card: Card, confidence: np.ndarray, right: np.ndarray, promise: float) -> dict[str, Any]:
    "The certificate's figures on the answers above a threshold: the one that `promise` needs, or the file's own."
    if promise:
        return {"promise": promised(confidence, right, promise)}
    if card.threshold is None:
        return {}
    own = {name: card.promise.get(name) for name in ("promise", "threshold")}
    return {"unsure": own | judged(confidence, right, card.threshold)}


def _compared(
    reference: Reference, names: np.ndarray, logits: np.ndarray, probabilities: np.ndarray, temperature: float
) -> dict[str, Any]:
    "The certificate's figures on labels [n], logits and probabilities [n, classes], against those of the reference."
    torch_names = np.array(reference.classes)[reference.logits.argmax(1)]
    same = torch_names == names
    expected = softmax(reference.logits / temperature)
    difference = np.abs(reference.logits - logits).max(1)
    order = np.argsort(-difference, kind="stable")[:5]
    return {
        "torch_accuracy": float(np.mean(torch_names == np.array(reference.labels))),
        "agreement": float(same.mean()),
        "agreement_interval": list(wilson_interval(int(same.sum()), len(same))),
        "logit_difference": float(difference.max()),
        "probability_difference": float(np.abs(expected - probabilities).max()),
        "worst": [[reference.names[index], float(difference[index])] for index in order],
    }


def _outputs(classifier: Classifier, reference: Reference) -> list[str]:
    "The outputs to compare."
    compared = classifier.feature_size is not None and reference.features is not None
    return [*OUTPUTS, FEATURES] if compared else OUTPUTS


def _feature_differences(expected: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    "The certificate's figures on features, float32 [n, features], of torch and of the file."
    lengths = np.linalg.norm(expected, axis=1), np.linalg.norm(found, axis=1)
    least = np.finfo(np.float32).tiny  # of a photo whose features are all 0
    return {
        "feature_difference": float((np.linalg.norm(found - expected, axis=1) / np.maximum(lengths[0], least)).max()),
        "feature_cosine": float(((expected * found).sum(1) / np.maximum(lengths[0] * lengths[1], least)).min()),
    }


def _feature_budget(precision: str, device: str) -> float:
    return FEATURE_BUDGET_EXACT if (precision, device) == ("fp32", "cpu") else FEATURE_BUDGETS[precision]


def _temperature(classifier: Classifier) -> float:
    "The temperature in the file; 1 if it has none. Raises ValueError if it is out of range."
    fitted, (low, high) = classifier.card.calibration, TEMPERATURES
    value = fitted.get("temperature") if isinstance(fitted, dict) else 1.0
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError(
            f"{classifier.model}: its calibration has temperature {value!r:.60}, expected {low:g} to {high:g}"
        )
    return value
