"""The text, tables and page of a study, made from run folders that are written by hand."""

import csv
import re

import numpy as np
import pytest
from run_folders import first_right, make_study_runs

from toolkit.evaluation.comparisons import pairs, recall_by_frequency
from toolkit.evaluation.study import read_study
from toolkit.pages.study_page import write_study
from toolkit.pages.study_tables import recall_table
from toolkit.pages.study_text import findings, images_sentence, method, recall_sentences


def written(folder, correct, **options):
    "(study, pairs, study.html, study.md) of made-up runs."
    found = read_study(make_study_runs(folder, correct, **options))
    page = write_study(folder, found, ["python", "-m", "recipes.loss_study"])
    return (
        found,
        pairs(found),
        page.read_text(encoding="utf-8"),
        (folder / "study.md").read_text(encoding="utf-8"),
    )


# Text


def test_the_homeworks_accuracies_do_not_differ_significantly_and_the_text_says_how_many_images_would_tell(tmp_path):
    losses = {
        "ce": first_right(274, 300),
        "focal": first_right(272, 300),
        "smoothing": np.roll(first_right(271, 300), 20),
    }
    found, compared, page, text = written(tmp_path, losses)
    sentences = findings(found, compared)
    assert (
        sentences[0] == "On 300 validation images and 1 seed, no two of ce, focal and smoothing differ significantly."
    )
    assert re.search(
        r"ce and smoothing do not differ significantly: the difference is 1.0 points .*, which is within chance; .* "
        r"A difference of [\d.]+ points, the largest in the interval, takes about [\d\u202f]+ validation images to "
        r"detect, the measured one about [\d\u202f]+; a smaller one takes more",
        sentences[2],
    )
    assert sentences[-1].startswith("One seed")
    for sentence in sentences:
        assert sentence in page
        assert sentence in text
    assert [row["verdict"] for row in compared] == ["same"] * 3


@pytest.mark.parametrize(
    ("seeds", "verdict", "first", "second"),
    [
        (1, "suggests", "1 seed, the runs suggest that worse and better differ.", "The runs suggest that better is"),
        (4, "suggests", "4 seeds, the runs suggest that worse and better differ.", "The runs suggest that better is"),
        (5, "differ", "5 seeds, worse and better differ significantly.", "better is better than worse by 26.7 points "),
    ],
)
def test_fewer_than_five_seeds_suggest_a_clear_difference_that_five_show(tmp_path, seeds, verdict, first, second):
    correct = {"worse": np.stack([first_right(200, 300)] * seeds), "better": np.stack([first_right(280, 300)] * seeds)}
    found, compared, page, text = written(tmp_path, correct)
    sentences = findings(found, compared)
    assert sentences[0] == f"On 300 validation images and {first}"
    assert sentences[1].startswith(second)
    assert compared[0]["difference"] == pytest.approx(-80 / 300)
    assert compared[0]["verdict"] == verdict
    for sentence in sentences:
        assert sentence in page
        assert sentence in text


def test_more_seeds_are_asked_for_if_the_sign_of_the_difference_depends_on_the_seed(tmp_path):
    a = np.stack([first_right(290, 300), first_right(250, 300), first_right(250, 300)])
    b = np.stack([first_right(200, 300), first_right(270, 300), first_right(270, 300)])
    _, compared, page, _ = written(tmp_path, {"a": a, "b": b})
    assert compared[0]["mcnemar_holm"] < 0.05 < compared[0]["p_holm"]
    assert "a and b do not differ significantly, but more seeds are needed." in page
    assert "More seeds would help, more images would not." in page


def test_a_third_with_one_class_and_one_image_has_a_heading_in_the_singular():
    third = {"name": "rare", "classes": 1, "fewest": 1, "most": 1, "recalls": []}
    assert recall_table([third, third | {"classes": 3, "most": 9}])[0] == [
        "",
        "rare: 1 class with 1 training image",
        "rare: 3 classes with 1 to 9 training images",
    ]


def test_with_one_seed_mcnemars_test_decides_even_if_the_interval_excludes_0(tmp_path):
    found, compared, *_ = written(tmp_path, {"a": first_right(80, 100), "b": first_right(85, 100)})
    assert compared[0]["p_holm"] == pytest.approx(2 * 0.5**5)
    assert compared[0]["high"] < 0
    assert compared[0]["verdict"] == "same"
    assert "which the test does not confirm" in findings(found, compared)[1]


