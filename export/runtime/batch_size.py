"""Choose the batch size for `auto`, from the model and the free memory.

On a CPU, each batch is computed by one thread and its size hardly matters. Milliseconds of processor time per image at
1, 2, 4, 8 and 16: resnet18 at 128 pixels 13.3, 12.0, 11.2, 10.7, 10.8, in int8 3.9, 3.8, 3.6, 3.6, 3.6; resnet152 at
224 pixels 209, 209, 215, 218, 214. Small batches bring the first rows sooner. A GPU wants large ones.
"""

from export.runtime.cuda import free_gpu_memory
from toolkit.machine import free_memory

PER_PIXEL = 512
"""Peak bytes that a model needs for each pixel of an image: 26 MB at 224 pixels. Peaks measured on a CPU with
onnxruntime 1.31 in float32: convnext_tiny 384, efficientnet_b0 271, densenet121 248, vit_small 190, mobilenetv2_100
172.
"""

LARGE = 100_000_000
"Above this file size in bytes a model takes long per image."

MOST_ON_GPU = 256


def checked_bs(bs: int | str) -> int | str:
    "The batch size, or auto. Raises ValueError for anything else."
    if bs == "auto":
        return bs
    if not str(bs).isdecimal() or int(bs) < 1:
        raise ValueError(f"--bs {bs}: give auto, or how many images a batch has, at least 1")
    return int(bs)


def choose_bs(bs: int | str, device: str, model_bytes: int, crop: int, in_flight: int) -> int:
    """Return the batch size: `bs` itself, or the choice of auto.

    in_flight: batches that are computed at the same time; auto gives them half of the free memory.
    Raises ValueError if the images of `bs` alone need more memory than is free.
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
