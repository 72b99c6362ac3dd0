"""The page of a run: made from any run folder, and looked at in a real browser."""

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
from run_folders import make_run, recipe, write_predictions
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from toolkit.evaluation import intervals, metrics, mistakes
from toolkit.evaluation.results import read_predictions
from toolkit.files import write_json
from toolkit.pages import formatting, plots
from toolkit.pages import run_page as report
from toolkit.run import load
from toolkit.training.fit import tell_results

CHOSEN = "the best of 5 epochs by these photos, so too high for others"
REPOSITORY = Path(__file__).resolve().parents[3]
NASTY = ['<script>alert("1")</script>', "$\\frac{$", "a \"b\" & 'c'", "日本語", "_hidden", "x" * 200]


def page_of(folder: Path) -> str:
    return report.write_report(load(folder)).read_text(encoding="utf-8")


def small_run(folder, names="abcd") -> Path:
    return make_run(folder, list(names))


# What is written


def test_page_png_twins_and_figures_by_class_stand_beside_each_other(tmp_path):
    make_run(tmp_path, list("abcd"), photos=tmp_path / "photos")
    assert report.write_report(load(tmp_path)) == tmp_path / "report.html"
    for name in ("curves.png", "confusion.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
    rows = list(csv.DictReader((tmp_path / "per_class.csv").open()))
    said = list(csv.DictReader((tmp_path / "valid_predictions.csv").open()))
    theirs = precision_recall_fscore_support(
        [r["label"] for r in said], [r["prediction"] for r in said], labels=list("abcd")
    )
    for name, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        assert [float(row[name]) for row in rows] == pytest.approx(values)


def test_page_asks_for_nothing_outside_of_itself(tmp_path):
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


def test_figures_have_their_interval(tmp_path):
    page = page_of(small_run(tmp_path))
    figures = json.loads((tmp_path / "metrics.json").read_text())
    for value in (figures["accuracy"], *figures["accuracy_interval"]):
        assert f"{100 * value:.1f}\u00a0%" in page
    ends = [f"{100 * end:.1f}\u00a0%" for end in intervals.macro_f1_interval(confusion_of(tmp_path))]
    assert f"{' to '.join(ends)} (95 % interval), the mean over classes" in page


def test_top_5_has_its_interval_where_there_are_more_than_five_classes(tmp_path):
    page = page_of(small_run(tmp_path, "abcdefgh"))
    images = round(48 * json.loads((tmp_path / "metrics.json").read_text())["top5"])
    ends = [f"{100 * end:.1f}\u00a0%" for end in metrics.wilson_interval(images, 48)]
    assert f"{' to '.join(ends)} (95 % interval), the label is among the five" in page


def confusion_of(folder):
    return read_predictions(load(folder)).confusion


def test_how_to_run_it_again_is_the_resolved_command(tmp_path):
    small_run(tmp_path)
    assert (
        " ".join(report.command_line(load(tmp_path).recipe))
        == "python -m recipes.hw1 --data 'my data' --loss focal --arch resnet18 --epochs 30 --lr 0.001 --bs 128 "
        "--accum 2 --seed 0"
    )


def test_what_a_reader_may_paste_runs_nothing_out_of_a_name(tmp_path):
    folder = tmp_path / "a'; touch b; \"$(touch c)"
    make_run(folder, list("ab"))
    said = load(folder).recipe | {"recipe": "hw1; touch d"}
    said["options"]["e`touch e`"] = "$(touch f)"
    write_json(folder / "recipe.json", said)
    (folder / "model.onnx").write_bytes(b"")
    page = html.unescape(re.sub("</?span>", "", page_of(folder)))
    command = re.search("<pre>(.*?)</pre>", page, re.DOTALL)[1]
    assert shlex.split(command)[:3] == ["python", "-m", "recipes.hw1; touch d"]
    assert shlex.split(command)[-2:] == ["--e`touch e`", "$(touch f)"]
    predict, python, again = re.findall("<code>((?:python -m|toolkit).*?)</code>", page)[-3:]
    assert shlex.split(predict)[3] == str(folder / "model.onnx")
    assert eval(python.removeprefix("toolkit.run.load(").removesuffix(").learner()")) == str(folder)
    assert shlex.split(again)[3] == str(folder)


# Runs that lack something


@pytest.mark.parametrize("missing", [["metrics.json"], ["metrics.json", "valid_predictions.csv"], ["history.csv"]])
def test_a_run_in_progress_gets_a_page_of_what_there_is(tmp_path, missing):
    small_run(tmp_path)
    for name in missing:
        (tmp_path / name).unlink()
    page = page_of(tmp_path)
    assert ("has not finished" in page) == ("metrics.json" in missing)
    assert ('id="training"' in page) == ("history.csv" not in missing)
    assert ('id="confusion"' in page) == ("valid_predictions.csv" not in missing)


def test_a_recipe_alone_gets_a_page(tmp_path):
    said = recipe(["a"], "x", 1)
    del said["options"]["epochs"], said["data"]["counts"], said["data"]["train"], said["model"]["parameters"]
    write_json(tmp_path / "recipe.json", said)
    assert "0 of ? epochs" in page_of(tmp_path)
    (tmp_path / "history.csv").write_text("epoch,train_loss,valid_loss,accuracy,lr,seconds\n")
    (tmp_path / "valid_predictions.csv").write_text("file,label,prediction,confidence\n")
    assert "0 of ? epochs" in page_of(tmp_path)


def test_photos_that_moved_are_named(tmp_path):
    page = page_of(small_run(tmp_path))
    assert f"the photos are not at <code>{tmp_path / 'gone'}</code>" in page
    assert "<img" not in page


def test_a_photo_that_broke_since_is_left_out(tmp_path):
    make_run(tmp_path, list("abcd"), photos=tmp_path / "photos")
    (tmp_path / "photos" / "valid" / "0" / "0.png").write_bytes(b"no photo")
    found = mistakes.thumbnails(tmp_path / "photos", {"valid/0/0.png", "valid/0/1.png"})
    assert list(found) == ["valid/0/1.png"]
    assert "<img" in page_of(tmp_path)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_any_number_of_classes(tmp_path, classes):
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
        report.write_report(load(tmp_path))


# What is shown


def test_classes_that_are_taken_for_each_other_stand_side_by_side():
    confusion = np.diag([9] * 6)
    for a, b in ((0, 3), (1, 5), (2, 4)):
        confusion[a, b] = confusion[b, a] = 4
    order = mistakes.similarity_order(confusion)
    assert sorted(order) == list(range(6))
    assert {frozenset(order[i : i + 2]) for i in (0, 2, 4)} == {frozenset(p) for p in ((0, 3), (1, 5), (2, 4))}


def test_confused_pairs_come_most_frequent_first_and_hold_no_right_ones():
    confusion = np.array([[9, 2, 0], [5, 9, 1], [0, 0, 9]])
    pairs = mistakes.confused_pairs(confusion - np.diag(np.diag(confusion)), 10)
    assert pairs == [(1, 0), (0, 1), (1, 2)]


def test_galleries_hold_the_most_confident_mistakes_and_the_least_certain(tmp_path):
    small_run(tmp_path)
    write_predictions(
        tmp_path,
        [
            ("1", "a", "a", 0.3),
            ("2", "a", "b", 0.9),
            ("3", "b", "a", 0.95),
            ("4", "b", "b", 0.99),
            ("5", "c", "b", 0.4),
        ],
    )
    shown = mistakes.examples(read_predictions(load(tmp_path)), tmp_path)
    assert [photo["file"] for photo in shown["mistakes"]] == ["3", "2", "5"]
    assert [photo["file"] for photo in shown["uncertain"]] == ["1", "5", "2", "3", "4"]


def test_joined_bins_hold_enough_images_and_keep_the_means():
    random = np.random.default_rng(0)
    curve = metrics.reliability_curve(random.random(95), random.random(95) > 0.5)
    joined = report.merged(curve)
    assert len(joined) < len(curve)
    assert min(b["count"] for b in joined) >= 10
    for key in ("confidence", "accuracy"):
        assert sum(b[key] * b["count"] for b in joined) == pytest.approx(sum(b[key] * b["count"] for b in curve))
    assert report.merged([{"low": 0, "high": 1, "confidence": 0.5, "accuracy": 1.0, "count": 3}])[0]["count"] == 3


def test_two_runs_of_the_homeworks_figures_cannot_be_told_apart(tmp_path):
    small_run(tmp_path)
    write_predictions(tmp_path, [(str(i), "a", "a" if i < 274 else "b", 0.9) for i in range(300)])
    within = report.chance(read_predictions(load(tmp_path)))
    assert within == pytest.approx(1.96 * np.sqrt(2 * (274 / 300) * (26 / 300) / 300))
    assert within > (274 - 271) / 300


def test_warnings_name_what_the_data_lacks(tmp_path):
    make_run(tmp_path, list("abc"), each=4)
    said = load(tmp_path).recipe
    said["data"]["counts"] = {"a": 200, "b": 12, "c": 3}
    write_json(tmp_path / "recipe.json", said)
    write_predictions(tmp_path, [("1", "a", "b", 0.5), ("2", "c", "b", 0.5)])
    page = page_of(tmp_path)
    assert "Fewer than 10 training images: c." in page
    assert "Unbalanced: 3 to 200 training images a class." in page
    assert "No validation image, so no figure: b." in page
    assert "Left out" not in page


def test_photos_that_were_left_out_are_named(tmp_path):
    small_run(tmp_path)
    said = load(tmp_path).recipe
    said["data"]["left_out"] = {f"train/a/{i}.jpg": "not a readable photo" for i in range(10)}
    write_json(tmp_path / "recipe.json", said)
    page = html.unescape(page_of(tmp_path))
    assert "Left out, as they can't be read: train/a/0.jpg (not a readable photo), train/a/1.jpg" in page
    assert "train/a/7.jpg (not a readable photo) and 2 more." in page


def test_the_confusion_matrix_is_scikit_learns_in_a_table_too(tmp_path):
    folder = make_run(tmp_path, [*NASTY, "a\rb", "c\nd"])
    page_of(folder)
    with (folder / "valid_predictions.csv").open(newline="", encoding="utf-8") as file:
        said = list(csv.DictReader(file))
    with (folder / "confusion.csv").open(newline="", encoding="utf-8") as file:
        (corner, *columns), *rows = csv.reader(file, strict=True)
    assert corner == "label"
    assert columns == [name for name, *_ in rows] == load(folder).recipe["classes"]
    expected = confusion_matrix([row["label"] for row in said], [row["prediction"] for row in said], labels=columns)
    assert np.array([counts for _, *counts in rows], int).tolist() == expected.tolist()


def test_a_long_name_keeps_both_of_its_ends():
    assert plots.short("a rather long class name number 28", 24) == "a rather lon…e number 28"
    assert [len(plots.short("x" * n, 24)) for n in (23, 24, 25, 200)] == [23, 24, 24, 24]
    assert plots.short("a\nb\rc\td") == "a b c d"


@pytest.mark.parametrize(("low", "high"), [(1.6e-4, 3e-3), (2e-4, 1e-3), (1e-9, 1e-3)])
def test_the_learning_rates_axis_has_marks_to_read_by(low, high):
    history = {"epoch": np.arange(1.0, 4), "lr": np.array([low, high, low])}
    (axes,) = plots.curves(history, None, ("Learning rate",)).axes
    axes.figure.draw_without_rendering()
    bottom, top = axes.get_ylim()
    assert 2 <= sum(bottom <= mark <= top for mark in axes.get_yticks()) <= 9


def test_certificate_of_the_export_is_shown(tmp_path):
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


# The command


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "toolkit.report", *map(str, arguments)], capture_output=True, text=True, cwd=REPOSITORY
    )


