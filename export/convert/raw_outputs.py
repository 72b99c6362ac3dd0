"""Logits and probabilities of a model file as they are, numbers or not: for measuring it."""

import numpy as np

from export.runtime.buffers import MemoryBuffer
from export.runtime.metadata import first_line
from export.session import Classifier

BATCH = 16
"The batch size. On a GPU the last batch is padded, because each new shape is planned anew."


def raw_outputs(classifier: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "Logits and probabilities, float32 [n, classes], of prepared images, uint8 [n, crop, crop, 3]; they may be NaN."
    buffer = MemoryBuffer(classifier.session, np.empty((BATCH, *images.shape[1:]), np.uint8), classifier.pads)
    try:
        parts = [buffer.run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ValueError(f"{classifier.model} can't be run on {classifier.device}: {first_line(error)}") from error
    logits, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return logits, probabilities