def test_a_measured_difference_of_0_has_no_number_of_images(tmp_path):
    correct = {
        "a": np.stack([first_right(90, 100)] * 3),
        "b": np.stack([np.roll(first_right(90, 100), 3 * s) for s in range(1, 4)]),
    }
    found, compared, *_ = written(tmp_path, correct)
    assert compared[0]["difference"] == 0
    sentences = findings(found, compared)[1]
    assert re.search(
        r"takes about [0-9]+ validation images to detect; a smaller one takes more. The measured difference is 0\.$",
        sentences,
    )


def test_no_number_of_images_is_given_if_the_spread_over_seeds_hides_the_difference():
    row = {"difference": 0.01, "images_least": 700.0, "images_seen": float("inf")}
    assert images_sentence(row, 0.05) == (
        "A difference of 5.0 points, the largest in the interval, takes about 700 validation images to detect. For the "
        "measured one no number of images is enough with so few seeds; more seeds might be."
    )
    assert "no number of images is enough to detect it" in images_sentence(row | {"images_least": float("inf")}, 0.05)


def test_the_difference_on_rare_classes_is_a_sentence(tmp_path):
    labels = np.arange(300) % 3
    a, b = labels != 0, (labels != 0) | (np.arange(300) < 150)  # none and half of class a, the rare one, are right
    found = read_study(make_study_runs(tmp_path, {"a": a, "b": b}, counts={"a": 5, "b": 50, "c": 500}))
    assert recall_sentences(found, recall_by_frequency(found)).startswith(
        "Classes have 5 to 500 training images. On the rare third, b is 50.0 points above a (95 % interval"
    )


def test_no_class_is_rare_if_all_have_equally_many_images(tmp_path):
    _, _, page, text = written(tmp_path, {"a": first_right(80, 100), "b": first_right(90, 100)})
    for content in (page, text):
        assert "All classes have equally many training images (9), so none is rare." in content


def test_a_single_comparison_is_not_called_corrected(tmp_path):
    two, *_ = written(tmp_path / "two", {"a": first_right(80, 100), "b": first_right(70, 100)})
    three, *_ = written(
        tmp_path / "three", {"a": first_right(80, 100), "b": first_right(70, 100), "c": first_right(60, 100)}
    )
    assert any(
        "The p-values need no correction, because there is a single comparison." in sentence for sentence in method(two)
    )
    assert any("The p-values are corrected for 3 comparisons" in sentence for sentence in method(three))


# Files


NASTY = '<script>alert("1")</script> $\\frac{$ | `x`'


def test_the_csv_files_can_be_read_by_programs(tmp_path):
    counts = {"a": 5, "b": 50, "c": 500}
    correct = {NASTY: np.stack([first_right(80, 99), first_right(81, 99)]), "b": np.stack([first_right(90, 99)] * 2)}
    written(tmp_path, correct, counts=counts)
    rows = list(csv.DictReader((tmp_path / "study.csv").open(newline="")))
    assert [row["name"] for row in rows] == list(correct)
    assert float(rows[1]["accuracy"]) == pytest.approx(90 / 99)
    assert float(rows[1]["recall_rare"]) == pytest.approx(30 / 33)
    (pair,) = csv.DictReader((tmp_path / "study_pairs.csv").open(newline=""))
    assert (pair["a"], pair["b"], pair["only_a"], pair["only_b"]) == (NASTY, "b", "0", "10")
    assert len(pair["by_seed"].split()) == 2


def test_a_single_variant_has_a_page_without_pairs(tmp_path):
    _, compared, page, _ = written(tmp_path, {"ce": first_right(80, 100)})
    assert compared == []
    assert "one variant, ce, so there is nothing to compare" in page


def test_the_page_is_self_contained_and_names_are_escaped(tmp_path):
    _, _, page, text = written(tmp_path, {NASTY: first_right(80, 100), "b": first_right(90, 100)})
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|[\w-]+/report\.html)""", page)
    assert "@import" not in page
    assert len(page) < 1_000_000
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows[:4]}) == 1


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_browser_shows_the_page_without_errors_requests_or_sideways_scrolling(browser, tmp_path, width, dark):
    counts = {"a": 5, "b": 50, "c": 500}
    names = [NASTY, *(f"focal, class_weights {kind}" for kind in ("none", "balanced", "effective"))]
    written(tmp_path, {name: np.stack([first_right(80 + i, 100)] * 2) for i, name in enumerate(names)}, counts=counts)
    page = tmp_path / "study.html"
    browser.open(page, width, dark)
    assert browser.console() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return [...document.querySelectorAll('svg')].every(s => s.closest('[role=img][aria-label]'))")
    assert browser.run("return document.querySelectorAll('svg').length") == 4