def test_command_prints_the_page_and_nothing_else_also_for_names_no_font_has(tmp_path):
    done = run_command(make_run(tmp_path, NASTY))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'report.html'}\n", "")


def test_command_refuses_a_folder_that_is_no_run(tmp_path):
    done = run_command(tmp_path)
    assert done.returncode == 2
    assert "is not a run folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_plots_leave_pyplot_and_its_settings_alone(tmp_path):
    small_run(tmp_path)
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy();"
        "from toolkit import run; from toolkit.pages.run_page import write_report;"
        f"write_report(run.load({str(tmp_path)!r}));"
        "print('matplotlib.pyplot' in sys.modules, matplotlib.rcParams.copy() == before)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "False True\n", done.stderr


# In a browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, [*NASTY, *(f"class {i}" for i in range(14))], each=7, photos=folder / "photos")
    return report.write_report(load(folder))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_browser_shows_it_without_error_request_or_sideways_scrolling(browser, page, width, dark):
    browser.open(page, width, dark)
    assert browser.console() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    pixels = browser.screenshot()
    assert pixels.shape[1] == width
    assert (np.median(pixels) < 60) if dark else (np.median(pixels) > 230)
    assert pixels.std() > 10


def test_browser_runs_no_script_out_of_a_class_name(browser, page):
    browser.open(page)
    assert browser.run("return document.scripts.length") == 1
    assert NASTY[0] in browser.run("return [...document.querySelectorAll('tbody th')].map(cell => cell.textContent)")


