"""The statistics of a study against figures from elsewhere, and its words and page on runs made up for the purpose."""

import csv
import itertools
import re

import numpy as np
import pytest
from run_folders import recipe as recipe_of
from run_folders import write_history, write_predictions
from scipy.stats import binomtest

from toolkit.evaluation import metrics, paired, study
from toolkit.files import write_json
from toolkit.pages import study_page, study_text
from toolkit.run import load

# Statistics


def test_thirds_of_the_classes_keep_equal_counts_together():
    assert study.thirds(np.array([5, 50, 500])).tolist() == [0, 1, 2]
    assert study.thirds(np.array([7, 7, 7, 7])).tolist() == [1, 1, 1, 1]
    assert study.thirds(np.arange(20)[::-1]).tolist() == [2] * 7 + [1] * 6 + [0] * 7
    counts = np.random.default_rng(0).integers(1, 6, 40)
    group = study.thirds(counts)
    for a, b in itertools.combinations(range(40), 2):
        assert (counts[a] < counts[b]) <= (group[a] <= group[b])
        assert (counts[a] == counts[b]) <= (group[a] == group[b])


def test_epochs_are_counted_to_the_first_that_reaches_the_share():
    history = {"epoch": np.arange(1.0, 6), "accuracy": np.array([0.5, 0.71, 0.73, 0.8, 0.8])}
    assert study.epochs_to(history, 0.9) == 3  # 0.72
    assert study.epochs_to(history, 1.0) == 4


# Runs


def make_runs(folder, correct, counts=None, fingerprint="0" * 64, shift=0):
    """A run folder for each name and seed, of correct: {name: bool [seeds, images]}; three classes in turn.

    shift: how many of its photos the next seed has not.
    """
    runs = {}
    for name, of_seeds in correct.items():
        for seed, right in enumerate(np.atleast_2d(of_seeds)):
            run = folder / f"{re.sub(r'[^a-z]', '-', name)}-{seed}"
            recipe = recipe_of(list("abc"), folder, 5)
            recipe["options"] |= {"seed": seed, "loss": "ce"}
            recipe["data"] |= {"counts": counts or dict.fromkeys("abc", 9), "fingerprint": fingerprint}
            recipe["data"]["valid"] = len(right)
            write_json(run / "recipe.json", recipe)
            labels = np.arange(len(right)) % 3
            said = np.where(right, labels, (labels + 1) % 3)
            rows = [
                (f"{i + shift * seed}.png", "abc"[y], "abc"[p], 0.9)
                for i, (y, p) in enumerate(zip(labels, said, strict=True))
            ]
            write_predictions(run, rows)
            write_history(run, 5 + seed)
            runs.setdefault(name, []).append(load(run))
    return runs


def of(right, images):
    return np.arange(images) < right


def made(folder, correct, **options):
    "(study, pairs, text of the page, Markdown) of made-up runs."
    found = study.read_study(make_runs(folder, correct, **options))
    page = study_page.write_study(folder, found, ["python", "-m", "recipes.loss_study"])
    return (
        found,
        study.pairs(found),
        page.read_text(encoding="utf-8"),
        (folder / "study.md").read_text(encoding="utf-8"),
    )


@pytest.mark.parametrize(("a", "b"), [(274, 272), (274, 271), (272, 271)])
def test_the_homeworks_figures_cannot_be_told_apart_however_their_mistakes_fall(a, b):
    for both in range(a + b - 300, b + 1):  # images right with both
        correct_a = np.arange(300) < a
        correct_b = np.concatenate([np.arange(a) < both, np.arange(300 - a) < b - both])
        assert (correct_a.sum(), correct_b.sum()) == (a, b)
        assert paired.mcnemar_exact(correct_a, correct_b)[2] > 0.2
        assert paired.votes(correct_a[None] * 1.0, correct_b[None] * 1.0)[2] > 0.2


