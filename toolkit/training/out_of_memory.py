"""Out of memory: back to where the optimiser step began, with the same photos in batches half as large."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from toolkit import ranks
from toolkit.finetuning.linear_probe import is_probing
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.learner import Learner
from toolkit.learner.performance import by_dtype
from toolkit.learner.random_state import random_state
from toolkit.training.state import TrainState


class StepStart:
    """The state at the start of the present optimiser step: random generators and batch norm's averages.

    A step's forward passes change both.

    random: as `random_state` returns it; None before the first step. intact: the optimiser is not changing weights now.
    """

    def __init__(self, model: nn.Module):
        averages = list(model.buffers())
        self.pairs = by_dtype([torch.empty_like(tensor) for tensor in averages], averages)  # made once, used each step
        self.random: dict[str, Any] | None = None
        self.intact = True

    def mark(self) -> None:
        "Remember this moment as the beginning of a step."
        for kept, averages in self.pairs:
            torch._foreach_copy_(kept, averages)
        self.random = random_state()

    @torch.no_grad()
    def restore_averages(self) -> None:
        for kept, averages in self.pairs:
            torch._foreach_copy_(averages, kept)


def can_halve(learn: Learner, step: StepStart) -> bool:
    """True if smaller batches help `learn`, which ran out of memory, and can be trained on from the start of `step`.

    They can't without AccumulateGradients, if the optimiser stopped half-way, and beside other ranks, which wait for
    this one inside the step. They are no help to a linear probe, which holds the features of all photos.
    """
    alone, accumulates = ranks.count() == 1, learn.callback(AccumulateGradients) is not None
    return alone and accumulates and step.random is not None and step.intact and not is_probing(learn)


def halve_batch(state: TrainState) -> TrainState | None:
    """Return `state` with a batch at most half as large and more of them accumulated; None for a batch of one photo.

    An optimiser step has the same photos as before, so the new batch size divides their number.
    """
    photos = state.accum * state.bs
    smaller = next((size for size in range(state.bs // 2, 0, -1) if photos % size == 0), None)
    return None if smaller is None else replace(state, bs=smaller, accum=photos // smaller)
