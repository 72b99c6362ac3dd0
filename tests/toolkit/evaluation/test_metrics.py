"""Every metric against scikit-learn or an example computed by hand."""

import subprocess
import sys

import numpy as np
import pytest
from overconfident import overconfident
from sklearn import metrics as sk

from toolkit.evaluation import metrics

# Accuracy


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_topk_accuracy_equals_scikit_learn(k):
    probabilities, labels = overconfident()
    if k < 7:
        assert metrics.topk_accuracy(probabilities, labels, k) == sk.top_k_accuracy_score(labels, probabilities, k=k)
    else:
        assert metrics.topk_accuracy(probabilities, labels, k) == 1


def test_top_1_of_equal_probabilities_is_that_of_argmax():
    probabilities, labels = np.full((6, 3), 1 / 3), np.array([0, 0, 1, 1, 2, 2])
    assert metrics.topk_accuracy(probabilities, labels, 1) == (probabilities.argmax(1) == labels).mean()


# Confusion matrix and classes


def test_confusion_matrix_equals_scikit_learn():
    probabilities, labels = overconfident()
    predictions = probabilities.argmax(1)
    assert (
        metrics.confusion_matrix(labels, predictions, 9) == sk.confusion_matrix(labels, predictions, labels=range(9))
    ).all()


def test_the_confusion_matrix_of_no_images_is_zero():
    assert metrics.confusion_matrix(np.array([]), np.array([]), 3).tolist() == [[0] * 3] * 3


def test_the_confusion_matrix_of_small_dtypes_does_not_overflow():
    labels = np.full(5, 99, np.uint8)
    assert metrics.confusion_matrix(labels, labels, 100)[99, 99] == 5


def test_the_confusion_matrix_takes_less_memory_than_classes_by_images():
    tracker = "import tracemalloc, numpy as np; from toolkit.evaluation.metrics import confusion_matrix as c; "
    tracker += (
        "y = np.zeros(200_000, np.int64); tracemalloc.start(); c(y, y, 200); print(tracemalloc.get_traced_memory()[1])"
    )
    peak = int(subprocess.run([sys.executable, "-c", tracker], capture_output=True, text=True, check=True).stdout)
    assert peak < 20e6  # classes x images booleans take 40 MB, classes^2 x images 8 GB


def test_per_class_metrics_equal_scikit_learn_if_they_are_defined():
    probabilities, labels = overconfident()
    predictions = probabilities.argmax(1)
    predictions[predictions == 2] = 3  # class 2 is never predicted
    labels, predictions = labels[labels != 5], predictions[labels != 5]  # class 5 has no image
    ours = metrics.per_class(metrics.confusion_matrix(labels, predictions, 8))  # class 7 has neither
    theirs = sk.precision_recall_fscore_support(labels, predictions, labels=range(8), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        np.testing.assert_allclose(np.nan_to_num(ours[name]), values, atol=1e-15)
    assert np.isnan(ours["precision"][[2, 7]]).all()
    assert np.isnan(ours["recall"][[5, 7]]).all()
    assert np.flatnonzero(np.isnan(ours["f1"])).tolist() == [7]


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_mean_f1_equals_scikit_learn_even_with_absent_classes(average):
    probabilities, labels = overconfident()
    predictions = np.where(probabilities.argmax(1) == 2, 3, probabilities.argmax(1))
    keep = labels != 5
    confusion = metrics.confusion_matrix(labels[keep], predictions[keep], 8)
    ours = {"macro": metrics.macro_f1, "weighted": metrics.weighted_f1}[average](confusion)
    assert ours == pytest.approx(
        sk.f1_score(labels[keep], predictions[keep], average=average, zero_division=0), abs=1e-15
    )


def test_balanced_accuracy_equals_scikit_learn():
    probabilities, labels = overconfident()
    labels, probabilities = labels[labels < 6], probabilities[labels < 6]
    predictions = np.minimum(probabilities.argmax(1), 5)
    ours = metrics.balanced_accuracy(metrics.confusion_matrix(labels, predictions, 7))
    assert ours == pytest.approx(sk.balanced_accuracy_score(labels, predictions), abs=1e-15)


@pytest.mark.parametrize("figure", [metrics.macro_f1, metrics.weighted_f1, metrics.balanced_accuracy])
def test_means_over_classes_are_refused_without_images(figure):
    with pytest.raises(ValueError, match="is the validation set empty"):
        figure(np.zeros((3, 3), int))


# Probabilities


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_negative_log_likelihood_equals_scikit_learn(dtype):
    probabilities, labels = overconfident(dtype=dtype)
    exact = probabilities / probabilities.sum(1, keepdims=True, dtype=np.float64)
    expected = sk.log_loss(labels, exact, labels=range(7))
    assert metrics.negative_log_likelihood(probabilities, labels) == pytest.approx(expected, rel=1e-6)


def test_a_probability_of_0_for_the_label_gives_a_large_finite_loss():
    loss = metrics.negative_log_likelihood(np.array([[1, 0]], np.float32), np.array([1]))
    assert 80 < loss < 110


def test_brier_is_the_squared_distance_to_one_hot():
    probabilities, labels = overconfident()
    expected = ((probabilities - np.eye(7)[labels]) ** 2).sum(1).mean()
    assert metrics.brier(probabilities, labels) == pytest.approx(expected, rel=1e-12)
    assert metrics.brier(np.eye(3), np.array([1, 2, 0])) == 2


def test_a_half_precision_0_counts_as_the_smallest_half_precision_number():
    assert metrics.negative_log_likelihood(np.array([[1, 0]], np.float16), np.array([1])) == pytest.approx(
        24 * np.log(2)
    )


# Imports


@pytest.mark.parametrize("module", ["summary", "statistics", "comparisons", "mistakes"])
def test_metrics_and_statistics_import_neither_torch_nor_scipy_nor_scikit_learn(module):
    heavy = {"torch", "sklearn", "scipy", "matplotlib"}
    code = f"import sys, toolkit.evaluation.{module}; print({heavy} & {{*sys.modules}} or [])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
