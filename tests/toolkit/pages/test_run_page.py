"""The report page of a run: its files and content, for complete, incomplete and damaged runs."""

import csv
import html
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import NASTY, make_run, recipe, write_predictions
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from toolkit.data.dataset import DataSet
from toolkit.evaluation import mistakes
from toolkit.evaluation.formatting import optimism_note
from toolkit.evaluation.least_certain import read_least_certain, write_least_certain
from toolkit.evaluation.results import read_predictions
from toolkit.evaluation.statistics import macro_f1_interval, wilson_interval
from toolkit.features.doubts import FILE, Doubt, write_doubts
from toolkit.files import write_json
from toolkit.loggers.log import final_results
from toolkit.pages.run_again import command_line
from toolkit.pages.run_page import render, write_report
from toolkit.pages.run_text import chance_difference
from toolkit.run import load
from toolkit.training.evaluate import print_results

OPTIMISTIC = "the best of 5 epochs on these same photos, so it is optimistic"
REPOSITORY = Path(__file__).resolve().parents[3]


def page_of(folder: Path) -> str:
    return write_report(load(folder)).read_text(encoding="utf-8")


def small_run(folder, names="abcd") -> Path:
    return make_run(folder, list(names))


# Files


def test_the_page_its_pngs_and_the_per_class_table_are_written(tmp_path):
    make_run(tmp_path, list("abcd"), photos=tmp_path / "photos")
    assert write_report(load(tmp_path)) == tmp_path / "report.html"
    for name in ("curves.png", "confusion.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
    rows = list(csv.DictReader((tmp_path / "per_class.csv").open()))
    predicted = list(csv.DictReader((tmp_path / "valid_predictions.csv").open()))
    theirs = precision_recall_fscore_support(
        [r["label"] for r in predicted], [r["prediction"] for r in predicted], labels=list("abcd")
    )
    for name, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        assert [float(row[name]) for row in rows] == pytest.approx(values)


def test_the_page_loads_nothing_from_outside(tmp_path):
    page = page_of(make_run(tmp_path, list("abcd"), photos=tmp_path / "photos"))
    sources = re.findall(r"""(?:src|href|srcset|action|data)=["']([^"']*)""", page)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "data:image/jpeg;base64," in page
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_names_are_escaped_everywhere(tmp_path):
    page = page_of(make_run(tmp_path, NASTY, photos=tmp_path / "photos"))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;" in page
    assert page.count("<script>") == 1


def test_accuracy_and_macro_f1_have_their_intervals(tmp_path):
    page = page_of(small_run(tmp_path))
    figures = json.loads((tmp_path / "metrics.json").read_text())
    for value in (figures["accuracy"], *figures["accuracy_interval"]):
        assert f"{100 * value:.1f}\u00a0%" in page
    ends = [f"{100 * end:.1f}\u00a0%" for end in macro_f1_interval(confusion_of(tmp_path))]
    assert f"95 % interval {' to '.join(ends)}, the mean over classes" in page


def test_top_5_accuracy_has_its_interval_if_there_are_more_than_five_classes(tmp_path):
    page = page_of(small_run(tmp_path, "abcdefgh"))
    images = round(48 * json.loads((tmp_path / "metrics.json").read_text())["top5"])
    ends = [f"{100 * end:.1f}\u00a0%" for end in wilson_interval(images, 48)]
    assert f"95 % interval {' to '.join(ends)}, the label is among the five" in page


def confusion_of(folder):
    return read_predictions(load(folder)).confusion


def test_the_command_to_run_again_has_the_resolved_options(tmp_path):
    small_run(tmp_path)
    assert (
        " ".join(command_line(load(tmp_path).recipe))
        == "python -m recipes.hw1 --data 'my data' --loss focal --arch resnet18 --epochs 30 --lr 0.001 --bs 128 "
        "--accum 2 --seed 0"
    )


def test_lines_to_paste_run_no_command_from_a_name(tmp_path):
    folder = tmp_path / "a'; touch b; \"$(touch c)"
    make_run(folder, list("ab"))
    changed = load(folder).recipe | {"recipe": "hw1; touch d"}
    changed["options"]["e`touch e`"] = "$(touch f)"
    write_json(folder / "recipe.json", changed)
    (folder / "model.onnx").write_bytes(b"")
    page = html.unescape(re.sub("</?span>", "", page_of(folder)))
    command = re.search("<pre>(.*?)</pre>", page, re.DOTALL)[1]
    assert shlex.split(command)[:3] == ["python", "-m", "recipes.hw1; touch d"]
    assert shlex.split(command)[-2:] == ["--e`touch e`", "$(touch f)"]
    predict, explain, python, again = re.findall("<code>((?:python -m|toolkit).*?)</code>", page)[-4:]
    assert shlex.split(explain)[3] == str(folder)
    assert shlex.split(predict)[3] == str(folder / "model.onnx")
    assert eval(python.removeprefix("toolkit.run.load(").removesuffix(").learner()")) == str(folder)
    assert shlex.split(again)[3] == str(folder)


# Incomplete runs


@pytest.mark.parametrize("missing", [["metrics.json"], ["metrics.json", "valid_predictions.csv"], ["history.csv"]])
def test_a_run_in_progress_has_a_page_of_its_results_so_far(tmp_path, missing):
    small_run(tmp_path)
    for name in missing:
        (tmp_path / name).unlink()
    page = page_of(tmp_path)
    assert ("has not finished" in page) == ("metrics.json" in missing)
    assert ('id="training"' in page) == ("history.csv" not in missing)
    assert ('id="confusion"' in page) == ("valid_predictions.csv" not in missing)


def test_a_run_with_a_recipe_only_has_a_page(tmp_path):
    changed = recipe(["a"], "x", 1)
    del (
        changed["options"]["epochs"],
        changed["data"]["counts"],
        changed["data"]["train"],
        changed["model"]["parameters"],
    )
    write_json(tmp_path / "recipe.json", changed)
    assert "0 of ? epochs" in page_of(tmp_path)
    (tmp_path / "history.csv").write_text("epoch,train_loss,valid_loss,accuracy,lr,seconds\n")
    (tmp_path / "valid_predictions.csv").write_text("file,label,prediction,confidence\n")
    assert "0 of ? epochs" in page_of(tmp_path)


def test_the_page_says_where_missing_photos_were(tmp_path):
    page = page_of(small_run(tmp_path))
    assert f"the photos are not at <code>{tmp_path / 'gone'}</code>" in page
    assert "<img" not in page


def test_photos_that_a_csv_names_are_shown_as_those_of_a_folder_are(tmp_path):
    folder = make_run(tmp_path / "run", list("abcd"), photos=tmp_path / "photos")
    file = "valid/0/0.png"
    write_doubts(folder / FILE, [Doubt(file, "valid", "a", "odd", "", "9.0", "")])
    write_least_certain(load(folder), DataSet(tmp_path / "photos", {}, {}), [(tmp_path / "photos" / file, "a", 0.3)])
    images = page_of(folder).count("<img")
    (tmp_path / "photos" / "photos.csv").write_text("path,label\n")
    facts = json.loads((folder / "recipe.json").read_text())
    write_json(folder / "recipe.json", facts | {"data": facts["data"] | {"path": str(tmp_path / "photos/photos.csv")}})
    page = page_of(folder)
    assert page.count("<img") == images > 20
    assert "No thumbnails" not in page
    assert read_least_certain(load(folder))[0]["pixels"].shape == (64, 80, 3)
    _, shown, _ = final_results(load(folder))
    assert shown[0].pixels.shape == (64, 80, 3)


def test_the_page_of_the_folder_one_is_in_has_its_name_and_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(small_run(tmp_path / "my run"))
    page = page_of(Path())
    assert "my run</title>" in page
    assert f"toolkit.report {shlex.quote(str(tmp_path / 'my run'))}" in html.unescape(page)


def test_an_unreadable_photo_has_no_thumbnail(tmp_path):
    make_run(tmp_path, list("abcd"), photos=tmp_path / "photos")
    (tmp_path / "photos" / "valid" / "0" / "0.png").write_bytes(b"no photo")
    found = mistakes.thumbnails(tmp_path / "photos", {"valid/0/0.png", "valid/0/1.png"})
    assert list(found) == ["valid/0/1.png"]
    assert "<img" in page_of(tmp_path)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_any_number_of_classes_has_a_page(tmp_path, classes):
    page = page_of(make_run(tmp_path, [f"class {i}" for i in range(classes)], each=4, photos=tmp_path / "photos"))
    assert page.count('<th scope="row">class ') == classes


def test_a_page_of_100_classes_stays_under_5_mb_with_large_noisy_photos(tmp_path):
    make_run(tmp_path, [str(i) for i in range(100)], each=10)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    (tmp_path / "gone").mkdir()
    noise.save(tmp_path / "gone" / "a.jpg", quality=95)
    names = [tmp_path / "gone" / row["file"] for row in csv.DictReader((tmp_path / "valid_predictions.csv").open())]
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
        name.hardlink_to(tmp_path / "gone" / "a.jpg")
    page = page_of(tmp_path)
    assert page.count("<img") > 60
    assert page.count('class="row"') == page.count('class="column"') == 100
    assert (tmp_path / "report.html").stat().st_size < 5e6


def test_a_single_epoch_and_an_accuracy_of_nan_can_be_drawn(tmp_path):
    small_run(tmp_path)
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "history.csv").write_text("epoch,train_loss,valid_loss,accuracy,lr,seconds\n1,nan,,nan,0,1\n")
    assert "1 epoch<" in page_of(tmp_path)


