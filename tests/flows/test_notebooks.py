"""The notebooks run from top to bottom, and a learner does what fastai's users expect of one."""

import ast
import csv
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
UPDATE = "write the outputs again: UPDATE=1 pytest tests/flows/test_notebooks.py"
LARGEST = 250_000  # bytes of a notebook with its outputs
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def executed(notebook, folder):
    "The notebook, run in `folder` by this very interpreter."
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


def printed(content):
    return "".join(output.text for output in outputs(content) if output.get("name") == "stdout")


def pictures(content):
    return sum("image/png" in output.get("data", {}) for output in outputs(content))


def stored(name):
    "Sources of the code cells and of the text cells."
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    return [["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind] for kind in ("code", "markdown")]


def test_the_notebooks_are_those_that_are_tested_here():
    assert [path.stem for path in NOTEBOOKS] == ["01_first_model", "02_look_and_tune", "03_from_run_to_onnx"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_small_outputs_and_defines_nothing(notebook):
    text = notebook.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), UPDATE
    assert len(text) < LARGEST
    kinds = [output.get("name", output["output_type"]) for cell in cells for output in cell["outputs"]]
    assert "stdout" in kinds
    assert "display_data" in kinds
    assert not {"stderr", "error"} & set(kinds)
    assert not re.search(r"/(?:home|root|tmp|work|usr)/", text)
    last = "".join(json.loads(text)["cells"][-1]["source"])
    assert "python -m" not in last
    defines = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    for source in stored(notebook.stem)[0]:
        assert [node for node in ast.walk(ast.parse(source)) if isinstance(node, defines)] == []  # no magics: it parses


def test_the_first_notebook_takes_ten_cells():
    assert len(stored("01_first_model")[0]) == 10


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    "Each notebook once run, by its name; in one folder, so that the digits are written and checked once."
    folder, done = tmp_path_factory.mktemp("notebooks"), {}

    def run(name):
        if name not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PYTHONPATH", str(ROOT))  # a clone may be tested without being installed
                patch.setenv("OMP_NUM_THREADS", "1")  # two that wait for each other crawl where tests keep a core
                done[name] = executed(ROOT / "notebooks" / f"{name}.ipynb", folder)
            if os.environ.get("UPDATE"):
                keep(done[name], ROOT / "notebooks" / f"{name}.ipynb")
            assert list(folder.glob("models/*")) == []  # what lr_find writes it takes away
            assert {path.name for path in folder.iterdir()} <= {"data", "runs", "models"}
        return done[name]

    return run


def shows(output):
    "True unless an output is of stderr, or a progress bar that has ended and shows nothing."
    html = output.get("data", {}).get("text/html")
    return output.get("name") != "stderr" and (html is None or "<td>" in html)


def keep(content, notebook):
    "Store a notebook with its outputs, without what it said on stderr and when."
    kept = nbformat.from_dict(content)
    for cell in kept.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if shows(output)]
    kept.metadata.language_info = {"name": "python"}
    notebook.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def complaints(content):
    said = [output.text for output in outputs(content) if output.get("name") == "stderr"]
    return [text for text in said if "IProgress" not in text]  # tqdm misses ipywidgets, which are optional


@pytest.mark.long
def test_the_first_notebook_predicts_digits(ran):
    content = ran("01_first_model")
    assert complaints(content) == []
    text = printed(content)
    accuracy, images, low, high = re.search(
        r"([\d.]+)% of (\d+) photos are right, 95 % interval ([\d.]+)% to ([\d.]+)%", text
    ).groups()
    assert float(low) < float(accuracy) <= float(high)
    assert float(accuracy) > 80
    assert images == "270"
    photo, label = re.search(r"(\d+)\.png -> (\d) [\d.]+%", text).groups()
    assert text.split()[-1] == label == _true_label(photo)
    shares = [float(share) for share in re.findall(r"^\d+\.png \d ([\d.]+)%$", text, re.MULTILINE)]
    assert len(shares) == 5
    assert shares == sorted(shares)
    assert pictures(content) == 2  # a batch, results


def _true_label(photo):
    from sklearn.datasets import load_digits

    return str(load_digits().target[int(photo)])


@pytest.mark.long
def test_the_second_notebook_looks_and_compares_losses(ran):
    content = ran("02_look_and_tune")
    assert complaints(content) == []
    text = printed(content)
    plain, tta, total = map(int, re.search(r"^(\d+) (\d+) (\d+)$", text, re.MULTILINE).groups())
    only_plain, only_tta = map(int, re.search(r"only plain right: (\d+), only tta right: (\d+), p = ", text).groups())
    assert only_tta - only_plain == tta - plain
    assert total == 270
    rows = re.findall(r"^(\w+) +([\d.]+)%   ([\d.]+)% to ([\d.]+)%   p = ([\d.]+)$", text, re.MULTILINE)
    assert [row[0] for row in rows] == ["ce", "focal", "smoothing"]
    for _, accuracy, low, high, p in rows:
        expected = proportion_confint(float(accuracy) / 100, 270)
        assert [float(low) / 100, float(high) / 100] == pytest.approx(expected, abs=1.5e-3)
        assert 0 <= float(p) <= 1
    assert rows[0][4] == "1.00"  # against itself
    assert "can't be told apart" in "".join(stored("02_look_and_tune")[1])
    assert pictures(content) == 5  # two batches, lr_find, confusion, top losses


def proportion_confint(rate, n, z=1.959964):
    "Wilson's interval as its quadratic's roots: (p - rate)^2 = z^2 p (1 - p) / n."
    return np.sort(np.roots([1 + z * z / n, -2 * rate - z * z / n, rate * rate]))


@pytest.mark.long
def test_the_third_notebook_ships_what_the_learner_says(ran):
    content = ran("03_from_run_to_onnx")
    assert complaints(content) == []
    text = printed(content)
    assert "best.safetensors confusion.csv confusion.png curves.png history.csv" in text
    assert "\nTrue True\n" in text  # the rebuilt learner
    assert re.findall(r"same label +([\d.]+)%", text) == ["100.00"] * 2  # by to_onnx, and as the file has it
    assert "270 of 270 labels are the same" in text


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

    from toolkit.data.photo import read_photo
    from toolkit.data.preprocess import prepare

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
        first = dl.sampler_state.next_epoch
        passes = [learn.get_preds(dl=dl)[0] for _ in range(2)]
    assert not torch.allclose(passes[0], passes[1])
    dl.sampler_state.next_epoch = first
    augmented = learn.tta(n=2, beta=0)[0]  # fastai's beta is the share of the plain prediction
    assert augmented.numpy() == pytest.approx(torch.stack(passes).mean(0).numpy(), abs=1e-5)


@pytest.fixture
def no_figures():
    "Closes the figures that other tests of this process left open."
    from matplotlib import pyplot as plt

    plt.close("all")


def shown():
    "[(title, picture uint8 [height, width, 3])] of the axes that hold a picture, in order."
    from matplotlib import pyplot as plt

    axes = [ax for number in plt.get_fignums() for ax in plt.figure(number).axes if ax.images]
    return [(ax.get_title(), np.asarray(ax.images[0].get_array())) for ax in axes]


def test_show_batch_shows_photos_in_their_colours_under_class_names(learn, no_figures):
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


def test_show_results_gives_target_and_prediction_by_name(learn, no_figures):
    learn.show_results(max_n=4, shuffle=False)
    said = [learn.predict(path)[0] for path in photos(learn)[:4]]
    names = [learn.dls.data.valid[path] for path in photos(learn)[:4]]
    assert [title.splitlines() for title, _ in shown()] == [list(pair) for pair in zip(names, said, strict=True)]


def test_interpretation_counts_and_ranks_the_validation_photos(learn, no_figures):
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
