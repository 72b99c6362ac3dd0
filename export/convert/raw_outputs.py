"""Outputs of a model file as they are, numbers or not: for measuring it."""

from collections.abc import Sequence

import numpy as np

from export.runtime.buffers import OUTPUTS, MemoryBuffer
from export.session import Classifier
from toolkit.errors import first_line

BATCH = 16
"The batch size. On a GPU the last batch is padded, because each new shape is planned anew."


def raw_outputs(classifier: Classifier, images: np.ndarray, outputs: Sequence[str] = OUTPUTS) -> tuple[np.ndarray, ...]:
    """The `outputs` of the file, logits and probabilities by default, float32 [n, ...]; they may be NaN.

    images: prepared, uint8 [n, crop, crop, 3].
    """
    own = np.empty((BATCH, *images.shape[1:]), np.uint8)
    buffer = MemoryBuffer(classifier.session, own, classifier.pads, outputs)
    try:
        parts = [buffer.run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ValueError(f"{classifier.model} can't be run on {classifier.device}: {first_line(error)}") from error
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))
