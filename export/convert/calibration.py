"""Fit the temperature that makes a model's probabilities match how often it is right.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599
"""

from typing import Any

import numpy as np

from toolkit.evaluation.metrics import softmax
from toolkit.evaluation.summary import summary

FITTED = ("temperature", "images", "ece", "scaled_ece", "nll", "scaled_nll")


def calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    "The FITTED values of `toolkit.evaluation.summary.summary` for logits float [n, classes] and labels int [n]."
    found = summary(softmax(logits), labels)
    return {name: found[name] for name in FITTED}


def temperature_line(fitted: dict[str, Any]) -> str:
    "One line that describes the calibration."
    if "ece" not in fitted:
        return "  temperature         1, none was fitted"
    if fitted["temperature"] == 1:
        return "  temperature         1: one that was fitted to half of the photos does not help on the other half"
    errors = (
        f"calibration error {fitted['ece']:.4f} without, {fitted['scaled_ece']:.4f} with one fitted to other photos"
    )
    return f"  temperature         {fitted['temperature']:.3g}: {errors}"
