"""The report page of a run in a real browser."""

import csv
import re

import numpy as np
import pytest
from run_folders import NASTY, make_run, write_predictions

from toolkit.evaluation.heatmaps import Heatmap, Heatmaps, write_heatmaps
from toolkit.evaluation.mistakes import on_page
from toolkit.evaluation.results import read_predictions
from toolkit.pages.run_page import write_report
from toolkit.run import load


def small_run(folder, names):
    return make_run(folder, list(names))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, [*NASTY, *(f"class {i}" for i in range(14))], each=7, photos=folder / "photos")
    run, cells = load(folder), np.arange(49, dtype=np.uint8).reshape(7, 7) * 5
    found = read_predictions(run)
    names = {found.files[i]: found.classes[found.predictions[i]] for i in on_page(found)}
    write_heatmaps(run, Heatmaps("layer4", {file: Heatmap(name, cells) for file, name in names.items()}))
    return write_report(run)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_browser_shows_the_page_without_errors_requests_or_sideways_scrolling(browser, page, width, dark):
    browser.open(page, width, dark)
    assert browser.console() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    pixels = browser.screenshot()
    assert pixels.shape[1] == width
    assert (np.median(pixels) < 60) if dark else (np.median(pixels) > 230)
    assert pixels.std() > 10


def test_the_browser_runs_no_script_from_a_class_name(browser, page):
    browser.open(page)
    assert browser.run("return document.scripts.length") == 1
    assert NASTY[0] in browser.run("return [...document.querySelectorAll('tbody th')].map(cell => cell.textContent)")


COLUMN = (
    "return [...document.querySelectorAll('#class-table tbody tr:not([hidden])')]"
    ".map(row => row.cells[arguments[0]].textContent)"
)


def test_a_click_sorts_the_table_and_a_second_click_reverses_it(browser, page):
    browser.open(page)
    click = "document.querySelectorAll('#class-table thead button')[arguments[0]].click()"
    for expected in (lambda v: sorted(v, reverse=True), sorted):  # numbers start with the largest
        browser.run(click, 1)
        trained = [int(text) for text in browser.run(COLUMN, 1)]
        assert trained == expected(trained)
    browser.run(click, 0)
    names = [name for name in browser.run(COLUMN, 0) if name.startswith("class")]
    assert names == [f"class {i}" for i in range(14)]  # 2 before 10
    assert browser.run("return [...document.querySelectorAll('#class-table [aria-sort]')].map(h => h.ariaSort)") == [
        "ascending"
    ]


def test_undefined_values_stay_last_in_both_orders(browser, tmp_path):
    small_run(tmp_path, "abc")
    write_predictions(tmp_path, [("1", "a", "a", 0.9), ("2", "a", "c", 0.9), ("3", "c", "c", 0.9)])  # b has no image
    browser.open(write_report(load(tmp_path)))
    for _ in range(2):
        browser.run("document.querySelectorAll('#class-table thead button')[4].click()")
        assert browser.run(COLUMN, 4)[-1] == "–"


def test_the_filter_shows_matching_rows_of_the_table(browser, page):
    browser.open(page)
    browser.type("#class-filter", "CLASS 1")
    assert sorted(browser.run(COLUMN, 0)) == sorted(["class 1", "class 10", "class 11", "class 12", "class 13"])
    assert browser.run("return document.getElementById('class-count').textContent") == "5 of 20"


SHOWN = "return [...document.querySelectorAll('#matrix .row:not([hidden])')].map(label => label.dataset.name)"