COLUMN = (
    "return [...document.querySelectorAll('#class-table tbody tr:not([hidden])')]"
    ".map(row => row.cells[arguments[0]].textContent)"
)


def test_browser_sorts_the_table_by_a_click_and_back(browser, page):
    browser.open(page)
    click = "document.querySelectorAll('#class-table thead button')[arguments[0]].click()"
    for expected in (lambda v: sorted(v, reverse=True), sorted):  # numbers: the largest first
        browser.run(click, 1)
        trained = [int(text) for text in browser.run(COLUMN, 1)]
        assert trained == expected(trained)
    browser.run(click, 0)
    names = [name for name in browser.run(COLUMN, 0) if name.startswith("class")]
    assert names == [f"class {i}" for i in range(14)]  # 2 before 10
    assert browser.run("return [...document.querySelectorAll('#class-table [aria-sort]')].map(h => h.ariaSort)") == [
        "ascending"
    ]


def test_browser_keeps_undefined_figures_last_in_either_order(browser, tmp_path):
    small_run(tmp_path, "abc")
    write_predictions(tmp_path, [("1", "a", "a", 0.9), ("2", "a", "c", 0.9), ("3", "c", "c", 0.9)])  # b has no image
    browser.open(report.write_report(load(tmp_path)))
    for _ in range(2):
        browser.run("document.querySelectorAll('#class-table thead button')[4].click()")
        assert browser.run(COLUMN, 4)[-1] == "–"


