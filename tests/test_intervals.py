"""Intervals against scikit-learn's figures on images that were drawn again one by one."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from toolkit import intervals, metrics


def test_the_interval_of_macro_f1_is_that_of_scikit_learns_on_images_drawn_again():
    draws = np.random.default_rng(1)
    labels = draws.choice(5, 200, p=[0.5, 0.3, 0.15, 0.03, 0.02])
    predictions = np.where(draws.random(200) < 0.7, labels, draws.integers(0, 5, 200))
    again = draws.integers(0, 200, (2000, 200))
    figures = [f1_score(labels[chosen], predictions[chosen], average="macro") for chosen in again]
    low, high = intervals.macro_f1_interval(confusion_matrix(labels, predictions, labels=range(6)))
    assert (low, high) == pytest.approx(tuple(np.quantile(figures, [0.025, 0.975])), abs=0.01)
    assert low < metrics.macro_f1(confusion_matrix(labels, predictions)) < high


@pytest.mark.parametrize("confusion", [np.diag([9, 9, 0]), np.array([[0, 4], [0, 0]])])
def test_where_all_is_right_or_all_wrong_no_certainty_is_told(confusion):
    assert intervals.macro_f1_interval(confusion) is None
