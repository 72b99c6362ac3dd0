"""Confused classes and the photos to look at."""

import numpy as np
from run_folders import make_run, write_predictions

from toolkit.evaluation import mistakes
from toolkit.evaluation.results import read_predictions
from toolkit.run import load


def test_confused_classes_are_side_by_side():
    confusion = np.diag([9] * 6)
    for a, b in ((0, 3), (1, 5), (2, 4)):
        confusion[a, b] = confusion[b, a] = 4
    order = mistakes.similarity_order(confusion)
    assert sorted(order) == list(range(6))
    assert {frozenset(order[i : i + 2]) for i in (0, 2, 4)} == {frozenset(p) for p in ((0, 3), (1, 5), (2, 4))}


def test_confused_pairs_are_the_most_frequent_mistakes_first():
    confusion = np.array([[9, 2, 0], [5, 9, 1], [0, 0, 9]])
    pairs = mistakes.confused_pairs(confusion - np.diag(np.diag(confusion)), 10)
    assert pairs == [(1, 0), (0, 1), (1, 2)]


def test_galleries_hold_the_most_confident_mistakes_and_the_least_certain_images(tmp_path):
    make_run(tmp_path, list("abcd"))
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
