"""export.hub: timm loads the folder by itself and says what the run says; the card's figures are the run's."""

import html
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_onnx
import yaml

from export.convert.model_card import MARK, base_model, data_name, literal, model_card
from export.hub import FILES, crop_share, hub, timm_model
from export.publishing.own_folder import check_free
from export.publishing.published import last_part, published, without_paths
from toolkit.data.photo import read_photo
from toolkit.data.preprocess import for_size, prepare
from toolkit.run import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(digits_run, tmp_path_factory):
    return hub(digits_run.folder, tmp_path_factory.mktemp("hub") / "digits")


def loaded(folder):
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def said_of(model, photos):
    "Logits [n, classes] of tensors [3, height, width]."
    import torch

    with torch.no_grad():
        return model(torch.stack(photos)).numpy()


def test_timm_gives_the_runs_logits(folder, digits_run):
    import torch

    learn = digits_run.learner("cpu")
    photos, preprocess = list(learn.dls.data.valid), digits_run.recipe["preprocess"]
    expected = learn.get_preds(act=torch.nn.Identity())[0].numpy()
    mean, std = (np.array(preprocess[name], np.float32) for name in ("mean", "std"))
    ours = [(prepare(read_photo(photo), preprocess) / np.float32(255) - mean) / std for photo in photos]
    found = said_of(loaded(folder), [torch.from_numpy(photo.transpose(2, 0, 1)) for photo in ours])
    assert abs(found - expected).max() < 1e-5


def test_timms_own_transform_gives_nearly_all_the_same_labels(folder, digits_run):
    import timm
    from PIL import Image

    learn, model = digits_run.learner("cpu"), loaded(folder)
    photos = list(learn.dls.data.valid)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    opened = [Image.open(photo).convert("RGB") for photo in photos]
    labels = said_of(model, [transform(photo) for photo in opened]).argmax(1)
    with (digits_run.folder / "valid_predictions.csv").open() as file:
        expected = [line.split(",")[2] for line in file.read().splitlines()[1:]]
    found = [model.pretrained_cfg["label_names"][label] for label in labels]
    assert np.mean([name == wanted for name, wanted in zip(found, expected, strict=True)]) >= 0.98


def test_the_code_on_the_card_runs(folder, digits_run, tmp_path, monkeypatch, capsys):
    photo, label = next(iter(digits_run.learner("cpu").dls.data.valid.items()))
    shutil.copy(photo, tmp_path / "photo.jpg")  # Pillow goes by what is in it
    (tmp_path / "DIR").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    for block in blocks:
        exec(block, {})
    assert capsys.readouterr().out.split() == [label] * len(blocks) == [label] * 2


def test_the_cards_figures_are_those_of_metrics_json(folder, digits_run):
    figures = digits_run.read_json("metrics.json")
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    (result,) = yaml.safe_load(front)["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [figures["accuracy"], figures["macro_f1"]]
    low, high = figures["accuracy_interval"]
    assert f"| {figures['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}) |" in text
    for name, shown in (("top5", "top-5 accuracy"), ("macro_f1", "macro F1"), ("nll", "negative log-likelihood")):
        assert f"| {shown} | {figures[name]:.4f} |" in text
    flattered = f"the best of {figures['epochs']} epochs on these same photos, so it is optimistic"
    assert f"On the {figures['images']} validation photos of data: {flattered}." in text
    for name, count in digits_run.recipe["data"]["counts"].items():
        assert f"| {name} | {count} |" in text


def test_no_licence_is_invented_and_no_path_of_this_machine_is_written(folder, digits_run):
    front = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert "license" not in front
    assert "license" not in (folder / "config.json").read_text()
    assert front["library_name"] == "timm"
    for path in folder.iterdir():
        for place in (ROOT, digits_run.folder.parent, Path(sys.prefix)):
            assert str(place).encode() not in path.read_bytes(), path


def test_paths_in_an_option_that_is_a_list_are_cut_too():
    options = {"extras": ["/home/me/a.csv", "C:\\me\\b"], "sizes": [1, [2, "/x/y"]], "epochs": 3}
    assert without_paths({"options": options}) == {
        "options": {"extras": ["a.csv", "b"], "sizes": [1, [2, "y"]], "epochs": 3}
    }


def test_the_worst_photos_of_a_certificate_are_named_without_their_folders(tmp_path):
    worst = [["/home/me/photos/6.png", 0.1], ["val/a/7.png", 0.0]]  # the first lay outside of its CSV's folder
    model = tiny_onnx.write(tmp_path / "m.onnx", metadata={"verification": json.dumps({"images": 2, "worst": worst})})
    metadata = {prop.key: prop.value for prop in published(onnx.load(model)).metadata_props}
    assert json.loads(metadata["verification"]) == {"images": 2, "worst": [["6.png", 0.1], ["7.png", 0.0]]}
    alone = tiny_onnx.write(tmp_path / "a.onnx", metadata={"verification": json.dumps({"images": 2})})  # without a run
    metadata = {prop.key: prop.value for prop in published(onnx.load(alone)).metadata_props}
    assert json.loads(metadata["verification"]) == {"images": 2}


def test_the_onnx_file_gives_what_the_runs_file_gives(folder, digits_run):
    import onnxruntime

    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    said = [
        onnxruntime.InferenceSession(path / "model.onnx").run(None, {"image": image})
        for path in (folder, digits_run.folder)
    ]
    for found, expected in zip(*said, strict=True):
        assert (found == expected).all()


@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (32, 37), (64, 73), (288, 329), (160, 183), (96, 110)])
def test_timm_resizes_to_what_we_resize_to(crop, resize):
    assert math.floor(crop / crop_share(crop, resize)) == resize
    assert for_size(crop)["resize"] == resize
    assert crop_share(224, 256) == 0.875