def test_predictions_of_another_run_are_refused(tmp_path):
    small_run(tmp_path)
    write_predictions(tmp_path, [("x.jpg", "a", "zebra", 0.5)])
    with pytest.raises(ValueError, match="'zebra', which recipe.json does not list"):
        write_report(load(tmp_path))


# Content


def test_the_difference_of_the_homeworks_accuracies_is_within_chance(tmp_path):
    small_run(tmp_path)
    write_predictions(tmp_path, [(str(i), "a", "a" if i < 274 else "b", 0.9) for i in range(300)])
    within = chance_difference(read_predictions(load(tmp_path)))
    assert within == pytest.approx(1.96 * np.sqrt(2 * (274 / 300) * (26 / 300) / 300))
    assert within > (274 - 271) / 300


def test_warnings_name_the_problems_of_the_data(tmp_path):
    make_run(tmp_path, list("abc"), each=4)
    changed = load(tmp_path).recipe
    changed["data"]["counts"] = {"a": 200, "b": 12, "c": 3}
    write_json(tmp_path / "recipe.json", changed)
    write_predictions(tmp_path, [("1", "a", "b", 0.5), ("2", "c", "b", 0.5)])
    page = page_of(tmp_path)
    assert "Fewer than 10 training images: c." in page
    assert "Unbalanced: 3 to 200 training images per class." in page
    assert "No validation images, so no recall: b." in page
    assert "Left out" not in page