def test_browser_filters_the_table(browser, page):
    browser.open(page)
    browser.type("#class-filter", "CLASS 1")
    assert sorted(browser.run(COLUMN, 0)) == sorted(["class 1", "class 10", "class 11", "class 12", "class 13"])
    assert browser.run("return document.getElementById('class-count').textContent") == "5 of 20"


SHOWN = "return [...document.querySelectorAll('#matrix .row:not([hidden])')].map(label => label.dataset.name)"


def test_browser_filters_the_matrix_to_a_class_and_those_it_is_confused_with(browser, page):
    browser.open(page)
    assert len(browser.run(SHOWN)) == 20
    browser.type("#matrix-filter", "class 4")
    said = list(csv.DictReader((page.parent / "valid_predictions.csv").open(encoding="utf-8")))
    partners = {
        name
        for row in said
        for name in (row["label"], row["prediction"])
        if "class 4" in (row["label"], row["prediction"])
    }
    assert set(browser.run(SHOWN)) == partners | {"class 4"}
    frame = "const f = document.querySelector('#matrix .frame'); return Number(f.getAttribute('width'))"
    cell = "return Number(document.querySelector('#matrix .d:not([hidden])').getAttribute('width'))"
    assert browser.run(frame) == len(partners) * browser.run(cell)


@pytest.mark.parametrize(
    ("typed", "shown"), [("A", {"a", "b"}), ("b", {"a", "b"}), ("c", {"c"}), ("z", set()), (" ", set("abc"))]
)
def test_browser_filters_the_matrix_by_label_and_by_prediction(browser, tmp_path, typed, shown):
    small_run(tmp_path, "abc")
    write_predictions(tmp_path, [("1", "a", "b", 0.9), ("2", "b", "b", 0.9), ("3", "c", "c", 0.9)])
    browser.open(report.write_report(load(tmp_path)))
    browser.type("#matrix-filter", typed)
    assert set(browser.run(SHOWN)) == shown
    assert browser.console() == []


def test_browser_resizes_the_matrix(browser, page):
    browser.open(page)
    browser.run("const s = document.getElementById('matrix-size'); s.value = 40; s.dispatchEvent(new Event('input'))")
    assert browser.run("return document.querySelector('#matrix .d').getAttribute('width')") == "40"