def test_the_matrix_filter_shows_a_class_and_the_classes_it_is_confused_with(browser, page):
    browser.open(page)
    assert len(browser.run(SHOWN)) == 20
    browser.type("#matrix-filter", "class 4")
    predicted = list(csv.DictReader((page.parent / "valid_predictions.csv").open(encoding="utf-8")))
    partners = {
        name
        for row in predicted
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
def test_the_matrix_filter_matches_labels_and_predictions(browser, tmp_path, typed, shown):
    small_run(tmp_path, "abc")
    write_predictions(tmp_path, [("1", "a", "b", 0.9), ("2", "b", "b", 0.9), ("3", "c", "c", 0.9)])
    browser.open(write_report(load(tmp_path)))
    browser.type("#matrix-filter", typed)
    assert set(browser.run(SHOWN)) == shown
    assert browser.console() == []


def test_the_slider_resizes_the_matrix(browser, page):
    browser.open(page)
    browser.run("const s = document.getElementById('matrix-size'); s.value = 40; s.dispatchEvent(new Event('input'))")
    assert browser.run("return document.querySelector('#matrix .d').getAttribute('width')") == "40"


def test_arrow_keys_move_through_the_matrix(browser, page):
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


def test_a_right_to_left_name_does_not_reorder_the_text_around_it(browser, tmp_path):
    small_run(tmp_path, ["\u202eltr", "\u05db\u05dc\u05d1"])
    write_predictions(tmp_path, [("1", "\u202eltr", "\u05db\u05dc\u05d1", 0.9)])
    browser.open(write_report(load(tmp_path)))
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


def test_no_name_beside_the_matrix_is_cut_off(browser, tmp_path):
    small_run(tmp_path, ["W" * 30, "日本語" * 10, "l" * 30, "m"])
    browser.open(write_report(load(tmp_path)))
    left = "return Math.min(...[...document.querySelectorAll('#matrix .row')].map(label => label.getBBox().x))"
    top = (
        "return Math.min(...[...document.querySelectorAll('#matrix .column')].map(l => l.getBoundingClientRect().top))"
    )
    assert browser.run(left) >= 0
    assert browser.run(top) >= browser.run("return document.getElementById('matrix').getBoundingClientRect().top")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_switch_shows_heatmaps_over_what_the_network_sees_of_each_photo(browser, page, width):
    browser.open(page, width)
    shown = (
        "return [...document.querySelectorAll(arguments[0] + ' .heat')].filter(each => each.checkVisibility()).length"
    )
    pairs, mistakes = "section:has(#pairs)", "section:has(#mistakes)"
    assert browser.run(shown, pairs) > 0
    assert browser.run(shown, mistakes) == 0
    for section in (pairs, mistakes):
        browser.run("document.querySelector(arguments[0] + ' .switch input').click()", section)
    assert browser.run(shown, pairs) == 0
    photos = "return [...document.querySelectorAll('#mistakes ~ * .shot')].filter(e => e.checkVisibility()).length"
    assert browser.run(shown, mistakes) == browser.run(photos) > 0
    box = (
        "const b = document.querySelector('#mistakes ~ * ' + arguments[0]).getBoundingClientRect();"
        "return [b.x, b.y, b.width, b.height]"
    )
    x, y, side, height = browser.run(box, ".shot")
    assert side == pytest.approx(height, abs=0.1)
    edge = side * (256 - 224) / 256 / 2  # the shorter side is resized to 256 pixels, of which 224 are cropped
    expected = [x + edge, y + edge, side - 2 * edge, side - 2 * edge]
    assert browser.run(box, ".heat") == pytest.approx(expected, abs=0.2)


def test_a_narrow_screen_shows_three_photos_side_by_side(browser, page):
    browser.open(page, 390)
    columns = "return getComputedStyle(document.querySelector('.gallery')).gridTemplateColumns.split(' ').length"
    assert browser.run(columns) == 3


def test_a_narrow_screen_shows_the_first_photos_of_a_list_and_all_when_asked(browser, page):
    shown = (
        "return [...document.querySelectorAll('section:has(#' + arguments[0] + ') ' + arguments[1])]"
        ".filter(each => each.checkVisibility()).length"
    )
    click = "document.querySelector('section:has(#' + arguments[0] + ') .more input').click()"
    for section, kind, few in (("uncertain", ".photo", 9), ("pairs", ".pair", 3)):
        browser.open(page, 1280)
        every = browser.run(shown, section, kind)
        assert every > few
        assert browser.run(shown, section, ".more") == 0
        browser.open(page, 390)
        assert browser.run(shown, section, kind) == few
        browser.run(click, section)
        assert browser.run(shown, section, kind) == every


def test_a_table_that_is_cut_has_a_shade_at_its_edge(browser, page):
    browser.open(page, 390)
    height = browser.run("return document.documentElement.scrollHeight")
    browser.devtools("Emulation.setDeviceMetricsOverride", width=390, height=height, deviceScaleFactor=1, mobile=True)
    assert browser.run("const box = document.querySelector('.scroll'); return box.scrollWidth > box.clientWidth")
    names = "return document.querySelector('#class-table tbody th').getBoundingClientRect().width"
    assert browser.run(names) < 390 / 2  # though one of the names is as long as a screen
    row = "return document.querySelector('#class-table tbody tr').getBoundingClientRect()"
    y = int(browser.run(f"{row}.y")) + 4
    width = browser.run("return document.querySelector('.scroll').clientWidth")
    x = int(browser.run("return document.querySelector('.scroll').getBoundingClientRect().x")) + width - 2
    assert browser.screenshot()[y, x].max() < 235  # the page's white without a shade
    browser.run("document.querySelector('.scroll').scrollLeft = 9999")
    assert browser.screenshot()[y, x].min() > 250


def test_without_scripts_the_page_shows_all_but_its_controls(browser, page):
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


def test_every_image_and_plot_has_a_text(browser, page):
    browser.open(page)
    assert browser.run("return [...document.images].every(image => image.alt)")
    assert browser.run("return [...document.querySelectorAll('svg')].every(s => s.closest('[aria-label]'))")
    assert browser.run(
        "const ids = [...document.querySelectorAll('[id]')].map(e => e.id); return ids.length === new Set(ids).size"
    )
