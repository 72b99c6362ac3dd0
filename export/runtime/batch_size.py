"""How many images a batch has, where that is left to `auto`: from the model and the memory there is.

On a CPU, where a thread computes a batch alone, it hardly matters. Milliseconds of the processor an image at 1, 2, 4, 8
and 16: resnet18 at 128 pixels 13.3, 12.0, 11.2, 10.7, 10.8, in int8 3.9, 3.8, 3.6, 3.6, 3.6; resnet152 at 224 pixels
209, 209, 215, 218, 214. Small batches bring the first rows sooner. A GPU wants large ones.
"""

from export.runtime.cuda import free_gpu_memory
from toolkit.machine import free_memory

PER_PIXEL = 512
"""Bytes that a model holds at once for each pixel of an image, at most: 26 MB at 224 pixels. Peaks measured on a CPU
with onnxruntime 1.31 in float32: convnext_tiny 384, efficientnet_b0 271, densenet121 248, vit_small 190,
mobilenetv2_100 172.
"""

LARGE = 100_000_000
"A model file of more bytes takes its time over an image."

MOST_ON_GPU = 256


def checked_bs(bs: int | str) -> int | str:
    "auto, or how many images a batch has. Raises ValueError for anything else."
    if bs == "auto":
        return bs
    if not str(bs).isdecimal() or int(bs) < 1:
        raise ValueError(f"--bs {bs}: give auto, or how many images a batch has, at least 1")
    return int(bs)


def choose_bs(bs: int | str, device: str, model_bytes: int, crop: int, in_flight: int) -> int:
    """Images a batch: `bs` itself, or what auto comes to.

    in_flight: batches that are computed at a time; half of the free memory is theirs.
    Raises ValueError for a `bs` whose images alone are more than the memory holds.
    """
    if checked_bs(bs) != "auto":
        needed, free = int(bs) * in_flight * crop**2 * 3, free_memory()
        if needed > free:
            raise ValueError(
                f"--bs {bs}: the images of {in_flight} batches take {needed / 1e9:.3g} GB, "
                f"{free / 1e9:.3g} GB are free: give a smaller one, or auto"
            )
        return int(bs)
    free = free_memory() if device == "cpu" else free_gpu_memory()
    most = MOST_ON_GPU if device != "cpu" else 1 if model_bytes > LARGE else 8
    while most > 1 and most * in_flight * crop**2 * PER_PIXEL > free / 2:
        most //= 2
    return most