def test_photos_that_were_left_out_are_listed(tmp_path):
    small_run(tmp_path)
    changed = load(tmp_path).recipe
    changed["data"]["left_out"] = {f"train/a/{i}.jpg": "not a readable photo" for i in range(10)}
    write_json(tmp_path / "recipe.json", changed)
    page = html.unescape(page_of(tmp_path))
    assert "Left out, because they can't be read: train/a/0.jpg (not a readable photo), train/a/1.jpg" in page
    assert "train/a/7.jpg (not a readable photo) and 2 more." in page


def test_confusion_csv_equals_the_confusion_matrix_of_scikit_learn(tmp_path):
    folder = make_run(tmp_path, [*NASTY, "a\rb", "c\nd"])
    page_of(folder)
    with (folder / "valid_predictions.csv").open(newline="", encoding="utf-8") as file:
        predicted = list(csv.DictReader(file))
    with (folder / "confusion.csv").open(newline="", encoding="utf-8") as file:
        (corner, *columns), *rows = csv.reader(file, strict=True)
    assert corner == "label"
    assert columns == [name for name, *_ in rows] == load(folder).recipe["classes"]
    expected = confusion_matrix(
        [row["label"] for row in predicted], [row["prediction"] for row in predicted], labels=columns
    )
    assert np.array([counts for _, *counts in rows], int).tolist() == expected.tolist()


def test_the_certificate_of_the_export_is_shown(tmp_path):
    onnx = pytest.importorskip("onnx")
    small_run(tmp_path)
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:]))
    onnx.save(model, tmp_path / "model.onnx")
    assert 'id="export"' not in page_of(tmp_path)
    certificate = {
        "agreement": 0.9975,
        "probability_difference": 2.5e-6,
        "worst": [["valid/<b>.jpg", 0.25]],
        "budget": {"cpu": 1},
        "kept": [],
    }
    onnx.helper.set_model_props(model, {"verification": json.dumps(certificate)})
    onnx.save(model, tmp_path / "model.onnx")
    page = page_of(tmp_path)
    assert "99.75\u00a0%" in page
    assert "valid/&lt;b&gt;.jpg: 0.25" in page
    assert re.search(r"kept</th><td>\s*none\s*</td>", page)
    (tmp_path / "model.onnx").write_bytes(b"\xff\xff broken")
    assert "can&#39;t be read" in page_of(tmp_path)


def test_an_accuracy_is_called_optimistic_if_its_photos_selected_the_epoch(digits_run, capsys):
    print_results(digits_run)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].strip() == f"{OPTIMISTIC}; an honest figure needs labelled photos that played no part in choosing:"
    command = lines[2].split()
    assert command[:3] == ["python", "-m", "export.verify"]
    assert Path(command[3]).is_file()
    assert command[4] == str(Path(digits_run.recipe["data"]["path"]) / "test_labels.csv")
    assert Path(command[4]).is_file()
    page = render(digits_run, {}, read_predictions(digits_run), digits_run.read_json("metrics.json"))
    assert OPTIMISTIC in page


@pytest.mark.parametrize("epochs", [1, None, "5"])
def test_a_run_without_a_choice_of_epochs_has_no_note(epochs):
    assert optimism_note(epochs) == ""


# The command


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "toolkit.report", *map(str, arguments)], capture_output=True, text=True, cwd=REPOSITORY
    )


def test_the_command_prints_only_the_path_of_the_page_even_for_names_without_glyphs(tmp_path):
    done = run_command(make_run(tmp_path, NASTY))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'report.html'}\n", "")


def test_the_command_refuses_a_folder_that_is_no_run(tmp_path):
    done = run_command(tmp_path)
    assert done.returncode == 2
    assert "is not a run folder" in done.stderr
    assert "Traceback" not in done.stderr