def test_the_verdict_on_the_homeworks_figures_says_so_and_what_it_would_take(tmp_path):
    losses = {"ce": of(274, 300), "focal": of(272, 300), "smoothing": np.roll(of(271, 300), 20)}
    found, compared, page, text = made(tmp_path, losses)
    said = study_text.verdict(found, compared)
    assert said[0] == "On 300 validation images and 1 seed, no two of ce, focal and smoothing can be told apart."
    assert re.search(
        r"ce and smoothing can’t be told apart: 1.0 points .* would take about [\d\u202f]+ validation images if the "
        r"difference is [\d.]+ points, [\d\u202f]+ if it is as seen, more if it is smaller",
        said[2],
    )
    assert said[-1].startswith("One seed")
    for sentence in said:
        assert sentence in page
        assert sentence in text
    assert [row["verdict"] for row in compared] == ["same"] * 3


@pytest.mark.parametrize(
    ("seeds", "verdict", "first", "second"),
    [
        (1, "suggests", "1 seed, the runs suggest that worse and better differ.", "The runs suggest that better is"),
        (4, "suggests", "4 seeds, the runs suggest that worse and better differ.", "The runs suggest that better is"),
        (5, "differ", "5 seeds, worse and better differ.", "better is better than worse, by 26.7 points (95 %"),
    ],
)
def test_fewer_than_five_seeds_suggest_a_clear_difference_that_five_show(tmp_path, seeds, verdict, first, second):
    correct = {"worse": np.stack([of(200, 300)] * seeds), "better": np.stack([of(280, 300)] * seeds)}
    found, compared, page, text = made(tmp_path, correct)
    said = study_text.verdict(found, compared)
    assert said[0] == f"On 300 validation images and {first}"
    assert said[1].startswith(second)
    assert compared[0]["difference"] == pytest.approx(-80 / 300)
    assert compared[0]["verdict"] == verdict
    for sentence in said:
        assert sentence in page
        assert sentence in text


def test_models_that_differ_but_turn_round_with_the_seed_are_sent_for_more_seeds(tmp_path):
    a = np.stack([of(290, 300), of(250, 300), of(250, 300)])
    b = np.stack([of(200, 300), of(270, 300), of(270, 300)])
    _, compared, page, _ = made(tmp_path, {"a": a, "b": b})
    assert compared[0]["mcnemar_holm"] < 0.05 < compared[0]["p_holm"]
    assert "More seeds would tell, rather than more images." in page


def test_of_one_seed_mcnemars_exact_test_decides_whatever_the_interval_says(tmp_path):
    found, compared, *_ = made(tmp_path, {"a": of(80, 100), "b": of(85, 100)})
    assert compared[0]["p_holm"] == pytest.approx(2 * 0.5**5)
    assert compared[0]["high"] < 0
    assert compared[0]["verdict"] == "same"
    assert "does not pass the test" in study_text.verdict(found, compared)[1]


def test_where_no_difference_was_seen_it_takes_more_than_so_many_images(tmp_path):
    correct = {"a": np.stack([of(90, 100)] * 3), "b": np.stack([np.roll(of(90, 100), 3 * s) for s in range(1, 4)])}
    found, compared, *_ = made(tmp_path, correct)
    assert compared[0]["difference"] == 0
    said = study_text.verdict(found, compared)[1]
    assert re.search("take about [0-9]+ validation images if .* [0-9.]+ points, more if it is smaller; none was", said)


def test_where_seeds_scatter_no_number_of_images_is_promised():
    row = {"difference": 0.01, "images_least": 700.0, "images_seen": float("inf")}
    assert study_text.effort(row, 0.05) == (
        "To tell would take about 700 validation images if the difference is 5.0 points; if it is as seen, no number "
        "of images would do on so few seeds: more seeds might."
    )
    assert "no number of images would tell" in study_text.effort(row | {"images_least": float("inf")}, 0.05)


