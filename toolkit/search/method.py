"""The parts of fine-tuning that rapid chooses by the data: rate, layers, batch norm, crops, mirroring."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from toolkit.finetuning.layer_decay import decay_over

FIRST_LAYER = 0.02  # ratio of the first layer's learning rate to the head's, if training is gentle
GENTLE_RATE = 0.6  # of the usual learning rate, if training is gentle


@dataclass(frozen=True)
class Method:
    "The searched values of rapid's options, by their names."

    lr: float  # highest learning rate, of the head
    layer_decay: float  # ratio of a layer's learning rate to the next one's; 1: all layers learn at one rate
    batch_norm: str  # adapt: batch norms take the statistics of these photos; fixed: they keep those of pretraining
    crop_area: float  # smallest share of a photo's area in a training crop
    mirror: bool  # half of the training photos are mirrored

    def own_options(self) -> dict[str, Any]:
        "Return the values of rapid's own options."
        values = asdict(self) | {"mirror": "yes" if self.mirror else "no"}
        return {name: value for name, value in values.items() if name != "lr"}

    def __str__(self) -> str:
        return in_words({"lr": self.lr} | self.own_options())


def in_words(values: dict[str, Any]) -> str:
    "Return the values by name: `lr 0.001, mirror yes`."
    words = {
        name: f"{value:.3g}" if type(value) is float else str(value).strip("(,)") for name, value in values.items()
    }
    return ", ".join(f"{name} {value}" for name, value in words.items())


def candidates(usual: Method, model: nn.Module, given: Collection[str]) -> list[Method]:
    """Return the methods that a search compares: `usual` first, then variants of it, the most promising first.

    given: names of options that the user gave, which no variant changes.
    """
    gentle = {"lr": GENTLE_RATE * usual.lr, "layer_decay": round(decay_over(model, FIRST_LAYER), 3)}
    variants = [
        gentle | {"batch_norm": "fixed"},
        {"lr": 2 * usual.lr},
        {"crop_area": 0.25},
        {"lr": usual.lr / 2},
        {"mirror": not usual.mirror},
        {"batch_norm": "adapt" if usual.batch_norm == "fixed" else "fixed"},
    ]
    return [usual, *(replace(usual, **changed) for changed in variants if not changed.keys() & set(given))]
