"""The temperature that makes a model's probabilities mean what they say, and what it does.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599
"""

from typing import Any

import numpy as np

from toolkit.metrics import (
    calibration_error,
    negative_log_likelihood,
    reliability_curve,
    scaled_by_other_half,
    softmax,
    temperature,
)


def calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Of logits float [n, classes] and labels int [n]: temperature, images (n), ece and nll as they are, and scaled_ece
    and scaled_nll as they are after a temperature that did not see the photo: each half has the other half's.

    Where the likelihood of these is no better than without, as on a few photos it may be, the temperature is 1.
    """
    before, after = softmax(logits), scaled_by_other_half(softmax(logits), labels)
    right = logits.argmax(1) == labels
    ece, scaled_ece = (calibration_error(reliability_curve(np.minimum(p.max(1), 1), right)) for p in (before, after))
    nll, scaled_nll = (negative_log_likelihood(p, labels) for p in (before, after))
    return {
        "temperature": temperature(logits, labels) if scaled_nll < nll else 1.0,
        "images": len(labels),
        "ece": ece,
        "scaled_ece": scaled_ece,
        "nll": nll,
        "scaled_nll": scaled_nll,
    }


def temperature_line(fitted: dict[str, Any]) -> str:
    "The calibration for a person to read."
    if "ece" not in fitted:
        return "  temperature         1, none was fitted"
    told = f"calibration error {fitted['ece']:.4f} without, {fitted['scaled_ece']:.4f} with one fitted to other photos"
    return f"  temperature         {fitted['temperature']:.3g}: {told}"
