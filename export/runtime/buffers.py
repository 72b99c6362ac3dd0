"""The memory of a batch of prepared images, ordinary or pinned for a GPU, on which the model is run."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from export.runtime.cuda import pin, pinned
from export.runtime.progress import print_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, RunOptions

OUTPUTS = ["logits", "probabilities"]
FEATURES = "features"
"The output that a file has if it was exported with --features. It is computed only if it is asked for."


class Buffer(Protocol):
    images: np.ndarray
    "uint8 [batch, crop, crop, 3] RGB."

    def run(self, images: np.ndarray, options: "RunOptions | None" = None) -> list[np.ndarray]:
        "The outputs, float32 [n, ...], of n prepared images: the first n of the buffer, or others."


class MemoryBuffer:
    "Ordinary memory, from which the model reads the images. With `pads` the last batch is padded with black images."

    def __init__(self, session: "InferenceSession", images: np.ndarray, pads: bool, outputs: Sequence[str] = OUTPUTS):
        self.session, self.images, self.pads, self.outputs = session, images, pads, outputs

    def run(self, images: np.ndarray, options: "RunOptions | None" = None) -> list[np.ndarray]:
        missing = len(self.images) - len(images) if self.pads else 0
        batch = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing > 0 else images
        return [output[: len(images)] for output in self.session.run(self.outputs, {"image": batch}, options)]


class BoundBuffer:
    """Pinned memory, bound to memory on the device: a run allocates nothing, and every batch is whole.

    Buffers that run at the same time have one stream each: onnxruntime gives every run its own.
    """

    def __init__(
        self,
        session: "InferenceSession",
        shape: tuple[int, ...],
        device: str = "cuda",
        images: np.ndarray | None = None,
        classes: int | None = None,
        outputs: Sequence[str] = OUTPUTS,
    ):
        """images: memory of that shape to use, which is pinned in place; its own memory if None.
        classes: columns of the outputs, which then have fixed addresses on the device, as a CUDA graph needs; if None
        the run copies them to the CPU's memory. outputs: the names of the outputs to compute.
        """
        import onnxruntime

        self.session, self.images = session, self._memory(shape, device) if images is None else images
        if images is not None and device == "cuda":
            with _pinned_if_possible():
                pin(images)
        fixed = functools.partial(onnxruntime.OrtValue.ortvalue_from_shape_and_type, device_type=device, device_id=0)
        self.on_device = fixed(shape, np.uint8)
        self.binding = session.io_binding()
        self.binding.bind_ortvalue_input("image", self.on_device)
        for name in outputs:
            if classes is None:
                self.binding.bind_output(name)  # in the CPU's memory
            else:
                self.binding.bind_ortvalue_output(name, fixed((shape[0], classes), np.float32))

    def run(self, images: np.ndarray, options: "RunOptions | None" = None) -> list[np.ndarray]:
        if not np.may_share_memory(images, self.images):
            self.images[: len(images)] = images
        self.images[len(images) :] = 0
        self.on_device.update_inplace(self.images)  # uint8 over the bus
        self.session.run_with_iobinding(self.binding, options)
        return [output[: len(images)] for output in self.binding.copy_outputs_to_cpu()]

    @staticmethod
    def _memory(shape: tuple[int, ...], device: str) -> np.ndarray:
        if device == "cuda":
            with _pinned_if_possible():
                return pinned(shape)
        return np.zeros(shape, np.uint8)


@contextmanager
def _pinned_if_possible() -> Iterator[None]:
    "If the driver refuses to pin memory, say so. A GPU reads memory that is not pinned a little slower."
    try:
        yield
    except OSError as error:
        print_line(f"photos go to the GPU from memory that is not pinned: {error}")
