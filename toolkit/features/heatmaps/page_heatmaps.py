"""Heatmaps of the photos on a run's page, made once at the end of the run."""

import torch
from torch import Tensor

from toolkit.errors import reason_of
from toolkit.evaluation.heatmaps import Heatmap, Heatmaps, write_heatmaps
from toolkit.evaluation.mistakes import on_page
from toolkit.evaluation.results import Predictions, read_predictions
from toolkit.features.extract import photo_batches
from toolkit.features.heatmaps.layer_cam import as_bytes, layer_cam
from toolkit.features.heatmaps.layers import heatmap_layer
from toolkit.learner.device import in_float32
from toolkit.learner.learner import Learner
from toolkit.learner.performance import fast_math, uncompiled
from toolkit.run import Run

BATCH = 16


def explain_page(learn: Learner, run: Run) -> None:
    """Write heatmaps.json: heatmaps of the predictions that the run's page shows, by the present weights of `learn`.

    It comes after `evaluate`. If the network has no layer for heatmaps, or torch can't compute them (memory runs out),
    the file has the reason instead, and the page shows it: no run fails for the want of heatmaps.
    """
    predictions, device = read_predictions(run), learn.dls.device
    if predictions is None:
        return
    try:
        with uncompiled(), in_float32(learn.model), fast_math(device, learn.exact):
            try:
                layer = heatmap_layer(learn.model, learn.dls.preprocess["crop"])
            except ValueError as error:
                heatmaps = Heatmaps(missing=str(error))
            else:
                heatmaps = Heatmaps(layer, _heatmaps(learn, layer, predictions))
    except RuntimeError as error:
        heatmaps = Heatmaps(missing=reason_of(error))
    write_heatmaps(run, heatmaps)


def _heatmaps(learn: Learner, layer: str, predictions: Predictions) -> dict[str, Heatmap]:
    "The heatmap of each photo of the page for the class that was predicted."
    data, shown = learn.dls.data, on_page(predictions)
    paths = {data.relative(path): path for path in data.valid}
    photos, predicted = [paths[predictions.files[i]] for i in shown], predictions.predictions[shown]
    explained, cells = torch.from_numpy(predicted).to(learn.dls.device), []
    for (images,) in photo_batches(photos, learn.dls.preprocess, learn.dls.device, bs=BATCH):
        part = explained[len(cells) : len(cells) + len(images)]
        cells.extend(as_bytes(layer_cam(learn.model, images.as_subclass(Tensor), layer, part)[1]))
    names = [predictions.classes[index] for index in predicted]
    files = [predictions.files[i] for i in shown]
    return {file: Heatmap(name, each) for file, name, each in zip(files, names, cells, strict=True)}
