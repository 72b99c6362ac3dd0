"""The state of all random number generators, read and restored."""

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of every generator that training may draw from: torch's, the GPU's, numpy's and Python's.

    "cuda" holds the state of the current GPU, and is empty if no GPU is in use. Ranks draw the same on their GPUs.
    """
    kind, keys, *rest = np.random.get_state()
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [kind, keys.tolist(), *rest],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    "Restore the generators to a state that `random_state` returned."
    torch.set_rng_state(state["torch"])
    if (gpus := state["cuda"]) and torch.cuda.is_initialized():
        # earlier versions kept the state of every GPU that torch saw, which may be more than there are now
        torch.cuda.set_rng_state(gpus[min(torch.cuda.current_device(), len(gpus) - 1)])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state["python"])
