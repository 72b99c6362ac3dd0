"""The budgets: how far a file may be from the trained model, by its precision and the device it is verified on.

And the text of a certificate, and of the figures that are over its budget.
"""

from typing import Any

PRECISIONS = ["fp32", "fp16", "int8"]

SOFTMAX = 2e-3
"The largest difference of a probability from the softmax of the file's own logits over its temperature, in float16."

BUDGETS = {  # least share of equal labels, largest difference in a probability, accuracy that may be lost
    ("fp32", "cpu"): {"agreement": 0.999, "probability": 1e-3, "accuracy_loss": 0.001},
    ("fp32", "cuda"): {"agreement": 0.99, "probability": 2e-2, "accuracy_loss": 0.005},  # it multiplies in TF32
    ("fp32", "tensorrt"): {"agreement": 0.99, "probability": 2e-2, "accuracy_loss": 0.005},
    ("fp16", "cpu"): {"agreement": 0.999, "probability": 5e-2, "accuracy_loss": 0.001},
    ("fp16", "cuda"): {"agreement": 0.999, "probability": 5e-2, "accuracy_loss": 0.001},
    ("fp16", "tensorrt"): {"agreement": 0.999, "probability": 5e-2, "accuracy_loss": 0.001},
    # with 256 steps a probability may be far off: labels and accuracy count
    ("int8", "cpu"): {"agreement": 0.99, "probability": 1.0, "accuracy_loss": 0.005},
    ("int8", "cuda"): {"agreement": 0.99, "probability": 1.0, "accuracy_loss": 0.005},
    ("int8", "tensorrt"): {"agreement": 0.99, "probability": 1.0, "accuracy_loss": 0.005},
}

FEATURE_BUDGETS = {"fp32": 2e-2, "fp16": 5e-2, "int8": 0.3}
"The largest difference of a photo's features from torch's, as a share of their length. A GPU computes fp32 in TF32."

FEATURE_BUDGET_EXACT = 1e-3
"The same for fp32 on a CPU."

SEARCHED = 0.5
"""The search for layers allows this share of the loss of labels and accuracy that a file may have: it sees training
photos, and the file must be within its budget on photos that the search has not seen."""


def for_search(certificate: dict[str, Any]) -> dict[str, Any]:
    "The certificate with the stricter budget of the search for layers."
    budget = certificate["budget"]
    stricter = {"agreement": 1 - SEARCHED * (1 - budget["agreement"])}
    stricter["accuracy_loss"] = SEARCHED * budget["accuracy_loss"]
    return certificate | {"budget": budget | stricter}


def faults(certificate: dict[str, Any]) -> list[str]:
    "Each figure of the certificate that is over its budget, in words; none if it has no budget."
    if certificate["not_finite"]:
        return [f"{certificate['not_finite']} of {certificate['images']} photos get no numbers: an overflow"]
    if not certificate["softmax_difference"] <= SOFTMAX:
        return [f"a probability is {certificate['softmax_difference']:.1e} from that of the file's own logits"]
    if "budget" not in certificate:
        return []
    budget, worst = certificate["budget"], certificate["worst"][0][0]
    loss = certificate["torch_accuracy"] - certificate["accuracy"]
    checks = [
        (
            certificate["agreement"] < budget["agreement"],
            f"same label on {certificate['agreement']:.2%} of {certificate['images']} photos, "
            f"at least {budget['agreement']:.2%} wanted",
        ),
        (
            not certificate["probability_difference"] <= budget["probability"],
            f"a probability differs by {certificate['probability_difference']:.1e}, "
            f"at most {budget['probability']:.0e} allowed (worst: {worst})",
        ),
        (
            loss > budget["accuracy_loss"] + 1e-9,
            f"accuracy {certificate['accuracy']:.2%}, {_source(certificate)} {certificate['torch_accuracy']:.2%}, "
            f"{100 * budget['accuracy_loss']:.2f} points may be lost",
        ),
        (
            certificate.get("feature_difference", 0) > certificate.get("feature_budget", 0),
            f"features differ by {certificate.get('feature_difference', 0):.1e} of their length, "
            f"at most {certificate.get('feature_budget', 0):.0e} allowed",
        ),
    ]
    return [text for wrong, text in checks if wrong]


def _source(certificate: dict[str, Any]) -> str:
    return "the mean" if "compared_with" in certificate else "torch"


def brief(certificate: dict[str, Any]) -> str:
    "One line for a certificate that is within its budget."
    return (
        f"verified in {certificate['precision']} on {certificate['arithmetic']}: {_source(certificate)}'s label on "
        f"{certificate['agreement']:.2%} of {certificate['images']} photos"
    ) + (f"\nunsure: {unsure_text(certificate['unsure'])}" if "unsure" in certificate else "")


def table(certificate: dict[str, Any]) -> str:
    "The certificate as text, one line per figure."
    low, high = certificate["accuracy_interval"]
    fitted = " (the temperature was fitted to these photos)" if certificate["ece_in_sample"] else ""
    lines = [
        f"{certificate['precision']} on {certificate['images']} labelled photos, on {certificate['arithmetic']}",
        f"  accuracy            {certificate['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})",
        f"  calibration error   {certificate['ece']:.4f}{fitted}",
    ]
    lines += _unsure_lines(certificate)
    if "budget" not in certificate:
        return "\n".join([*lines, "  compared with no trained model: none was given"])
    if "compared_with" in certificate:
        lines.append(f"  compared with       {certificate['compared_with']}")
    if seen := certificate.get("trained_on"):
        lines.append(f"  trained on          {seen} of these photos: no honest accuracy")
    if seen := certificate.get("chosen_by"):
        lines.append(f"  chose the epoch     {seen} of these photos: the accuracy is optimistic")
    budget = certificate["budget"]
    kept, (least, most) = certificate["kept"], certificate["agreement_interval"]
    return "\n".join(
        [
            *lines,
            f"  {_source(certificate)}'s accuracy ".ljust(22) + f"{certificate['torch_accuracy']:.2%} (at most "
            f"{100 * budget['accuracy_loss']:.1f} points higher)",
            f"  same label          {certificate['agreement']:.2%} (95 % interval {least:.2%} to {most:.2%}, "
            f"at least {budget['agreement']:.1%})",
            f"  largest difference  {certificate['probability_difference']:.1e} in a probability "
            f"(at most {budget['probability']:.0e}), {certificate['logit_difference']:.1e} in a logit",
            *_feature_lines(certificate),
            *([f"  kept in float32     {', '.join(kept)}"] if kept else []),
        ]
    )


def _unsure_lines(certificate: dict[str, Any]) -> list[str]:
    return [f"  unsure              {unsure_text(certificate['unsure'])}"] if "unsure" in certificate else []


def unsure_text(found: dict[str, Any]) -> str:
    "Words for the figures of `toolkit.evaluation.selective` at a threshold."
    unsure = found["images"] - found["answered"]
    left = f"{unsure} of {found['images']} photos, with a confidence below {found['threshold']:.4g}"
    if not found["answered"]:
        return left
    low, high = found["precision_interval"]
    return (
        f"{left}; of the others {found['precision']:.2%} are right (95 % interval {low:.2%} to {high:.2%}), "
        f"{found['promise']:g} was promised"
    )


def _feature_lines(certificate: dict[str, Any]) -> list[str]:
    if "feature_difference" not in certificate:
        return []
    figures = f"{certificate['feature_difference']:.1e} of their length (at most {certificate['feature_budget']:.0e})"
    return [f"  features            differ by {figures}, cosine {certificate['feature_cosine']:.5f} or more"]
