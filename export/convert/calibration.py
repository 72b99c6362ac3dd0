"""The temperature that makes a model's probabilities mean what they say, and what it does.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599
"""

from typing import Any

import numpy as np

from toolkit.evaluation.metrics import softmax
from toolkit.evaluation.summary import summary

FITTED = ("temperature", "images", "ece", "scaled_ece", "nll", "scaled_nll")


def calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    "`toolkit.evaluation.summary.summary`'s FITTED of logits float [n, classes] and labels int [n]."
    found = summary(softmax(logits), labels)
    return {name: found[name] for name in FITTED}


def temperature_line(fitted: dict[str, Any]) -> str:
    "The calibration for a person to read."
    if "ece" not in fitted:
        return "  temperature         1, none was fitted"
    if fitted["temperature"] == 1:
        return "  temperature         1: none that was fitted to half of the photos helps on the other half"
    told = f"calibration error {fitted['ece']:.4f} without, {fitted['scaled_ece']:.4f} with one fitted to other photos"
    return f"  temperature         {fitted['temperature']:.3g}: {told}"
