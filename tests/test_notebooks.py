"""The notebooks run from top to bottom, and a learner does what fastai's users expect of one."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def executed(notebook, folder):
    "The notebook, run in `folder` by this very interpreter."
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self):
            return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])

    content = nbformat.read(notebook, as_version=4)
    client = NotebookClient(content, timeout=300, kernel_manager_class=ThisPython)
    client.execute(cwd=str(folder))
    return content


def outputs(content):
    return [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_defines_nothing(notebook):
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in cells if cell["outputs"] or cell["execution_count"]] == []
    lines = "".join("".join(cell["source"]) + "\n" for cell in cells).splitlines()
    assert [line for line in lines if line.startswith(("def ", "class ", "%", "!"))] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end_and_warns_of_nothing(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # a clone may be tested without being installed
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two that wait for each other crawl where other tests keep a core
    content = executed(notebook, tmp_path)
    complaints = [output.text for output in outputs(content) if output.get("name") == "stderr"]
    assert [text for text in complaints if "IProgress" not in text] == []  # tqdm misses ipywidgets, which are optional
    assert list(tmp_path.glob("models/*")) == []  # what lr_find writes it takes away
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "runs", "models"}


# A learner of hw1, as a notebook would use it


@pytest.fixture(scope="module")
def few(grocery, tmp_path_factory):
    "A CSV of 60 photos: two of each class to train on, one to validate."
    rows = [("path", "label", "split")]
    for split, count in (("train", 2), ("val", 1)):
        for place in sorted((grocery / split).iterdir()):
            rows += [(photo, place.name, split) for photo in sorted(place.iterdir())[:count]]
    path = tmp_path_factory.mktemp("few") / "few.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def learn(few, mobilenet_weights, tmp_path, monkeypatch):
    import matplotlib

    from recipes import hw1

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)  # where lr_find and learn.save write
    arch = {"arch": "mobilenetv2_100", "weights": str(mobilenet_weights)}
    learner = hw1.learner(few, **arch, bs=8, image_size=64, workers=0, device="cpu", precision="fp32")
    with learner.no_bar(), learner.no_logging():
        yield learner
    matplotlib.pyplot.close("all")


def photos(learn):
    return list(learn.dls.data.valid)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model, before):
    return all(before[name].equal(tensor) for name, tensor in model.state_dict().items())


def test_lr_find_suggests_a_rate_and_leaves_nothing_behind(learn, few, tmp_path):
    before = state(learn.model)
    suggestion = learn.lr_find(num_it=8, show_plot=False)
    assert 1e-7 <= suggestion.valley <= 10
    assert unchanged(learn.model, before)
    assert list(few.parent.iterdir()) == [few]
    assert list((tmp_path / "models").iterdir()) == []
    learn.fit(1)
    assert not unchanged(learn.model, before)


def test_predicting_and_validating_works_before_any_fit_and_moves_no_schedule(learn):
    learn.predict(photos(learn)[0])
    learn.validate()
    learn.fit(1)
    before = learn.plateau.scheduler.state_dict()
    learn.predict(photos(learn)[0])
    learn.get_preds()
    assert learn.plateau.scheduler.state_dict() == before


def test_fit_twice_fit_one_cycle_and_fine_tune_all_train(learn):
    for train in (learn.fit, learn.fit, learn.fit_one_cycle, learn.fine_tune):
        before = state(learn.model)
        train(1)
        assert not unchanged(learn.model, before)
        assert all(param.requires_grad for param in learn.model.parameters())


def test_the_rates_of_fit_one_cycle_are_those_the_optimiser_steps_with(learn):
    from fastai.callback.core import Callback

    class Rates(Callback):
        order, seen = 1000, []  # after every schedule

        def before_step(self):
            self.seen.append(self.opt.opt.param_groups[-1]["lr"])

    learn.fit_one_cycle(2, 1e-2, cbs=Rates())
    n, rates = len(learn.dls.train), learn.recorder.hps["lr"]
    steps = [epoch * n + batch for epoch in range(2) for batch in range(n) if batch % 2 or batch + 1 == n]
    assert Rates.seen == pytest.approx([rates[step] for step in steps])


def test_one_photo_predicts_alike_from_path_text_bytes_pil_and_array(learn):
    photo = photos(learn)[0]
    image = Image.open(photo)
    array = np.asarray(image.convert("RGB"))
    expected = learn.predict(photo)
    assert expected[0] == learn.dls.vocab[expected[1]]
    assert expected[2].sum() == pytest.approx(1)
    for source in (str(photo), photo.read_bytes(), array, Image.fromarray(array)):
        found = learn.predict(source)
        assert found[0] == expected[0]
        assert abs(found[2] - expected[2]).max() < 0.02  # the JPEG decoders of Pillow and OpenCV differ by a level


def test_a_pil_image_is_read_as_its_file_is(learn, tmp_path):
    image = Image.open(photos(learn)[0]).convert("RGB")
    turned, clear = Image.Exif(), image.convert("RGBA")
    turned[0x0112] = 6
    clear.putalpha(0)
    for name, saved, options in (
        ("a.png", image, {"exif": turned}),
        ("b.png", clear, {}),
        ("c.tif", image.convert("CMYK"), {}),
    ):
        saved.save(tmp_path / name, **options)
        read = learn.predict(tmp_path / name)[2]
        with Image.open(tmp_path / name) as opened:
            assert learn.predict(opened)[2].equal(read)


def test_a_photo_without_a_known_label_is_named(learn, grocery):
    stranger = next(iter((grocery / "test").iterdir()))
    with pytest.raises(ValueError, match=f"{stranger.name} is neither in train nor in valid"):
        learn.dls.test_dl([stranger], with_labels=True).one_batch()


def test_predict_is_the_plain_model_on_the_prepared_photo(learn):
    import torch

    from toolkit.photo import read_photo
    from toolkit.preprocess import prepare

    photo = photos(learn)[3]
    pixels = prepare(read_photo(photo), learn.dls.preprocess) / 255
    normal = (pixels - learn.dls.preprocess["mean"]) / learn.dls.preprocess["std"]
    learn.model.eval()
    with torch.no_grad():
        logits = learn.model(torch.tensor(normal.transpose(2, 0, 1)[None], dtype=torch.float32))
    assert learn.predict(photo)[2].numpy() == pytest.approx(logits.softmax(1)[0].numpy(), abs=1e-5)


def test_test_dl_predicts_alike_with_any_batch_and_workers(learn):
    paths = photos(learn)[:9]
    alone = np.stack([learn.predict(path)[2] for path in paths])
    for options in ({"num_workers": 2}, {"bs": 4}, {"with_labels": True}):
        found = learn.get_preds(dl=learn.dls.test_dl(paths, **options))[0].numpy()
        assert found == pytest.approx(alone, abs=1e-5)


def test_the_passes_of_tta_differ_and_their_mean_is_what_it_gives(learn):
    import torch

    passes, dl = [], learn.dls.valid
    with dl.dataset.set_split_idx(0):
        first = dl.draws.next_epoch
        passes = [learn.get_preds(dl=dl)[0] for _ in range(2)]
    assert not torch.allclose(passes[0], passes[1])
    dl.draws.next_epoch = first
    augmented = learn.tta(n=2, beta=0)[0]  # fastai's beta is the share of the plain prediction
    assert augmented.numpy() == pytest.approx(torch.stack(passes).mean(0).numpy(), abs=1e-5)


def shown():
    "[(title, picture uint8 [height, width, 3])] of the axes that hold a picture, in order."
    from matplotlib import pyplot as plt

    axes = [ax for number in plt.get_fignums() for ax in plt.figure(number).axes if ax.images]
    return [(ax.get_title(), np.asarray(ax.images[0].get_array())) for ax in axes]


def test_show_batch_shows_photos_in_their_colours_under_class_names(learn):
    learn.dls.valid.show_batch(max_n=4)
    found = shown()
    assert [title for title, _ in found] == [learn.dls.data.valid[path] for path in photos(learn)[:4]]
    for (_, picture), path in zip(found, photos(learn), strict=False):
        with Image.open(path) as image:  # torchvision's Resize and CenterCrop, by Pillow
            image = image.convert("RGB")
            scale = 73 / min(image.size)
            small = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
        left, top = (small.width - 64) // 2, (small.height - 64) // 2
        expected = np.asarray(small.crop((left, top, left + 64, top + 64))) / 255
        assert picture.shape == (64, 64, 3)
        assert abs(picture / 255 - expected).mean() < 0.02


def test_show_results_gives_target_and_prediction_by_name(learn):
    learn.show_results(max_n=4, shuffle=False)
    said = [learn.predict(path)[0] for path in photos(learn)[:4]]
    names = [learn.dls.data.valid[path] for path in photos(learn)[:4]]
    assert [title.splitlines() for title, _ in shown()] == [list(pair) for pair in zip(names, said, strict=True)]


def test_interpretation_counts_and_ranks_the_validation_photos(learn):
    from fastai.interpret import ClassificationInterpretation

    interpretation = ClassificationInterpretation.from_learner(learn)
    probabilities, labels = (part.numpy() for part in learn.get_preds())
    expected = np.zeros((20, 20), int)
    np.add.at(expected, (labels, probabilities.argmax(1)), 1)
    assert (interpretation.confusion_matrix() == expected).all()
    worst = np.argsort(probabilities[np.arange(len(labels)), labels])[:3]
    assert interpretation.top_losses(3, items=True)[2] == [photos(learn)[index] for index in worst]
    interpretation.plot_confusion_matrix()
    interpretation.plot_top_losses(4)
    assert len(shown()) == 1 + 4
