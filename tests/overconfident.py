"""Made-up probabilities and labels for tests of metrics and calibration."""

import numpy as np

from toolkit.evaluation.metrics import softmax


def overconfident(n=400, classes=7, seed=0, dtype=np.float64):
    "Probabilities [n, classes] and labels [n] of a model that is right about two times in three and overconfident."
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes)) * 2
    logits[np.arange(n), labels] += 2.5
    return softmax(logits * 1.8).astype(dtype), labels
