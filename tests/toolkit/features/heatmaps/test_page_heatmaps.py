"""Heatmaps of a run's page, made at its end and shown again from its folder."""

import shutil

import numpy as np
import pytest
from PIL import Image

from toolkit.evaluation.heatmaps import read_heatmaps
from toolkit.evaluation.mistakes import on_page
from toolkit.evaluation.results import read_predictions
from toolkit.features.heatmaps import page_heatmaps
from toolkit.features.heatmaps.layer_cam import layer_cam
from toolkit.pages.run_page import write_report
from toolkit.run import load


@pytest.fixture(scope="module")
def explained(digits_run, tmp_path_factory):
    folder = shutil.copytree(digits_run.folder, tmp_path_factory.mktemp("explained") / "run")
    page_heatmaps.explain_page(load(folder).learner("cpu"), load(folder))
    return load(folder)


def test_every_photo_of_the_page_is_explained_for_its_prediction(explained):
    predictions, heatmaps = read_predictions(explained), read_heatmaps(explained)
    shown = on_page(predictions)
    assert 24 <= len(shown) < len(predictions.files)
    assert set(heatmaps.photos) == {predictions.files[i] for i in shown}
    for i in shown:
        cells = heatmaps.of(predictions.files[i], predictions.classes[predictions.predictions[i]])
        assert cells.shape == (8, 8)
        assert cells.max() == 255


def test_a_heatmap_of_the_page_is_that_of_the_photo_prepared_by_hand(explained):
    import torch

    heatmaps, model, preprocess = read_heatmaps(explained), explained.model(), explained.recipe["preprocess"]
    file, found = next(iter(heatmaps.photos.items()))
    with Image.open(f"{explained.recipe['data']['path']}/{file}") as image:
        side, crop = preprocess["resize"], preprocess["crop"]
        small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        edge = round((side - crop) / 2)
        pixels = np.array(small.crop((edge, edge, edge + crop, edge + crop)))
    photo = (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    wanted = torch.tensor([explained.recipe["classes"].index(found.explained)])
    cells = layer_cam(model, photo, heatmaps.layer, wanted)[1][0].numpy()
    assert np.abs(cells - found.cells / 255).max() < 0.06  # Pillow's bilinear filter differs by about a grey level


def test_the_page_shows_them_again_without_a_model_and_without_scripts(explained):
    (explained.folder / "best.safetensors").rename(explained.folder / "gone")
    try:
        page = write_report(load(explained.folder)).read_text()
    finally:
        (explained.folder / "gone").rename(explained.folder / "best.safetensors")
    assert page.count('class="heat"') == page.count('class="shot"') > 24
    assert page.count('<label class="switch">') == 3
    assert "are of layer <code>layer1</code>" in page


def test_the_page_says_why_there_are_none(explained, tmp_path):
    folder = shutil.copytree(explained.folder, tmp_path / "run")
    learn = load(folder).learner("cpu")
    learn.model.feature_info = []
    page_heatmaps.explain_page(learn, load(folder))
    page = write_report(load(folder)).read_text()
    assert "No heatmaps: no layer of ResNet has a map of a photo of 32 pixels that heatmaps could be made of" in page
    assert 'class="heat"' not in page
    assert '<label class="switch">' not in page


def test_out_of_memory_ends_no_run(explained, tmp_path, monkeypatch):
    import torch

    folder = shutil.copytree(explained.folder, tmp_path / "run")

    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(page_heatmaps, "layer_cam", full)
    page_heatmaps.explain_page(load(folder).learner("cpu"), load(folder))
    assert read_heatmaps(load(folder)).missing == "CUDA out of memory. Tried to allocate 2 GiB"