def test_both_p_values_are_corrected_for_the_number_of_pairs(tmp_path):
    correct = {"a": of(250, 300), "b": of(262, 300), "c": of(290, 300)}
    for seeds in (1, 3):
        several = {name: np.stack([np.roll(right, seed) for seed in range(seeds)]) for name, right in correct.items()}
        rows = study.pairs(study.read_study(make_runs(tmp_path / str(seeds), several)))
        for p, corrected in (("mcnemar_p", "mcnemar_holm"), ("p", "p_holm")):
            assert min(row[corrected] for row in rows) == pytest.approx(min(1, 3 * min(row[p] for row in rows)))
    assert rows[0]["mcnemar_p"] == pytest.approx(binomtest(0, 14).pvalue)  # 12, and two more by the rolled seeds' votes


def test_figures_of_a_variant_are_means_over_seeds(tmp_path):
    found = study.read_study(make_runs(tmp_path, {"a": np.stack([of(80, 100), of(90, 100)])}))
    (row,) = study.variants(found)
    assert row["accuracy"] == pytest.approx(0.85)
    assert row["sd"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert (row["low"], row["high"]) == metrics.wilson_interval(85, 100)
    assert row["best_epoch"] == 5.5  # write_history's accuracy rises to the end, of 5 and of 6 epochs
    assert row["seconds"] == pytest.approx(7.5 * 5.5)


def test_recall_of_rare_classes_stands_apart(tmp_path):
    labels = np.arange(300) % 3
    a, b = labels != 0, (labels != 0) | (np.arange(300) < 150)  # none and half of class a, the rare one
    found = study.read_study(make_runs(tmp_path, {"a": a, "b": b}, counts={"a": 5, "b": 50, "c": 500}))
    rare, middle, frequent = study.rare(found)
    assert (rare["name"], rare["classes"], rare["images"], rare["most"]) == ("rare", 1, 100, 5)
    assert [one["recall"] for one in rare["recalls"]] == [0, 0.5]
    assert rare["recalls"][1]["interval"] == pytest.approx((0.4, 0.6), abs=0.02)
    assert [one["recall"] for one in middle["recalls"] + frequent["recalls"]] == [1] * 4
    assert "On the rare third, b is 50.0 points above a (95 % interval" in study_text.rare_words(
        found, study.rare(found)
    )


def test_classes_of_one_count_have_no_rare_ones(tmp_path):
    _, _, page, text = made(tmp_path, {"a": of(80, 100), "b": of(90, 100)})
    for said in (page, text):
        assert "All classes have equally many training images (9): none is rare." in said


def test_runs_on_other_photos_are_not_compared(tmp_path):
    one = make_runs(tmp_path / "one", {"a": of(80, 100)})
    for other in (
        make_runs(tmp_path / "two", {"b": of(80, 100)}, fingerprint="1" * 64),
        make_runs(tmp_path / "three", {"b": of(80, 99)}),
    ):
        with pytest.raises(ValueError, match="are runs on different photos and can't be compared: give another --out"):
            study.read_study(one | other)


def test_seeds_may_split_the_data_their_own_way(tmp_path):
    correct = {"a": np.stack([of(80, 99), of(90, 99)]), "b": np.stack([of(60, 99), of(70, 99)])}
    found = study.read_study(make_runs(tmp_path, correct, shift=33))
    assert found.images == 132
    assert np.isnan(found.correct[:, 0, 99:]).all()
    assert np.isnan(found.correct[:, 1, :33]).all()
    assert found.accuracy == pytest.approx(np.array([[80, 90], [60, 70]]) / 99)
    (row,) = study.pairs(found)
    assert row["difference"] == pytest.approx(20 / 99)
    assert (row["only_a"], row["only_b"]) == (40, 0)  # 60 to 80 with one seed, 33 + 70 to 33 + 90 with the other


def test_a_run_that_has_not_ended_is_not_compared(tmp_path):
    runs = make_runs(tmp_path, {"a": of(80, 100)})
    runs["a"][0].path("valid_predictions.csv").unlink()
    with pytest.raises(ValueError, match="a-0 has no valid_predictions.csv: let the run end"):
        study.read_study(runs)


@pytest.mark.parametrize("rows", [0, 1, None])
def test_a_run_whose_history_was_damaged_is_refused_with_the_remedy(tmp_path, rows):
    runs = make_runs(tmp_path, {"a": of(80, 100), "b": of(70, 100)})
    history = runs["b"][0].path("history.csv")
    header, *_ = history.read_text().splitlines()
    history.write_text("\n".join([header, *["1,2.0,2.0,nan,0.001,7.5"] * (rows or 0)]) + "\n")
    if rows is None:
        history.unlink()
    with pytest.raises(ValueError, match=r"history.csv has no accuracy of any epoch: delete metrics.json beside it"):
        study.read_study(runs)


def test_predictions_that_were_cut_off_are_refused_with_the_remedy(tmp_path):
    runs = make_runs(tmp_path, {"a": of(80, 100), "b": of(70, 100)})
    predictions = runs["b"][0].path("valid_predictions.csv")
    predictions.write_text("".join(predictions.read_text().splitlines(keepends=True)[:41]))
    with pytest.raises(ValueError, match="valid_predictions.csv has 40 of 100 photos: delete it"):
        study.read_study(runs)


# Words


def test_a_single_comparison_is_not_said_to_be_corrected(tmp_path):
    two, *_ = made(tmp_path / "two", {"a": of(80, 100), "b": of(70, 100)})
    three, *_ = made(tmp_path / "three", {"a": of(80, 100), "b": of(70, 100), "c": of(60, 100)})
    assert any("The p-values stand for a single comparison." in said for said in study_text.method(two))
    assert any("The p-values are corrected for 3 comparisons" in said for said in study_text.method(three))


# Files


NASTY = '<script>alert("1")</script> $\\frac{$ | `x`'


def test_tables_can_be_read_by_programs(tmp_path):
    counts = {"a": 5, "b": 50, "c": 500}
    correct = {NASTY: np.stack([of(80, 99), of(81, 99)]), "b": np.stack([of(90, 99)] * 2)}
    made(tmp_path, correct, counts=counts)
    rows = list(csv.DictReader((tmp_path / "study.csv").open(newline="")))
    assert [row["name"] for row in rows] == list(correct)
    assert float(rows[1]["accuracy"]) == pytest.approx(90 / 99)
    assert float(rows[1]["recall_rare"]) == pytest.approx(30 / 33)
    (pair,) = csv.DictReader((tmp_path / "study_pairs.csv").open(newline=""))
    assert (pair["a"], pair["b"], pair["only_a"], pair["only_b"]) == (NASTY, "b", "0", "10")
    assert len(pair["by_seed"].split()) == 2


def test_a_single_variant_gets_its_page_and_nothing_to_compare(tmp_path):
    _, compared, page, _ = made(tmp_path, {"ce": of(80, 100)})
    assert compared == []
    assert "one variant, ce, so there is nothing to compare" in page


def test_page_is_self_contained_and_names_are_escaped(tmp_path):
    _, _, page, text = made(tmp_path, {NASTY: of(80, 100), "b": of(90, 100)})
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|[\w-]+/report\.html)""", page)
    assert "@import" not in page
    assert len(page) < 1_000_000
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows[:4]}) == 1


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_browser_shows_it_without_error_request_or_sideways_scrolling(browser, tmp_path, width, dark):
    counts = {"a": 5, "b": 50, "c": 500}
    names = [NASTY, *(f"focal, class_weights {kind}" for kind in ("none", "balanced", "effective"))]
    made(tmp_path, {name: np.stack([of(80 + i, 100)] * 2) for i, name in enumerate(names)}, counts=counts)
    page = tmp_path / "study.html"
    browser.open(page, width, dark)
    assert browser.console() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return [...document.querySelectorAll('svg')].every(s => s.closest('[role=img][aria-label]'))")
    assert browser.run("return document.querySelectorAll('svg').length") == 4