def test_a_transformer_keeps_the_size_it_was_trained_at(digits_run, tmp_path):
    from safetensors.torch import save_file

    from toolkit.models.timm_model import create_model

    run = copied(digits_run, tmp_path)
    model = create_model("test_vit", 10, "none", image_size=32).eval()
    save_file(model.state_dict(), run / "best.safetensors")
    (run / "model.onnx").unlink()
    rewrite(run / "recipe.json", lambda recipe: recipe["model"].update(arch="test_vit"))
    again = loaded(hub(run, tmp_path / "vit"))
    assert again.pretrained_cfg["input_size"] == (3, 32, 32)
    import torch

    photo = [torch.randn(3, 32, 32)]
    assert (said_of(again, photo) == said_of(model, photo)).all()
    assert not (tmp_path / "vit" / "model.onnx").exists()
    assert "onnx" not in (tmp_path / "vit" / "README.md").read_text()


# Names


def copied(run, folder):
    return Path(shutil.copytree(run.folder, folder / "run"))


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


HOSTILE = [
    'it\'s "quoted": yes',
    "two\nlines | a cell",
    "<script>alert(1)</script>",
    "[a link](http://x.example) `code`",
    "# heading --- & &amp; **bold** $x$ ~~gone~~",
    "back\\slash",
    "- item",
    "Käse 奶酪",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_and_does_nothing(name, digits_run):
    recipe = json.loads(digits_run.path("recipe.json").read_text())
    recipe["classes"][0], recipe["data"]["path"], recipe["data"]["counts"] = name, f"/home/me/{name}", {name: 7}
    card = model_card(recipe, digits_run.metrics, name, False)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["model-index"][0]["name"] == name
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == last_part(name)
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    page = markdown.render(card.split("\n---\n", 1)[1])
    rows = re.findall(r"<tr>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", page)
    assert (" ".join(name.split()), "7") in [(html.unescape(cell), html.unescape(count)) for cell, count in rows]
    assert not re.search(r"<(script|a|s|del|strong)\b", page)


def test_a_path_of_any_system_is_named_by_its_last_part():
    assert [last_part(path) for path in ("/home/me/fruit", r"C:\Users\me\fruit", "fruit", "fruit/", "/")] == [
        *["fruit"] * 4,
        "",
    ]
    assert data_name({"data": {"path": "/"}}) == "photos"
    assert data_name({"data": {"path": "/data/caf\udce9"}}) == "caf?"
    assert literal("a\u2028b\x00c") == "a b c"


def test_the_base_model_is_named_if_it_is_timms():
    timms = {"options": {"weights": "imagenet"}, "weights": {"source": "timm/resnet152.tv2_in1k"}}
    assert base_model(timms) == "timm/resnet152.tv2_in1k"
    assert base_model(timms | {"weights": {"source": "https://example.org/x.pth"}}) is None
    assert base_model({"options": {"weights": "/a/b.pth"}, "weights": {"source": "a/b.pth"}}) is None


def test_a_pretrained_models_own_figures_are_not_given_as_ours(digits_run, tmp_path):
    run = copied(digits_run, tmp_path)
    rewrite(run / "recipe.json", lambda recipe: recipe["model"].update(arch="test_resnet.r160_in1k"))
    config = timm_model(load(run)).pretrained_cfg
    assert [config[name] for name in ("tag", "license", "origin_url", "test_input_size")] == [None] * 4


# Folders


def test_written_again_the_folder_is_the_new_run(digits_run, folder, tmp_path):
    again = Path(shutil.copytree(folder, tmp_path / "again"))
    (again / ".git").mkdir()
    run = copied(digits_run, tmp_path)
    (run / "model.onnx").unlink()
    hub(run, again)
    assert sorted(path.name for path in again.iterdir()) == [".git", "README.md", "config.json", "model.safetensors"]


def test_the_line_that_is_printed_loads_the_model(digits_run, tmp_path, capsys):
    import timm

    hub(digits_run.folder, tmp_path / "it's #1")
    *_, line = capsys.readouterr().out.splitlines()
    model = eval(line.removeprefix("load it: "), {"timm": timm})
    assert model.pretrained_cfg["label_names"] == digits_run.recipe["classes"]


OURS = "README.md", MARK, FILES, "export.hub"


def test_a_folder_of_someone_else_is_left_alone(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file is a file: give a folder"):
        check_free(tmp_path / "file", *OURS)
    with pytest.raises(FileExistsError, match="holds file, which export.hub did not write: give a new or empty folder"):
        check_free(tmp_path, *OURS)
    check_free(folder, *OURS)
    check_free(tmp_path / "new", *OURS)
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt, which"):
        check_free(other, *OURS)


def test_a_missing_part_is_an_error_and_nothing_is_written(digits_run, tmp_path):
    run, target = copied(digits_run, tmp_path), tmp_path / "target"
    rewrite(run / "metrics.json", lambda metrics: metrics.update(accuracy=0.5))
    with pytest.raises(ValueError, match="from other weights than metrics.json was measured with"):
        hub(run, target)
    (run / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="not an ONNX file"):
        hub(run, target)
    rewrite(run / "metrics.json", lambda metrics: metrics.pop("accuracy_interval"))
    with pytest.raises(ValueError, match="has no accuracy, accuracy_interval or images"):
        hub(run, target)
    (run / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match="has not been evaluated yet"):
        hub(run, target)
    (run / "best.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has not finished its first epoch"):
        hub(run, target)
    assert not target.exists()


def test_the_command_ends_with_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "export.hub", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {tmp_path} is not a run folder (no recipe.json): give a folder that a recipe wrote"
    ]
