"""A study's runs read as arrays, and its tables against numbers from scipy and numpy."""

import itertools

import numpy as np
import pytest
from run_folders import first_right, make_study_runs
from scipy.stats import binomtest

from toolkit.evaluation.comparisons import epochs_to, frequency_thirds, pairs, recall_by_frequency, variants
from toolkit.evaluation.statistics import mcnemar_by_majority, mcnemar_exact, wilson_interval
from toolkit.evaluation.study import read_study

# Runs


def test_runs_on_different_photos_are_not_compared(tmp_path):
    one = make_study_runs(tmp_path / "one", {"a": first_right(80, 100)})
    for other in (
        make_study_runs(tmp_path / "two", {"b": first_right(80, 100)}, fingerprint="1" * 64),
        make_study_runs(tmp_path / "three", {"b": first_right(80, 99)}),
    ):
        with pytest.raises(ValueError, match="are runs on different photos and can't be compared: give another --out"):
            read_study(one | other)


def test_a_run_of_an_older_version_which_counted_test_photos_is_compared(tmp_path):
    old = make_study_runs(tmp_path / "old", {"a": first_right(80, 100)}, fingerprint="1" * 64)
    new = make_study_runs(tmp_path / "new", {"b": first_right(80, 100)}, fingerprint="2" * 64)
    new["b"][0].recipe["data"]["fingerprint_with_test"] = "1" * 64
    assert read_study(old | new).images == 100


def test_seeds_may_split_the_data_their_own_way(tmp_path):
    correct = {
        "a": np.stack([first_right(80, 99), first_right(90, 99)]),
        "b": np.stack([first_right(60, 99), first_right(70, 99)]),
    }
    found = read_study(make_study_runs(tmp_path, correct, shift=33))
    assert found.images == 132
    assert np.isnan(found.correct[:, 0, 99:]).all()
    assert np.isnan(found.correct[:, 1, :33]).all()
    assert found.accuracy == pytest.approx(np.array([[80, 90], [60, 70]]) / 99)
    (row,) = pairs(found)
    assert row["difference"] == pytest.approx(20 / 99)
    assert (row["only_a"], row["only_b"]) == (40, 0)  # images 60 to 80 with one seed, 33 + 70 to 33 + 90 with the other


def test_an_unfinished_run_is_not_compared(tmp_path):
    runs = make_study_runs(tmp_path, {"a": first_right(80, 100)})
    runs["a"][0].path("valid_predictions.csv").unlink()
    with pytest.raises(ValueError, match="a-0 has no valid_predictions.csv: let the run end"):
        read_study(runs)


@pytest.mark.parametrize("rows", [0, 1, None])
def test_a_run_with_a_damaged_history_is_refused_with_the_remedy(tmp_path, rows):
    runs = make_study_runs(tmp_path, {"a": first_right(80, 100), "b": first_right(70, 100)})
    history = runs["b"][0].path("history.csv")
    header, *_ = history.read_text().splitlines()
    history.write_text("\n".join([header, *["1,2.0,2.0,nan,0.001,7.5"] * (rows or 0)]) + "\n")
    if rows is None:
        history.unlink()
    with pytest.raises(ValueError, match=r"history.csv has no accuracy of any epoch: delete metrics.json beside it"):
        read_study(runs)


def test_truncated_predictions_are_refused_with_the_remedy(tmp_path):
    runs = make_study_runs(tmp_path, {"a": first_right(80, 100), "b": first_right(70, 100)})
    predictions = runs["b"][0].path("valid_predictions.csv")
    predictions.write_text("".join(predictions.read_text().splitlines(keepends=True)[:41]))
    with pytest.raises(ValueError, match="valid_predictions.csv has 40 of 100 photos: delete it"):
        read_study(runs)


# Tables


def test_thirds_of_the_classes_keep_equal_counts_together():
    assert frequency_thirds(np.array([5, 50, 500])).tolist() == [0, 1, 2]
    assert frequency_thirds(np.array([7, 7, 7, 7])).tolist() == [1, 1, 1, 1]
    assert frequency_thirds(np.arange(20)[::-1]).tolist() == [2] * 7 + [1] * 6 + [0] * 7
    counts = np.random.default_rng(0).integers(1, 6, 40)
    group = frequency_thirds(counts)
    for a, b in itertools.combinations(range(40), 2):
        assert (counts[a] < counts[b]) <= (group[a] <= group[b])
        assert (counts[a] == counts[b]) <= (group[a] == group[b])


def test_epochs_are_counted_up_to_the_first_that_reaches_the_share():
    history = {"epoch": np.arange(1.0, 6), "accuracy": np.array([0.5, 0.71, 0.73, 0.8, 0.8])}
    assert epochs_to(history, 0.9) == 3  # 0.72
    assert epochs_to(history, 1.0) == 4


def test_both_p_values_are_corrected_for_the_number_of_pairs(tmp_path):
    correct = {"a": first_right(250, 300), "b": first_right(262, 300), "c": first_right(290, 300)}
    for seeds in (1, 3):
        several = {name: np.stack([np.roll(right, seed) for seed in range(seeds)]) for name, right in correct.items()}
        rows = pairs(read_study(make_study_runs(tmp_path / str(seeds), several)))
        for p, corrected in (("mcnemar_p", "mcnemar_holm"), ("p", "p_holm")):
            assert min(row[corrected] for row in rows) == pytest.approx(min(1, 3 * min(row[p] for row in rows)))
    assert rows[0]["mcnemar_p"] == pytest.approx(binomtest(0, 14).pvalue)  # 12, and two more from the rolled seeds


def test_the_figures_of_a_variant_are_means_over_seeds(tmp_path):
    found = read_study(make_study_runs(tmp_path, {"a": np.stack([first_right(80, 100), first_right(90, 100)])}))
    (row,) = variants(found)
    assert row["accuracy"] == pytest.approx(0.85)
    assert row["sd"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert (row["low"], row["high"]) == wilson_interval(85, 100)
    assert row["best_epoch"] == 5.5  # write_history's accuracy rises up to the last of 5 and of 6 epochs
    assert row["seconds"] == pytest.approx(7.5 * 5.5)


@pytest.mark.parametrize(("a", "b"), [(274, 272), (274, 271), (272, 271)])
def test_the_homeworks_accuracies_do_not_differ_significantly_for_any_overlap_of_mistakes(a, b):
    for both in range(a + b - 300, b + 1):  # images that both have right
        correct_a = np.arange(300) < a
        correct_b = np.concatenate([np.arange(a) < both, np.arange(300 - a) < b - both])
        assert (correct_a.sum(), correct_b.sum()) == (a, b)
        assert mcnemar_exact(correct_a, correct_b)[2] > 0.2
        assert mcnemar_by_majority(correct_a[None] * 1.0, correct_b[None] * 1.0)[2] > 0.2


def test_recall_is_that_of_each_third_of_the_classes(tmp_path):
    labels = np.arange(300) % 3
    a, b = labels != 0, (labels != 0) | (np.arange(300) < 150)  # none and half of class a, the rare one, are right
    found = read_study(make_study_runs(tmp_path, {"a": a, "b": b}, counts={"a": 5, "b": 50, "c": 500}))
    rare, middle, frequent = recall_by_frequency(found)
    assert (rare["name"], rare["classes"], rare["images"], rare["most"]) == ("rare", 1, 100, 5)
    assert [recall["recall"] for recall in rare["recalls"]] == [0, 0.5]
    assert rare["recalls"][1]["interval"] == pytest.approx((0.4, 0.6), abs=0.02)
    assert [recall["recall"] for recall in middle["recalls"] + frequent["recalls"]] == [1] * 4