def test_browser_reads_the_matrix_out_by_keyboard(browser, page):
    browser.open(page)
    readout = "return document.getElementById('matrix-readout').textContent"
    browser.run("document.getElementById('matrix').focus()")
    browser.press("ArrowRight")
    first = browser.run(readout)
    assert re.search(r"\d of 7", first)
    browser.press("End")
    assert browser.run(readout) != first
    browser.press("Home")
    assert browser.run(readout) == first
    row = "const r = document.querySelector('#matrix .row.here'); return Number(r.getAttribute('y'))"
    top = browser.run(row)
    browser.press("ArrowDown")
    assert browser.run(row) > top
    browser.press("ArrowUp")
    assert browser.run(row) == top


def test_browser_turns_nothing_round_with_a_name_written_from_right_to_left(browser, tmp_path):
    small_run(tmp_path, ["\u202eltr", "\u05db\u05dc\u05d1"])
    write_predictions(tmp_path, [("1", "\u202eltr", "\u05db\u05dc\u05d1", 0.9)])
    browser.open(report.write_report(load(tmp_path)))
    x = (
        "const walk = document.createTreeWalker(arguments[0], NodeFilter.SHOW_TEXT); let node, last;"
        "while (node = walk.nextNode()) if (node.data.includes('1 of 1')) last = node;"
        "const at = i => { const r = document.createRange(); r.setStart(last, i); r.setEnd(last, i + 1);"
        "return r.getBoundingClientRect().x }; const i = last.data.indexOf('1 of 1'); return at(i) < at(i + 3)"
    )
    for selector in ("#matrix-readout", ".pair h3"):
        browser.run("document.getElementById('matrix').focus()")
        browser.press("ArrowRight")
        assert browser.run(x.replace("arguments[0]", f"document.querySelector('{selector}')")), selector


def test_browser_cuts_no_name_off_beside_the_matrix(browser, tmp_path):
    small_run(tmp_path, ["W" * 30, "日本語" * 10, "l" * 30, "m"])
    browser.open(report.write_report(load(tmp_path)))
    left = "return Math.min(...[...document.querySelectorAll('#matrix .row')].map(label => label.getBBox().x))"
    top = (
        "return Math.min(...[...document.querySelectorAll('#matrix .column')].map(l => l.getBoundingClientRect().top))"
    )
    assert browser.run(left) >= 0
    assert browser.run(top) >= browser.run("return document.getElementById('matrix').getBoundingClientRect().top")


def test_browser_puts_three_photos_side_by_side_on_a_narrow_screen(browser, page):
    browser.open(page, 390)
    columns = "return getComputedStyle(document.querySelector('.gallery')).gridTemplateColumns.split(' ').length"
    assert browser.run(columns) == 3


def test_browser_without_scripts_shows_all_but_what_needs_them(browser, page):
    browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        shown = "return [...document.querySelectorAll(arguments[0])].some(element => element.checkVisibility())"
        assert not browser.run(shown, ".controls, .readout")
        assert browser.run(shown, "#matrix .d")
        assert browser.run(shown, "#class-table tbody td")
        assert browser.run(
            "return [...document.querySelectorAll('#matrix .row')].every((label, i, all) =>"
            "!i || label.getBBox().height < 1.5 * (label.getBBox().y - all[i - 1].getBBox().y))"
        )
    finally:
        browser.devtools("Emulation.setScriptExecutionDisabled", value=False)


def test_browser_finds_a_text_for_every_image_and_plot(browser, page):
    browser.open(page)
    assert browser.run("return [...document.images].every(image => image.alt)")
    assert browser.run("return [...document.querySelectorAll('svg')].every(s => s.closest('[aria-label]'))")
    assert browser.run(
        "const ids = [...document.querySelectorAll('[id]')].map(e => e.id); return ids.length === new Set(ids).size"
    )


def test_beside_an_accuracy_stands_that_its_photos_chose_it_and_what_would_be_honest(digits_run, capsys):
    tell_results(digits_run)
    said = capsys.readouterr().out.splitlines()
    assert said[1].strip() == f"{CHOSEN}; an honest figure needs labelled photos that chose nothing:"
    command = said[2].split()
    assert command[:3] == ["python", "-m", "export.verify"]
    assert Path(command[3]).is_file()
    page = report.render(digits_run, {}, read_predictions(digits_run), digits_run.read_json("metrics.json"), 5)
    assert CHOSEN in page


@pytest.mark.parametrize("epochs", [1, None, "5"])
def test_where_nothing_was_chosen_nothing_is_said_of_it(epochs):
    assert formatting.chosen_among(epochs) == ""
