"""The parts of fine-tuning that rapid chooses by the data: rate, layers, batch norm, crops, mirroring."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Method:
    "The searched values of rapid's options, by their names."

    lr: float  # highest learning rate, of the head
    frozen: float  # share of the layers, from the first one on, that are not trained
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


METHOD = frozenset(each.name for each in fields(Method))
"The names of the searched options."


def method_of(values: dict[str, Any]) -> Method:
    "Return the Method in values of rapid's options."
    return Method(**{name: values[name] for name in METHOD} | {"mirror": values["mirror"] == "yes"})


def in_words(values: dict[str, Any]) -> str:
    "Return the values by name: `lr 0.001, mirror yes`."
    words = {
        name: f"{value:.3g}" if type(value) is float else str(value).strip("(,)") for name, value in values.items()
    }
    return ", ".join(f"{name} {value}" for name, value in words.items())


def candidates(usual: Method, other: Method, given: Collection[str]) -> list[Method]:
    """Return the methods that a search compares: `usual` first, then others, the most promising first.

    other: the method for photos of the other kind. given: names of options that the user gave, which no variant
    changes.
    """
    variants = [
        {"lr": 2 * usual.lr},
        {"crop_area": other.crop_area},
        {"lr": usual.lr / 2},
        {"mirror": not usual.mirror},
        {"frozen": 0.0},
        {"batch_norm": "adapt" if usual.batch_norm == "fixed" else "fixed"},
    ]
    varied = [replace(usual, **changed) for changed in variants if not changed.keys() & set(given)]
    return list(dict.fromkeys([usual, replace(other, mirror=usual.mirror), *varied]))
