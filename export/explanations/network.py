"""A run's network that explains photos: its predictions, each with a heatmap of one class."""

import difflib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from export.predictions.inputs import Named
from export.reading.prepare import prepared
from toolkit.errors import first_few
from toolkit.evaluation.metrics import softmax
from toolkit.run import Run

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH = 16


class Explained(NamedTuple):
    "A photo with its heatmap."

    pixels: np.ndarray  # uint8 [crop, crop, 3] RGB, as the network sees it
    cells: np.ndarray  # uint8 [side, side]: how much each part speaks for the class that is explained
    prediction: str
    confidence: float  # of the prediction, before temperature scaling
    explained: str  # the class of the heatmap
    probability: float  # of that class, before temperature scaling


@dataclass(frozen=True)
class Network:
    "A run's network on its device, with the layer that gives its heatmaps."

    model: "nn.Module"
    device: "torch.device"
    layer: str
    classes: list[str]
    preprocess: dict[str, Any]
    label: str | None
    "The class to explain; None for the predicted one of each photo."


def opened(run: Run, label: str | None, device: str) -> Network:
    """Return the run's network with its best weights.

    Raises ValueError for a class that the run does not know and for a network without a layer for heatmaps, and as
    `Run.model` and `pick_device` do.
    """
    from toolkit.features.heatmaps.layers import heatmap_layer
    from toolkit.learner.device import pick_device

    classes, preprocess = run.recipe["classes"], run.recipe["preprocess"]
    if label is not None and label not in classes:
        near = difflib.get_close_matches(label, classes, n=3, cutoff=0.5) or classes
        raise ValueError(f"--label {label}: {run.folder} has no such class; give one of them, as {first_few(near)}")
    place = pick_device(device)
    model = run.model(place)
    return Network(model, place, heatmap_layer(model, preprocess["crop"]), classes, preprocess, label)


def explain_all(network: Network, photos: Named) -> Iterator[Explained | Exception]:
    "Yield each photo with its heatmap, or the error for a photo that can't be read."
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(photos), BATCH):
            paths = [path for _, path in photos[start : start + BATCH]]
            read = list(pool.map(partial(_read, preprocess=network.preprocess), paths))
            found = iter(_explain(network, [each for each in read if isinstance(each, np.ndarray)]))
            for each in read:
                yield next(found) if isinstance(each, np.ndarray) else each


def _read(path: Path, preprocess: dict[str, Any]) -> np.ndarray | Exception:
    try:
        return prepared(path, preprocess)
    except (ValueError, OSError) as error:
        return error


def _explain(network: Network, pixels: list[np.ndarray]) -> list[Explained]:
    "Explain prepared photos, each uint8 [crop, crop, 3] RGB."
    import torch

    from toolkit.features.heatmaps.layer_cam import as_bytes, layer_cam

    if not pixels:
        return []
    mean, std = (torch.tensor(network.preprocess[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
    wanted = None if network.label is None else network.classes.index(network.label)
    chosen = None if wanted is None else torch.full([len(pixels)], wanted, device=network.device)
    logits, heatmaps = layer_cam(network.model, images.to(network.device), network.layer, chosen)
    found = []
    for photo, cells, each in zip(pixels, as_bytes(heatmaps), softmax(logits.cpu().numpy()), strict=True):
        best = int(each.argmax())
        index = best if wanted is None else wanted
        names = network.classes[best], network.classes[index]
        found.append(Explained(photo, cells, names[0], float(each[best]), names[1], float(each[index])))
    return found
